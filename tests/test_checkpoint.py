from pathlib import Path

import numpy as np
import pytest
import scipy
import sklearn
import timm
import torch

from isic_siamese import checkpoint
from isic_siamese.checkpoint import Checkpoint, forget_runs, run_key


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
    assert run_key([b"a", b"b"]) == keys[0]
    (tmp_path / "module.py").write_text("A = 2")
    keys.append(run_key([b"a", b"b"]))
    assert len(set(keys)) == len(keys) == 8


def test_a_state_that_was_just_saved_is_not_due_and_a_forgotten_one_may_be_forgotten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_APART", 3600.0)
    state = Checkpoint(tmp_path / "runs", "a1")
    state._saved -= 3601
    assert state.due()
    state.save({"step": 1})
    assert not state.due() and Checkpoint(tmp_path / "runs", "a1").load() == {"step": 1}
    for _ in range(2):
        forget_runs(tmp_path / "runs")
        assert state.load() is None
