"""Which stages a change makes DVC run again: those that read what changed, and no others."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.checkout import Checkout

pytestmark = pytest.mark.xdist_group("pipeline")  # in one of the two processes, so that the pipeline runs once for them

# An edited file, and the stages that are stale then. What follows them runs again if what they write changes.
FILES = {
    "README.md": [],
    "docs/data.md": [],
    "tests/test_files.py": [],
    "src/isic_siamese/cli.py": [],
    "src/isic_siamese/review.py": [],
    "src/isic_siamese/lesions.py": ["download"],
    "src/isic_siamese/images.py": ["shards", "predict"],
    "src/isic_siamese/shard_writer.py": ["shards"],
    "stages/split.py": ["split"],
    "stages/train.py": ["train"],
    "src/isic_siamese/losses.py": ["train"],
    "src/isic_siamese/augment.py": ["train"],
    "src/isic_siamese/pairs.py": ["pairs", "train", "evaluate"],
    "src/isic_siamese/encoder.py": ["train", "evaluate", "controls", "predict"],
    "src/isic_siamese/figures.py": ["evaluate"],
    "src/isic_siamese/controls.py": ["controls"],
    "stages/predict.py": ["predict"],
}
PARAMS = {
    "release: demo": ["download", "evaluate"],
    "melanomas: 24": ["download"],
    "image_px: 32": ["shards", "train"],
    "seed: 2020": ["split", "pairs", "train", "evaluate", "controls"],
    "margin: 1.0": ["train"],
    "val: 0.15": ["split"],
    "views_per_block: 16": ["pairs"],
    "flip: 0.5": ["train"],
    "epochs: 2": ["train"],
    "neighbours: 5": ["evaluate", "controls"],
    "orientations: 8": ["evaluate", "controls"],
    "frozen_groups: 0": ["train"],
    "folds: 5": [],
    "- 0.6": [],
}


def stale(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that `dvc status` calls changed."""
    monkeypatch.chdir(checkout.folder)
    with Repo() as repo:
        return list(repo.status(targets=["dvc.yaml"]))


@pytest.mark.parametrize("name", FILES)
def test_an_edited_file_makes_its_readers_stale(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = checkout.folder / name
    before = path.read_bytes() if path.exists() else None
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((before or b"") + b"# edited\n")
        assert stale(checkout, monkeypatch) == FILES[name]
    finally:
        _restore(path, before)
    assert checkout.git("status", "--porcelain") == ""


def _restore(path: Path, before: bytes | None) -> None:
    if before is not None:
        path.write_bytes(before)
    else:
        path.unlink()
        if not list(path.parent.iterdir()):
            shutil.rmtree(path.parent)


@pytest.mark.parametrize("line", PARAMS)
def test_an_edited_parameter_makes_its_readers_stale(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    path = checkout.folder / "params.yaml"
    before = path.read_text()
    name, value = line.rsplit(" ", 1)
    other = "elsewhere" if value == "demo" else f"{float(value) + 1:g}"
    assert before.count(f"{line}\n") + before.count(f"{line} ") == 1
    try:
        path.write_text(before.replace(line, f"{name} {other}"))
        assert stale(checkout, monkeypatch) == PARAMS[line]
    finally:
        path.write_text(before)


def test_a_comment_in_the_parameters_makes_nothing_stale(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkout.folder / "params.yaml"
    before = path.read_text()
    try:
        path.write_text(f"# tried on Monday\n{before}")
        assert stale(checkout, monkeypatch) == []
    finally:
        path.write_text(before)


def test_an_edit_that_changes_no_bytes_of_a_stage_reruns_that_stage_alone(checkout: Checkout) -> None:
    path = checkout.folder / "stages/pairs.py"
    try:
        path.write_text(f"{path.read_text()}# a comment\n")
        assert checkout.ran("repro") == ["pairs"]
    finally:
        checkout.git("reset", "-q", "--hard")
    assert checkout.ran("repro") == []
    assert checkout.git("status", "--porcelain") == ""
