import os
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import scipy
import sklearn
import timm
import torch

from isic_siamese import checkpoint
from isic_siamese.checkpoint import SECONDS_KEPT, WEIGHTS, Checkpoint, run_key


def test_a_run_has_another_name_with_other_facts_code_or_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    (tmp_path / "module.py").write_text("A = 1")
    keys = [run_key([b"a", b"b"]), run_key([b"a", b"c"])]
    for library in (torch, timm, np, scipy, sklearn):
        with monkeypatch.context() as patched:
            patched.setattr(library, "__version__", "0")
            keys.append(run_key([b"a", b"b"]))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "version", lambda package: {WEIGHTS: version(WEIGHTS) + ".1"}[package])
        keys.append(run_key([b"a", b"b"]))
    assert run_key([b"a", b"b"]) == keys[0]
    (tmp_path / "module.py").write_text("A = 2")
    keys.append(run_key([b"a", b"b"]))
    assert len(set(keys)) == len(keys) == 9


def test_a_state_that_was_just_saved_is_not_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_APART", 3600.0)
    state = Checkpoint(tmp_path / "runs", "a1")
    state._saved -= 3601
    assert state.due()
    state.save({"step": 1})
    assert not state.due() and Checkpoint(tmp_path / "runs", "a1").load() == {"step": 1}


def test_a_run_that_is_over_takes_its_own_state_with_it_and_those_that_nobody_went_on_with(tmp_path: Path) -> None:
    names = ("over", "killed", "forgotten")
    over, killed, forgotten = (Checkpoint(tmp_path / "runs", name) for name in names)
    for state, name in zip((over, killed, forgotten), names, strict=True):
        state.save({"name": name})
        (tmp_path / f"runs/.123.{name}.pt").write_bytes(b"half")  # as a kill leaves it
    for name, age in (("killed", 0.9), ("forgotten", 1.1)):
        for path in (tmp_path / "runs").glob(f"*{name}.pt"):
            then = time.time() - age * SECONDS_KEPT
            os.utime(path, (then, then))
    over.forget()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"killed.pt", ".123.killed.pt"}
    assert killed.load() == {"name": "killed"}
    for _ in range(2):
        killed.forget()
        assert not (tmp_path / "runs").exists()
