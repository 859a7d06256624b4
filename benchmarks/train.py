"""Training beside the classic two-branch Siamese loop, and beside the bare encoder: speed and memory, in tables.

Run `python -m benchmarks.train`. All loops have the same encoder, optimizer and precision, and take turns in one
process: on a CPU one core, by CPU time, so that other work on the machine does not count. It reads the shards and the
release that the pipeline made, and draws images where there are none.

- two branches: both images of each pair go through the encoder. On CUDA as many pairs a step as ours, 1,024; on a CPU
  32, as many images as ours embeds in such a step. They do not augment, which is in their favour.
- from JPEGs: a DataLoader decodes both with Pillow each time, from memory. On CUDA a worker a core; on a CPU none,
  because they would take the cores from the encoder.
- the bare encoder: forward, backward and optimizer on a batch that lies in memory, as do the regions of the lesions in
  it. On CUDA it and the parts of a step take one step's images, where ours prepares those of several steps at once.
- the run: as many drawn images as ISIC 2020 has, in a process of its own; on a CPU only some steps of it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.train_run import ISIC_IMAGES, draw_shards, make_trainer, report_run
from benchmarks.two_branches import PairsOf, TwoBranches, decoder, finish_step, read_jpegs
from isic_siamese.augment import N_DRAWS, augment
from isic_siamese.errors import run_command
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.params import Params
from isic_siamese.pooling import lesion_regions
from isic_siamese.release import TRAIN_ZIP
from isic_siamese.shards import Shards, read_shards
from isic_siamese.trainer import Trainer
from isic_siamese.training_data import TrainingData

PAIRS = 32  # of the two-branch loop on a CPU, a step
WARM_UP = 2  # steps of a turn before its clock starts
RIVAL_STEPS = 48  # a turn of the two-branch loop on CUDA, 0.3 s each: of 16 workers, three each

Loop = Callable[[], object]


def read_data(folder: Path, work: Path) -> TrainingData:
    """Return pairs over all images of `folder`, or over 512 drawn ones where it does not exist."""
    if folder.exists():
        index, shards = read_shards(folder)
        malignant = index["target"].to_numpy() == 1
    else:
        draw_shards(work, 512)
        shards, malignant = Shards(work), np.arange(512) % 8 == 0
    rows, section = np.arange(len(shards)), Params().section("pairs", PairsParams)
    pairs = draw_pairs(rows, malignant, section, np.random.default_rng(0), oversample=True)
    return TrainingData(shards, malignant, rows, rows, pairs)


def middle(run: Trainer) -> int:
    """Return the position of a step in which, where melanoma is rare, all melanomas are copies, as in most steps."""
    return len(run.steps) // 2


def pairs_per_step(run: Trainer) -> int:
    """Return how many pairs that step has."""
    return int(run.data.pairs.groupby("block").size().iloc[middle(run)])


def parts_of_a_step(run: Trainer) -> dict[str, Loop]:
    """Return what a step does beside the encoder, each by itself."""
    step = run.steps[middle(run)]
    images = run.images.take(step.rows)
    copies = images[run.n_plain(step) :]
    draws = torch.rand(len(copies), N_DRAWS)
    embeddings = torch.nn.functional.normalize(torch.randn(len(step.rows), run.params.embedding_dim)).to(run.device)
    embeddings.requires_grad_()
    return {
        "take the images": lambda: run.images.take(step.rows),
        "augment the copies": lambda: augment(copies, draws, run.recipe),
        "find the lesions": lambda: lesion_regions(copies if run.features is not None else images),
        "loss and its gradient": lambda: torch.autograd.grad(run.objective(embeddings, step), embeddings),
        "optimizer (in the bare encoder too)": lambda: run.optimizer.step(),
    }


def make_loops(run: Trainer) -> dict[str, Loop]:
    """Return ours and the bare encoder, by name."""
    images = run.images.take(run.steps[middle(run)].rows)
    regions = lesion_regions(images)

    def bare() -> None:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bfloat16):
            embeddings = run.encoder(images, regions)
        finish_step(run, embeddings.sum())

    steps = endless_steps(run)
    return {"ours": lambda: next(steps), "bare encoder": bare}


def make_rivals(run: Trainer, jpegs: list[bytes]) -> dict[str, TwoBranches]:
    """Return the two-branch loops, by name."""
    shards, pairs = run.data.shards, run.data.pairs[["left", "right", "same"]].to_numpy()
    sources = {
        "JPEGs": decoder(jpegs, shards.image_px),
        "our shards": lambda row: shards.images(np.array([row]))[0],
    }
    n = pairs_per_step(run) if run.device.type == "cuda" else PAIRS
    return {
        f"two branches from {name}, {n} pairs": TwoBranches(run, PairsOf(pairs, read), n)
        for name, read in sources.items()
    }


def endless_steps(run: Trainer) -> Iterator[Tensor]:
    """Take the same step for ever, as an epoch takes its steps: with the copies of several at once where that pays."""
    while True:
        yield from run.run_steps(0, [middle(run)] * run.ahead)


def timed(run: Trainer, loop: Loop, n_steps: int) -> float:
    """Return the seconds that a step takes, the mean of `n_steps`; on a CPU those of the one core that it has.

    Some steps before them are not counted: after another loop, memory has to be found for blocks of other sizes.
    """
    on_cuda = run.device.type == "cuda"
    wait: Loop = torch.cuda.synchronize if on_cuda else lambda: None
    clock = time.perf_counter if on_cuda else time.process_time
    for _ in range(WARM_UP):
        loop()
    wait()
    start = clock()
    for _ in range(n_steps):
        loop()
    wait()
    return (clock() - start) / n_steps


def measure(run: Trainer, rivals: dict[str, TwoBranches], rounds: int) -> dict[str, list[float]]:
    """Return the seconds a step of each loop, and of each part of ours, an entry a round."""
    loops, parts = make_loops(run), parts_of_a_step(run)
    n_steps = 3 * run.ahead  # wherever a turn begins, it prepares three times
    n_rival_steps = RIVAL_STEPS if run.device.type == "cuda" else 1
    run.encoder.train()
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first is not counted
        found = {}
        for name, loop in loops.items():
            found[name] = timed(run, loop, n_steps)
        for name, rival in rivals.items():
            with rival.turn():
                found[name] = timed(run, rival.step, n_rival_steps)
        for name, part in parts.items():
            found[name] = timed(run, part, n_steps)
        for name, value in found.items() if number else ():
            seconds[name].append(value)
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def speed_tables(run: Trainer, seconds: dict[str, list[float]]) -> list[str]:
    """Return the tables of speed as Markdown."""
    views, most = run.steps[middle(run)], pairs_per_step(run)
    n_images = len(views.rows)
    encoded = n_images if run.features is None else n_images - run.n_plain(views)
    lines = [f"A step of ours has {n_images} views, of which {encoded} go through the encoder.", ""]
    lines += ["| loop | pairs/s | views/s | ours, pairs/s |", "|---|---:|---:|---:|"]
    for name in (name for name in seconds if name == "ours" or name.startswith("two branches")):
        n_pairs = most if name == "ours" else int(name.split()[-2])
        second = statistics.median(seconds[name])
        images = n_images if name == "ours" else 2 * n_pairs
        faster = ratio(seconds, name, "ours") * most / n_pairs
        lines.append(f"| {name} | {n_pairs / second:,.0f} | {images / second:,.1f} | {faster:,.1f}x |")
    step = statistics.median(seconds["ours"])
    lines += ["", "| a step of ours | ms | share |", "|---|---:|---:|", f"| all | {1000 * step:,.1f} | 100% |"]
    for name in list(seconds)[1:]:
        if not name.startswith("two branches"):
            part = statistics.median(seconds[name])
            lines.append(f"| {name} | {1000 * part:,.1f} | {ratio(seconds, name, 'ours'):.1%} |")
    reached = ratio(seconds, "bare encoder", "ours")
    speeds = [n_images / statistics.median(seconds[name]) for name in ("ours", "bare encoder")]
    return [*lines, "", f"Ours: {speeds[0]:,.1f} views/s, {reached:.1%} of the bare encoder's {speeds[1]:,.1f}."]


def describe(run: Trainer) -> str:
    """Name the device and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")
    name = torch.cuda.get_device_name() if run.device.type == "cuda" else model
    arithmetic = "bfloat16" if run.bfloat16 else "float32"
    return (
        f"{name}, {os.cpu_count()} cores; {run.params.encoder}, {arithmetic}; "
        f"torch {torch.__version__}, timm {version('timm')}, Pillow {version('Pillow')}"
    )


def main() -> None:
    """Print what was measured, on what, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("data/shards/train"), help="folder of shards")
    parser.add_argument("--jpegs", type=Path, default=Path("data/raw") / TRAIN_ZIP, help="zip of JPEGs")
    parser.add_argument("--rounds", type=int, default=7, help="times that every loop takes its turn")
    parser.add_argument("--alone", action="store_true", help="without the two-branch loops, which take the longest")
    parser.add_argument("--images", type=int, default=ISIC_IMAGES, help="of the run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = make_trainer(read_data(options.shards, work))
        rivals, source = {}, ""
        if not options.alone:
            jpegs, of = read_jpegs(options.jpegs)
            rivals, source = make_rivals(run, jpegs), f"; JPEGs {of}"
        on_cuda = run.device.type == "cuda"
        if not on_cuda:
            torch.set_num_threads(1)
        seconds = measure(run, rivals, options.rounds)
        lines = [f"{describe(run)}; {options.rounds} rounds, medians{source}", "", *speed_tables(run, seconds)]
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.write("\n".join(["", *report_run(work, options.images, None if on_cuda else 4), ""]))


if __name__ == "__main__":
    run_command(main)
