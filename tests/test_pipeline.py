"""The real pipeline under real DVC, on a small demo release with a small network: its stages, caching and bytes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SMALL: dict[str, dict[str, object]] = {
    "demo": {"patients": 40, "images": 90, "melanomas": 24, "duplicates": 2, "test_images": 3, "image_px": 96},
    "shards": {"image_px": 32, "images_per_shard": 40},
    "pairs": {"views_per_block": 16, "pairs_per_block": 64},
    "train": {"encoder": "test_efficientnet", "weights": "none", "embedding_dim": 8, "epochs": 2},
    "evaluate": {"resamples": 100},
}
STAGES = ["download", "shards", "split", "pairs", "train", "evaluate", "predict"]


class Checkout:
    """A git repository of its own with the project's tracked files and small parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = self._output(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
        for name in tracked:
            if name.startswith(("src/", "stages/", "params.yaml", "dvc.yaml", ".dvc/", ".dvcignore", ".gitignore")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        self.change_params(SMALL)
        for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.git(*command)

    def change_params(self, changes: dict[str, dict[str, object]]) -> None:
        yaml = YAML()
        path = self.folder / "params.yaml"
        params = yaml.load(path)
        for section, keys in changes.items():
            params[section].update(keys)
        yaml.dump(params, path)

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return self._output(["git", *identity, *arguments], self.folder)

    def dvc(self, *arguments: str) -> str:
        return self._output([sys.executable, "-m", "dvc", *arguments], self.folder)

    def ran(self, *arguments: str) -> list[str]:
        """Run DVC and return the stages that it really ran, not those restored from its cache."""
        output = self.dvc(*arguments).splitlines()
        return [line.split("'")[1] for line in output if line.startswith("Running stage")]

    def hashes(self) -> dict[str, str]:
        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}

    def metric(self, name: str) -> dict[str, float]:
        content = json.loads((self.folder / f"metrics/{name}.json").read_text())
        assert isinstance(content, dict)
        return content

    def _output(self, command: list[str], folder: Path) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {
            "PATH": path,
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the whole pipeline ran once, its results committed."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    assert made.ran("repro") == STAGES
    made.git("add", "-A")
    made.git("commit", "-qm", "results")
    return made


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


def test_nothing_in_the_checkout_is_left_untracked_or_changed(checkout: Checkout) -> None:
    assert checkout.git("status", "--porcelain") == ""


def test_a_second_repro_runs_nothing(checkout: Checkout) -> None:
    assert checkout.ran("repro") == []


def test_another_margin_reruns_training_and_what_follows_and_the_old_one_comes_back_from_the_cache(
    checkout: Checkout,
) -> None:
    before = checkout.hashes()
    assert checkout.ran("exp", "run", "-S", "margin=2.0") == ["train", "evaluate", "predict"]
    changed = {path for path, md5 in checkout.hashes().items() if md5 != before[path]}
    assert "data/models" in changed and not any(path.startswith(("data/shards", "data/pairs")) for path in changed)
    diff = json.loads(checkout.dvc("metrics", "diff", "--json"))
    assert set(diff) >= {"metrics/train.json"}
    assert list(json.loads(checkout.dvc("params", "diff", "--json"))["params.yaml"]) == ["margin"]
    assert checkout.ran("exp", "run", "-S", "margin=1.0") == []
    assert checkout.hashes() == before
    checkout.git("checkout", "-q", "--", ".")
    assert checkout.git("status", "--porcelain") == ""


def test_the_same_parameters_give_the_same_bytes_in_another_checkout(checkout: Checkout, tmp_path: Path) -> None:
    other = Checkout(tmp_path)
    assert other.ran("repro", "--force") == STAGES
    assert other.hashes() == checkout.hashes()


@pytest.mark.parametrize("stage", ["download", "train", "evaluate"])
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
    assert "error: params.yaml: margn: no such key" in done.stderr and "Traceback" not in done.stderr
