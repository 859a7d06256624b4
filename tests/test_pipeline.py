"""The real pipeline under real DVC, on a small demo release with a small network: its stages, caching and bytes."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from tests.checkout import STAGES, Checkout, Experiment

pytestmark = pytest.mark.xdist_group("pipeline")  # in one of the two processes, so that the pipeline runs once for them


def test_every_stage_leaves_its_files_and_metrics(checkout: Checkout) -> None:
    for stage in STAGES:
        assert checkout.metric(stage)
    submission = pd.read_csv(checkout.folder / "data/predictions/submission.csv")
    assert list(submission) == ["image_name", "target"] and len(submission) == 3
    assert submission["target"].between(0, 1).all()
    removed = pd.read_csv(checkout.folder / "data/shards/train/removed.csv")
    assert len(removed) == 2
    splits = pd.read_csv(checkout.folder / "data/splits.csv")
    assert splits["patient_id"].is_unique
    answers = pd.read_csv(checkout.folder / "data/evaluation/test.csv")
    of_patient = splits.set_index("patient_id")["split"]
    assert (of_patient[answers["patient_id"]] == "test").all()
    assert not (checkout.folder / "data/checkpoints/train").exists(), "what is over needs no checkpoint"


def test_loss_and_validation_area_by_epoch_are_plots(checkout: Checkout) -> None:
    shown = json.loads(checkout.dvc("plots", "show", "--json"))["data"]
    curves = [plot["content"] for plots in shown.values() for plot in plots if plot["type"] == "vega"]
    points = {curve["title"]["text"]: len(curve["data"]["values"]) for curve in curves}
    assert points["Training loss by epoch"] == points["Validation ROC AUC by epoch"] == 2


def test_nothing_in_the_checkout_is_left_untracked_or_changed(checkout: Checkout) -> None:
    assert checkout.git("status", "--porcelain") == ""


def test_a_second_repro_runs_nothing(checkout: Checkout) -> None:
    assert checkout.ran("repro") == []


def test_another_margin_reruns_training_and_what_follows_and_the_old_one_comes_back_from_the_cache(
    checkout: Checkout, wider: Experiment
) -> None:
    before = checkout.hashes()
    assert wider.ran == ["train", "evaluate", "predict"]
    changed = {path for path, md5 in wider.hashes.items() if md5 != before[path]}
    assert "data/models" in changed and not any(path.startswith(("data/shards", "data/pairs")) for path in changed)
    checkout.dvc("exp", "apply", "wider")
    diff = json.loads(checkout.dvc("metrics", "diff", "--json"))
    assert set(diff) >= {"metrics/train.json"}
    assert list(json.loads(checkout.dvc("params", "diff", "--json"))["params.yaml"]) == ["margin"]
    assert checkout.ran("exp", "run", "-S", "margin=1.0") == []
    assert checkout.hashes() == before
    checkout.git("checkout", "-q", "--", ".")
    assert checkout.git("status", "--porcelain") == ""


@pytest.mark.parametrize("stage", ["download", "split", "pairs"])
def test_a_wrong_parameter_ends_in_one_message_without_a_traceback(checkout: Checkout, stage: str) -> None:
    command = [sys.executable, "-m", f"stages.{stage}"]
    environment = os.environ | {"PYTHONPATH": "src"}
    params = checkout.folder / "params.yaml"
    good = params.read_text()
    try:
        params.write_text(good.replace("margin: 1.0", "margn: 1.0"))
        done = subprocess.run(
            command, cwd=checkout.folder, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        params.write_text(good)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "params.yaml: margn: no such key" in done.stderr
    assert "Traceback" not in done.stderr
