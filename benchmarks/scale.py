"""A stand-in of the official release, 33,126 + 10,982 drawn images, through the stages: time and memory.

Run `python -m benchmarks.scale` for shards, split and pairs; `--epochs 1` for all stages, with as many epochs.
`--fraction 0.25` draws a quarter of it, to see that time grows linearly, and `--kills 2` kills `shards` twice in a
second run of it and compares the bytes. The images are 640x480 pixels of blurred noise; `benchmarks.decode` says what
real ones cost.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
from PIL import Image
from ruamel.yaml import YAML
from tqdm import tqdm

from isic_siamese import release
from isic_siamese.errors import run_command

ROOT = Path(__file__).parents[1]
LATER_STAGES = ("train", "evaluate", "controls", "predict")
TRAIN, TEST, PATIENTS, MELANOMAS, DUPLICATES = 33_126, 10_982, 2_056, 584, 425  # the counts of ISIC 2020
POLL_SECONDS = 0.2


class Run(NamedTuple):
    """What a stage took: wall time in seconds, and the resident memory in MB every `POLL_SECONDS`."""

    seconds: float
    memory: list[float]


def draw_jpeg(rng: np.random.Generator) -> bytes:
    """Draw blurred noise."""
    coarse = rng.integers(40, 220, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_release(raw: Path, fraction: float) -> tuple[int, int]:
    """Write the five files with `fraction` of the official counts; return how many training and test images."""
    raw.mkdir(parents=True)
    n_train, n_test, n_patients, n_melanomas, n_duplicates = (
        round(count * fraction) for count in (TRAIN, TEST, PATIENTS, MELANOMAS, DUPLICATES)
    )
    names = [f"ISIC_{number:07}" for number in range(n_train)]
    patients = [f"IP_{number % n_patients:07}" for number in range(n_train)]
    # Spread over the patients, and never on one of the duplicates at the end.
    melanoma = np.isin(np.arange(n_train), np.arange(n_melanomas) * (n_train // n_melanomas - 1))
    kind = np.where(melanoma, "malignant", "benign")
    blank = dict.fromkeys(("lesion_id", "sex", "age_approx", "anatom_site_general_challenge"), "")
    truth = pd.DataFrame({"image_name": names, "patient_id": patients, **blank, "diagnosis": "unknown"})
    truth = truth.assign(benign_malignant=kind, target=melanoma.astype(int))
    truth.to_csv(raw / release.TRUTH_CSV, index=False)
    second = names[-n_duplicates:]
    pd.DataFrame({"image_name_1": names[:n_duplicates], "image_name_2": second}).to_csv(
        raw / release.DUPLICATES_CSV, index=False
    )
    tests = [f"ISIC_{number:07}" for number in range(5_000_000, 5_000_000 + n_test)]
    blank = dict.fromkeys(("age_approx", "anatom_site_general", "sex"), "")
    pd.DataFrame({"image": tests, "patient": "IP_9999999", **blank}).to_csv(raw / release.TEST_CSV, index=False)
    rng = np.random.default_rng(0)
    for path, folder, members in (
        (release.TRAIN_ZIP, release.TRAIN_FOLDER, names),
        (release.TEST_ZIP, release.TEST_FOLDER, tests),
    ):
        with zipfile.ZipFile(raw / path, "w") as archive:
            for name in tqdm(members, path):
                archive.writestr(f"{folder}{name}.jpg", draw_jpeg(rng))
    return n_train, n_test


def run_stage(name: str, folder: Path, stop: Callable[[], bool] = lambda: False) -> Run:
    """Run the stage `name` in `folder`, watching its memory; kill it when `stop` says so."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    memory: list[float] = []
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", f"stages.{name}"], cwd=folder, env=environment) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            if stop():
                process.kill()
            try:
                memory.append(watched.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                break
            time.sleep(POLL_SECONDS)
        if process.wait() and not stop():
            raise SystemExit(f"the stage {name} failed")
    return Run(time.perf_counter() - start, memory)


def digest(folder: Path) -> str:
    """Return one SHA-256 over all files under `folder`, names and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def has_shards(folder: Path, n_shards: int) -> bool:
    """Whether a run of `shards` has finished as many as that."""
    return len(list(folder.glob("data/checkpoints/shards/*/[!.]*.npy"))) >= n_shards


def kill_and_compare(folder: Path, kills: int) -> str:
    """Run `shards` again from nothing, killed `kills` times on the way, and say whether its bytes are the same."""
    wanted = digest(folder / "data/shards")
    n_shards = len(list((folder / "data/shards").rglob("shard-*.npy")))
    shutil.rmtree(folder / "data/shards")
    for kill in range(1, kills + 1):
        run_stage("shards", folder, partial(has_shards, folder, n_shards * kill // (kills + 1)))
    run_stage("shards", folder)
    return "the same bytes" if digest(folder / "data/shards") == wanted else "OTHER BYTES"


def describe(name: str, run: Run, n_images: int) -> str:
    """Return a line of the table: wall time, images a second, and the peak memory of the first and last quarter."""
    quarter = max(1, len(run.memory) // 4)
    peaks = [f"{max(part):,.0f} MB" for part in (run.memory[:quarter], run.memory[-quarter:])]
    return f"| {name} | {n_images:,} | {run.seconds:.1f} s | {n_images / run.seconds:,.0f} | {peaks[0]} | {peaks[1]} |"


def measure(folder: Path, fraction: float, kills: int, epochs: int) -> Sequence[str]:
    """Draw the release in `folder`, run the stages, and return the lines of the table."""
    n_train, n_test = write_release(folder / "data/raw", fraction)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["train"]["epochs"] = epochs or params["train"]["epochs"]
    yaml.dump(params, folder / "params.yaml")
    lines = [
        "| stage | images | time | images/s | peak memory, first quarter | last quarter |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    n_kept = n_train - round(DUPLICATES * fraction)
    for name in ("shards", "split", "pairs", *(LATER_STAGES if epochs else ())):
        n_images = {"shards": n_kept + n_test, "predict": n_test}.get(name, n_kept)
        lines.append(describe(name, run_stage(name, folder), n_images))
    if kills:
        lines += ["", f"shards, killed {kills} times on the way: {kill_and_compare(folder, kills)}"]
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the official counts")
    parser.add_argument("--kills", type=int, default=0, help="times to kill shards in a second run of it")
    parser.add_argument("--epochs", type=int, default=0, help="to train for, and run the stages from there on; 0: none")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        lines = measure(Path(name), options.fraction, options.kills, options.epochs)
    sys.stdout.write("\n".join([f"{os.cpu_count()} cores, fraction {options.fraction}", "", *lines, ""]))


if __name__ == "__main__":
    run_command(main)
