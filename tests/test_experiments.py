"""`docs/experiments-howto.md`, run command by command in a clone that has no release."""

import doctest
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.checkout import ENVIRONMENT, ROOT, Checkout, Experiment, Repository

pytestmark = pytest.mark.xdist_group("pipeline")  # in one of the two processes, so that the pipeline runs once for them

HOWTO = ROOT / "docs/experiments-howto.md"


def commands(text: str) -> list[tuple[str, str]]:
    """Each command of the `console` blocks of a document, with the output shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    parts = [part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output) for command, _, output in parts]


def run(command: str, folder: Path) -> str:
    """Run `command` in a shell, wait for what it started in the background, and return its standard output."""
    # MAKELEVEL: within 'make test' a make would tell which folder it enters.
    environment = os.environ | ENVIRONMENT | {"MPLBACKEND": "agg", "MAKELEVEL": "0", "MAKEFLAGS": ""}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    if command == "dvc queue start":
        while re.search(r"Running|Queued", run("dvc queue status", folder)):
            time.sleep(5)  # each look costs a second of processor time, which the experiments need
    return done.stdout


def test_restoring_goes_back_to_what_is_committed_after_a_run_and_after_one_that_failed(
    checkout: Checkout, wider: Experiment, tmp_path: Path
) -> None:
    clone = checkout.clone(tmp_path / "clone")
    checkout.lend_cache(clone)
    clone.dvc("checkout")
    committed = clone.git("ls-files", "params.yaml", "dvc.lock", "metrics").splitlines()
    new = [clone.folder / name for name in ("stages/dvc.lock", "metrics/crossvalidate.json")]
    for change in (
        "dvc exp run --allow-missing -S margin=2.0 && ! dvc exp run --allow-missing -S split.train=5",
        "sed -i 's/^margin: .*/margin: 2.0/' params.yaml && dvc repro --allow-missing",  # which stages dvc.lock
    ):
        run(change, clone.folder)
        assert json.loads((clone.folder / "data/models/model.json").read_text())["margin"] == 2.0
        assert clone.hashes() == wider.hashes
        for path in new:  # as a cross-validation leaves them
            path.write_text("{}")
        clone.git("add", "stages/dvc.lock")
        run("make restore", clone.folder)
        for name in committed:
            assert (clone.folder / name).read_text("latin-1") == (checkout.folder / name).read_text("latin-1"), name
        assert json.loads((clone.folder / "data/models/model.json").read_text())["margin"] == 1.0
        assert clone.git("status", "--short") == "" and not any(path.exists() for path in new)


def test_the_walk_through_does_what_it_shows_to_the_same_bytes_and_never_touches_the_release(
    checkout: Checkout, wider: Experiment, tmp_path: Path
) -> None:
    _, keeper = checkout.publish(tmp_path)
    keeper.dvc("checkout")
    folder = keeper.folder
    checker = doctest.OutputChecker()
    shown = commands(HOWTO.read_text(encoding="utf-8"))
    assert len(shown) > 20
    for command, wanted in shown:
        command = command.replace("https://example.org", str(tmp_path)).replace("/shared", str(tmp_path / "shared"))
        if command.startswith("git clone"):
            folder = tmp_path
        if command.startswith("cd "):
            folder = tmp_path / command.removeprefix("cd ")
            continue
        got = run(command, folder)
        same = checker.check_output(wanted, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"$ {command}\nthe document:\n{wanted}\nreally:\n{got}"
        assert not list(tmp_path.rglob("data/raw/*.zip"))
    assert Repository(folder).hashes() == wider.hashes  # of a queue, in a clone that trained anew
    raw = {md5 for path, md5 in checkout.hashes().items() if path.startswith("data/raw")}
    assert raw and not raw & {path.parent.name + path.name for path in (tmp_path / "shared").rglob("*")}
