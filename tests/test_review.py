"""`make review` on real git histories of a small project under real DVC, with no data anywhere."""

import re
import shutil
import subprocess
import sys

import pytest
from pydantic import ValidationError

from isic_siamese.review import ReviewParams, judge
from tests.checkout import ENVIRONMENT, ROOT, Repository
from tests.reviewed_project import THEN, edit


def review(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the review as `make review` does, after which nothing is changed."""
    before = repository.git("status", "--porcelain")
    command = [sys.executable, "-m", "isic_siamese.review", *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=repository.folder, env=environment, capture_output=True, text=True, check=False)
    assert repository.git("status", "--porcelain") == before
    return done


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
