"""A small project under real git and real DVC, with no data anywhere: what reviews and stale locks are tested on."""

import shutil
from pathlib import Path

import pytest

from tests.checkout import ROOT, Repository, write_params

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
THEN = "run 'dvc repro' (without raw files: --allow-missing) and commit dvc.lock and metrics/"


@pytest.fixture(scope="session")
def reviewed_project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
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
def branch(reviewed_project: Repository, tmp_path: Path) -> Repository:
    """A branch in a clone, as the checks of a pull request have it."""
    clone = reviewed_project.clone(tmp_path / "clone")
    clone.git("switch", "-qc", "change")
    return clone


def edit(repository: Repository, name: str, old: str, new: str) -> None:
    path = repository.folder / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
