"""When a lock is stale, on real git histories of a small project under real DVC."""

import json
from pathlib import Path

import pytest

from isic_siamese.errors import DataError
from isic_siamese.staleness import stale_locks
from tests.checkout import Repository
from tests.reviewed_project import PIPELINE, THEN, edit

MAP_IS_NEW = "metrics/plots/map.png, metrics/plots/map.png is not in git"


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("evaluate.py", "import json\n", "import json  # why\n", "evaluate (evaluate.py)"),
        ("params.yaml", "\nmargin: 1.0", "\nmargin: 2.0", "evaluate (margin)"),
        ("metrics/evaluate.json", "0.85", "0.99", "evaluate (metrics/evaluate.json)"),
        ("dvc.yaml", "deps: [evaluate.py]", "deps: [evaluate.py, dvc.yaml]", "evaluate (dvc.yaml)"),
        ("dvc.yaml", "cmd: python evaluate.py", "cmd: python -B evaluate.py", "evaluate (cmd)"),
        ("dvc.yaml", "roc.png: {cache", "map.png: {cache", f"evaluate ({MAP_IS_NEW})"),
        ("dvc.yaml", "outs: [data/answers.csv]", "outs: [data/a.csv]", "evaluate (data/a.csv)"),
        ("dvc.yaml", "  evaluate:\n", "  second: {cmd: 'true'}\n  evaluate:\n", "second (never ran)"),
    ],
)
def test_a_lock_is_stale_when_what_git_tracks_is_not_what_it_holds(
    branch: Repository, name: str, old: str, new: str, why: str
) -> None:
    assert stale_locks(branch.folder) == []
    edit(branch, name, old, new)
    assert stale_locks(branch.folder) == [f"dvc.lock is stale: {why}: {THEN}"]


@pytest.mark.parametrize("words", ["deps: [evaluate.py]\n", "params: [margin]\n", "outs: [data/answers.csv]\n"])
def test_what_a_stage_no_longer_names_does_not_make_its_lock_stale(branch: Repository, words: str) -> None:
    edit(branch, "dvc.yaml", f"    {words}", "")
    if words.startswith("deps"):
        (branch.folder / "evaluate.py").write_text("")
    assert stale_locks(branch.folder) == []


def test_a_stage_that_is_gone_does_not_make_the_lock_stale_that_still_has_it(branch: Repository) -> None:
    lock = branch.folder / "dvc.lock"
    reader = {"cmd": "true", "deps": [{"path": "data/answers.csv", "md5": "0" * 32}]}
    lock.write_text(f"{lock.read_text()}  gone: {json.dumps(reader)}\n")
    assert stale_locks(branch.folder) == []


def test_a_lock_with_the_marks_of_a_merge_is_named_with_what_to_do(branch: Repository) -> None:
    edit(branch, "dvc.lock", "schema: '2.0'\n", "<<<<<<< HEAD\nschema: '2.0'\n=======\n")
    with pytest.raises(DataError, match=r"dvc\.lock: not YAML(.|\n)*after a merge take either side, then 'dvc repro'"):
        stale_locks(branch.folder)


def test_a_lock_that_is_missing_or_merged_from_two_runs_is_stale(branch: Repository) -> None:
    lock = branch.folder / "dvc.lock"
    text = lock.read_text()
    reader = {"cmd": "true", "deps": [{"path": "data/answers.csv", "md5": "0" * 32}]}
    (branch.folder / "dvc.yaml").write_text(f"{PIPELINE}  later: {{cmd: 'true', deps: [data/answers.csv]}}\n")
    lock.write_text(f"{text}  later: {json.dumps(reader)}\n")
    assert "dvc.lock is stale: later (data/answers.csv): run 'dvc repro'" in stale_locks(branch.folder)[0]
    lock.unlink()
    assert stale_locks(branch.folder) == [f"dvc.lock is missing: {THEN}"]


def test_a_pipeline_on_demand_may_be_without_a_lock_but_not_with_a_stale_one(branch: Repository) -> None:
    folder = branch.folder / "stages"
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {many: {wdir: .., cmd: 'true', params: [margin]}}")
    assert stale_locks(branch.folder) == []
    (folder / "dvc.lock").write_text("stages: {many: {cmd: 'true', params: {params.yaml: {margin: 9.0}}}}")
    (sentence,) = stale_locks(branch.folder)
    assert sentence.startswith("stages/dvc.lock is stale: many (margin): run 'dvc repro stages/dvc.yaml' and commit")


def test_a_pipeline_on_demand_is_stale_when_the_other_wrote_its_data_anew(branch: Repository) -> None:
    folder = branch.folder / "stages"
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {many: {wdir: .., cmd: 'true', deps: [data/answers.csv]}}")
    for md5, told in ((branch.hashes()["data/answers.csv"], 0), ("0" * 32, 1)):
        many = {"cmd": "true", "deps": [{"path": "data/answers.csv", "md5": md5}]}
        (folder / "dvc.lock").write_text(json.dumps({"stages": {"many": many}}))
        sentences = stale_locks(branch.folder)
        assert ["many (data/answers.csv)" in sentence for sentence in sentences] == [True] * told


def test_a_folder_that_is_no_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"git ls-files: .*; run it in a clone of the repository"):
        stale_locks(tmp_path)
