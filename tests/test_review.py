"""`make review` on real git histories of a small project under real DVC, with no data anywhere."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from isic_siamese.errors import DataError
from isic_siamese.review import ReviewParams, judge
from isic_siamese.staleness import stale_locks
from tests.checkout import ENVIRONMENT, ROOT, Repository, write_params

SCRIPT = """\
import json
from pathlib import Path

from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml").read_text())
Path("metrics/plots").mkdir(parents=True, exist_ok=True)
figure = {"value": round(1.05 - params["margin"] / 5, 6), "low": 0.8, "high": 0.9}
content = {"goal": f"reached with margin {params['margin']}", "roc_auc": figure, "balanced_accuracy": {"value": 0.8}}
Path("metrics/evaluate.json").write_text(json.dumps(content))
Path("metrics/plots/roc.png").write_bytes(f"drawn with margin {params['margin']}".encode())
Path("data").mkdir(exist_ok=True)
Path("data/answers.csv").write_text("row\\n1\\n")
"""
PIPELINE = """\
stages:
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py]
    params: [margin]
    outs: [data/answers.csv]
    metrics: [{metrics/evaluate.json: {cache: false}}]
    plots: [{metrics/plots/roc.png: {cache: false}}]
"""
MAP_IS_NEW = "metrics/plots/map.png, metrics/plots/map.png is not in git"
THEN = "run 'dvc repro' (without raw files: --allow-missing) and commit dvc.lock and metrics/"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A project whose pipeline ran, and whose data and cache are gone."""
    made = Repository(tmp_path_factory.mktemp("project"))
    made.git("init", "-q", "-b", "main")
    shutil.copytree(ROOT / ".dvc", made.folder / ".dvc", ignore=lambda _, names: set(names) - {"config"})
    write_params(made.folder / "params.yaml")
    for name, text in {
        "evaluate.py": SCRIPT,
        "dvc.yaml": PIPELINE,
        ".dvcignore": "",
    }.items():
        (made.folder / name).write_text(text)
    made.dvc("repro")
    made.commit("base")
    return made


@pytest.fixture
def branch(project: Repository, tmp_path: Path) -> Repository:
    """A branch in a clone, as the checks of a pull request have it."""
    clone = project.clone(tmp_path / "clone")
    clone.git("switch", "-qc", "change")
    return clone


def review(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the review as `make review` does, after which nothing is changed."""
    before = repository.git("status", "--porcelain")
    command = [sys.executable, "-m", "isic_siamese.review", *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=repository.folder, env=environment, capture_output=True, text=True, check=False)
    assert repository.git("status", "--porcelain") == before
    return done


def edit(repository: Repository, name: str, old: str, new: str) -> None:
    path = repository.folder / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def rerun(repository: Repository) -> None:
    """Rebuild, commit, and forget the data."""
    repository.dvc("repro")
    shutil.rmtree(repository.folder / "data")
    shutil.rmtree(repository.folder / ".dvc/cache", ignore_errors=True)
    repository.commit("change")


def test_a_change_of_a_document_changes_nothing(branch: Repository) -> None:
    (branch.folder / "README.md").write_text("# Title\n")
    branch.commit("document")
    done = review(branch, "main")
    assert done.returncode == 0, done.stderr
    assert "No metric, parameter or plot changed." in done.stdout
    assert "| roc_auc | 0.850 (0.800 to 0.900) | 0.850 (0.800 to 0.900) | +0.000 |  |" in done.stdout
    assert "The headline figures are in order." in done.stdout and "###" not in done.stdout


def test_changed_metrics_parameters_and_pictures_are_shown_and_a_fall_is_marked(branch: Repository) -> None:
    edit(branch, "params.yaml", "\nmargin: 1.0", "\nmargin: 2.0")
    rerun(branch)
    done = review(branch, "main", "--url", "https://example.org/owner/project")
    assert done.returncode == 0, done.stderr
    assert "**1 of 2 headline figures need a look.**" in done.stdout
    assert ":warning: fell by 0.200, more than its interval is wide (0.100) |" in done.stdout
    assert "| params.yaml | margin  | 1.0 " in done.stdout
    assert "1 numbers of metrics/ changed" in done.stdout and "roc_auc.value" in done.stdout
    assert "reached with" not in done.stdout
    base, head = (branch.git("rev-parse", name).strip() for name in ("main", "change"))
    assert f"/blob/{base[:10]}" in done.stdout
    assert f"https://example.org/owner/project/blob/{head}/metrics/plots/roc.png?raw=true" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("release: demo", "release: isic2020", "release"),
        ("  val: 0.15", "  val: 0.2", "split.val"),
        ("  patients: 80", "  patients: 90", "demo.patients"),
    ],
)
def test_figures_of_other_images_are_marked(branch: Repository, old: str, new: str, key: str) -> None:
    edit(branch, "params.yaml", old, new)
    branch.commit("other images")
    done = review(branch, "main")
    assert done.returncode == 0, done.stderr
    assert f"are of different images: `{key}` changed." in done.stdout


def test_a_change_of_the_demo_is_of_no_matter_to_another_release(branch: Repository) -> None:
    edit(branch, "params.yaml", "release: demo", "release: isic2020")
    branch.commit("real")
    edit(branch, "params.yaml", "  patients: 80", "  patients: 90")
    branch.commit("demo")
    done = review(branch, "HEAD~1")
    assert done.returncode == 0, done.stderr
    assert "demo.patients" in done.stdout and "different images" not in done.stdout


def test_a_metric_added_and_one_removed_are_told_apart(branch: Repository) -> None:
    edit(branch, "evaluate.py", '"balanced_accuracy": {"value": 0.8}', '"f1": {"value": 0.7}')
    rerun(branch)
    done = review(branch, "main")
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[2].strip(): line.split("|")[3:5] for line in done.stdout.splitlines() if ".json" in line}
    assert [cell.strip() for cell in rows["f1.value"]] == ["-", "0.7"]
    assert [cell.strip() for cell in rows["balanced_accuracy.value"]] == ["0.8", "-"]
    assert "| balanced_accuracy | 0.800 | - | - | :warning: is gone |" in done.stdout


def test_a_change_of_parameters_alone_has_no_metrics(branch: Repository) -> None:
    edit(branch, "params.yaml", "- 0.55", "- 0.85")
    branch.commit("stricter")
    done = review(branch, "main")
    assert done.returncode == 0, done.stderr
    assert "review.balanced_accuracy" in done.stdout and "No metric changed." in done.stdout
    assert "| balanced_accuracy | 0.800 | 0.800 | +0.000 | :warning: outside 0.85 to 1.0 |" in done.stdout


def test_what_landed_on_the_base_since_is_not_part_of_the_change(branch: Repository) -> None:
    branch.git("switch", "-q", "main")
    edit(branch, "metrics/evaluate.json", "0.85", "0.75")
    branch.commit("landed first")
    branch.git("switch", "-q", "change")
    assert "No metric, parameter or plot changed." in review(branch, "main").stdout


def test_a_stale_lock_fails_with_one_sentence_and_the_comment_holds_it(branch: Repository) -> None:
    edit(branch, "params.yaml", "\nmargin: 1.0", "\nmargin: 2.0")
    branch.commit("without dvc repro")
    done = review(branch, "main")
    sentence = f"dvc.lock is stale: evaluate (margin): {THEN}"
    assert done.returncode == 1 and done.stderr == f"error: {sentence}\n"
    assert f"> [!CAUTION]\n> {sentence}." in done.stdout and "| params.yaml | margin " in done.stdout


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD\n{}", "not JSON: .*; after a merge"),
        ("[]", "got list"),
        ('{"roc_auc": 0.9}', r"roc_auc: wanted value, low and high, got 0\.9; run 'dvc repro'"),
        ('{"balanced_accuracy": {"low": 0.9}}', r"balanced_accuracy: wanted value, low and high, got {'low': 0\.9}"),
    ],
)
def test_metrics_that_are_none_are_named_with_what_to_do(branch: Repository, text: str, message: str) -> None:
    (branch.folder / "metrics/evaluate.json").write_text(text)
    done = review(branch, "main")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(rf"metrics/evaluate\.json: .*{message}", done.stderr)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("params.yaml", "margin: 1\n<<<<<<< HEAD\n", r"params\.yaml: not YAML"),
        (
            "dvc.lock",
            "stages: [evaluate]",
            r"dvc\.lock: not one of dvc\.yaml: AttributeError.*; after a merge take either",
        ),
        (
            "dvc.lock",
            "stages: {evaluate: {}}",
            r"dvc\.lock: not one of dvc\.yaml: KeyError\('cmd'\); after a merge take",
        ),
        ("dvc.lock", "- evaluate", r"dvc\.lock: wanted keys and values, got list; after a merge take either side"),
    ],
)
def test_what_a_merge_broke_is_named_with_what_to_do(branch: Repository, name: str, text: str, message: str) -> None:
    (branch.folder / name).write_text(text)
    done = review(branch, "main")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(message, done.stderr)


def test_a_folder_that_is_no_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"git ls-files: .*; run it in a clone of the repository"):
        stale_locks(tmp_path)


def test_the_lower_end_of_a_range_comes_first() -> None:
    with pytest.raises(ValidationError, match="wanted the lower end first"):
        ReviewParams(roc_auc=[0.99, 0.1], balanced_accuracy=[0, 1])


def test_an_unknown_base_is_named_with_what_to_do(branch: Repository) -> None:
    done = review(branch, "trunk")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "trunk: no such revision" in done.stderr and "make review BASE=origin/main" in done.stderr


def test_the_gate_judges_a_figure_by_its_range_and_by_the_width_of_its_interval() -> None:
    old = {"value": 0.9, "low": 0.8, "high": 0.95}
    assert judge(old, {"value": 0.76}, [0.6, 1.0]) == ""
    assert judge(old, {"value": 0.75}, [0.6, 1.0]) == ""
    assert "fell by 0.151" in judge(old, {"value": 0.749}, [0.6, 1.0])
    assert judge(old, {"value": 0.55}, [0.6, 1.0]) == "outside 0.6 to 1.0"
    assert judge({"value": 0.9}, {"value": 0.7}, [0.6, 1.0]) == ""
    assert judge(None, {"value": 0.9}, [0.6, 1.0]) == ""
    assert judge(None, None, [0.6, 1.0]) == "is missing"
    assert judge(old, None, [0.6, 1.0]) == "is gone"
