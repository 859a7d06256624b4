"""A run on as many drawn images as ISIC 2020 has, in a process of its own: `benchmarks/train.py` reports it."""

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from isic_siamese.augment import AugmentParams
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.params import Params
from isic_siamese.shards import Shards
from isic_siamese.trainer import Trainer
from isic_siamese.training import train
from isic_siamese.training_data import TrainingData, TrainParams

ISIC_IMAGES, ISIC_BENIGN, BENIGN_PER_MELANOMA = 32_701, 23_000, 56  # without duplicates; of them in training
FEW_IMAGES = 1024  # beside which it shows what memory the images take


def draw_shards(folder: Path, n_images: int) -> None:
    """Write shards of noise."""
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, n_images, 1024)):
        n = min(1024, n_images - start)
        np.save(folder / f"shard-{number:05}.npy", rng.integers(0, 256, (n, 128, 128, 3), dtype=np.uint8))


def make_trainer(data: TrainingData, **changed: object) -> Trainer:
    """Return a trainer with the parameters of `params.yaml`."""
    params = Params()
    section = params.section("train", TrainParams).model_copy(update=changed)
    return Trainer(data, section, params.section("augment", AugmentParams), params.common.margin, 0)


def run_as_isic(folder: Path, n_steps: int | None) -> dict[str, Any]:
    """Train on the images of `folder`, all epochs or `n_steps` steps; return each epoch's seconds and the memory."""
    start = time.perf_counter()
    shards, section = Shards(folder), Params().section("pairs", PairsParams)
    malignant = np.arange(len(shards)) % (BENIGN_PER_MELANOMA + 1) == 0
    n_train = min(3 * len(shards) // 4, ISIC_BENIGN + ISIC_BENIGN // BENIGN_PER_MELANOMA + 1)
    rows, val = np.arange(n_train), np.arange(n_train, len(shards))[: n_train // 4]
    pairs = draw_pairs(rows, malignant[rows], section, np.random.default_rng(0), oversample=True)
    changed: dict[str, object] = {}
    if n_steps is not None:
        pairs, changed = pairs[pairs["block"] < n_steps], {"epochs": 1}
    run = make_trainer(TrainingData(shards, malignant, rows, val, pairs), **changed)
    built = time.perf_counter()
    ends = [built]
    train(run, folder / "checkpoints", lambda _: ends.append(time.perf_counter()))
    return {
        "epochs": np.diff(ends).tolist(),
        "total": time.perf_counter() - start,
        "images": run.images_per_epoch,
        "peak": peak_bytes(),
    }


def peak_bytes() -> int:
    """Return the most memory that this process has held, bytes; on Linux alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run_apart(work: Path, n_images: int, n_steps: int | None) -> dict[str, Any]:
    """Return what `run_as_isic` returns in a new process."""
    draw_shards(work, n_images)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(run_as_isic, work, n_steps).result()
    for path in work.glob("*.npy"):
        path.unlink()
    return found


def report_run(work: Path, n_images: int, n_steps: int | None) -> list[str]:
    """Run `run_as_isic` on few images and on `n_images`, and say what it took."""
    few, found = (run_apart(work, n, n_steps) for n in (FEW_IMAGES, n_images))
    size = 3 * 128**2 * n_images
    what = f"{len(found['epochs'])} epochs of" if n_steps is None else f"{n_steps} steps,"
    lines = [
        f"A run on {n_images:,} drawn images, {what} {found['images']:,} views, {found['total']:,.1f} s in all; "
        f"an epoch with validation {statistics.median(found['epochs']):,.1f} s.",
        "",
        f"| peak host memory, MB | of the shards' {size / 1e6:,.0f} MB | with {FEW_IMAGES:,} images, MB |",
        "|---:|---:|---:|",
    ]
    lines.append(f"| {found['peak'] / 1e6:,.0f} | {found['peak'] / size:.2f}x | {few['peak'] / 1e6:,.0f} |")
    return lines
