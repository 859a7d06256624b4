"""Git repositories of their own for tests: the project with small parameters, run once for all tests."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# What tests take for granted of `params.yaml`, whatever a branch has made its defaults.
FIXED: dict[str, object] = {
    "release": "demo",
    "seed": 2020,
    "margin": 1.0,
    "demo": {"patients": 80, "images": 320, "melanomas": 44},
    "split": {"train": 0.7, "val": 0.15},
    "augment": {"apply_to": "oversampled", "flip": 0.5, "rotate": "quarter", "scale": 0.0, "translate": 0.0},
    "train": {
        "encoder": "tf_efficientnet_lite0",
        "weights": "imagenet",
        "stages": 4,
        "frozen_groups": "all",
        "embedding_dim": 512,
        "epochs": 20,
        "weight_decay": 0.05,
        "warmup_epochs": 1.0,
    },
    "evaluate": {"neighbours": 5, "orientations": 8},
    "crossvalidate": {"folds": 5},
    "review": {"roc_auc": [0.6, 1.0], "balanced_accuracy": [0.55, 1.0]},
}
SMALL: dict[str, object] = {
    "demo": {"patients": 40, "images": 90, "melanomas": 24, "duplicates": 2, "test_images": 3, "image_px": 96},
    "shards": {"image_px": 32, "images_per_shard": 40},
    "pairs": {"views_per_block": 16, "pairs_per_block": 64},
    "train": {
        "encoder": "test_efficientnet",
        "weights": "none",
        "stages": 3,
        "frozen_groups": 0,
        "embedding_dim": 8,
        "epochs": 2,
    },
    "evaluate": {"resamples": 100},
}
STAGES = ["download", "shards", "split", "pairs", "train", "evaluate", "controls", "predict"]
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    **{f"GIT_{role}_{field}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
}


def write_params(path: Path, changes: dict[str, object] | None = None) -> None:
    """Write the committed `params.yaml` with the values of `FIXED`, and then of `changes`, in the place of its own."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for name, value in [*FIXED.items(), *(changes or {}).items()]:
        if isinstance(value, dict):
            params[name].update(value)
        else:
            params[name] = value
    yaml.dump(params, path)


class Repository:
    """A git repository, and commands in it, each of which must succeed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str) -> str:
        """Run `command` in the folder and return its standard output."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def ran(self, *arguments: str) -> list[str]:
        """Run DVC and return the stages that it really ran, not those restored from its cache."""
        output = self.dvc(*arguments).splitlines()
        return [line.split("'")[1] for line in output if line.startswith("Running stage")]

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def hashes(self) -> dict[str, str]:
        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}

    def metric(self, name: str) -> dict[str, float]:
        content = json.loads((self.folder / f"metrics/{name}.json").read_text())
        assert isinstance(content, dict)
        return content

    def clone(self, folder: Path) -> "Repository":
        """Return a clone of this one in `folder`, without any data, as if made long ago.

        Git takes a file for unchanged whose size and second of change are those in its index. It looks again at what is
        as young as the index, but DVC, which stages `dvc.lock`, writes the index anew. So a file that a test changes
        within a second of the clone, to the same size, would go unnoticed.
        """
        self.git("clone", "-q", ".", str(folder))
        made = Repository(folder)
        for name in made.git("ls-files").splitlines():
            os.utime(folder / name, (0, 0), follow_symlinks=False)
        made.git("update-index", "-q", "--refresh")
        return made


class Checkout(Repository):
    """A git repository of its own with the project's tracked files and small parameters."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tracked = Repository(ROOT).git("ls-files", "-co", "--exclude-standard").splitlines()
        for name in tracked:
            if name.startswith(
                ("src/", "stages/", "params.yaml", "dvc.yaml", "Makefile", ".dvc/", ".dvcignore", ".gitignore")
            ):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        (folder / "stages/dvc.lock").unlink(missing_ok=True)
        write_params(self.folder / "params.yaml", SMALL)
        self.git("init", "-q", "-b", "main")
        self.commit("start")

    def lend_cache(self, clone: Repository) -> None:
        """Let `clone` have what DVC keeps of this one's stages, and of its experiments."""
        clone.dvc("config", "--local", "cache.dir", str(self.folder / ".dvc/cache"))

    def publish(self, folder: Path) -> tuple[Repository, Repository]:
        """Return a bare clone, as on a Git server, and its keeper's clone of that, which has this one's cache."""
        self.git("clone", "-q", "--bare", ".", str(folder / "isic-siamese.git"))
        hub = Repository(folder / "isic-siamese.git")
        keeper = hub.clone(folder / "keeper")
        self.lend_cache(keeper)
        return hub, keeper


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the whole pipeline ran once, its results committed; a test leaves it as it found it."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    assert made.ran("repro") == STAGES
    made.commit("results")
    return made


class Experiment(NamedTuple):
    """Which stages an experiment ran, and the MD5 of what each stage of the pipeline then had written, by path."""

    ran: list[str]
    hashes: dict[str, str]


@pytest.fixture(scope="session")
def wider(checkout: Checkout) -> Experiment:
    """The experiment `wider` of the checkout, `margin=2.0`; whoever has its cache gets it without running a stage."""
    experiment = Experiment(checkout.ran("exp", "run", "-n", "wider", "-S", "margin=2.0"), checkout.hashes())
    checkout.git("reset", "-q", "--hard")
    checkout.dvc("checkout")
    return experiment
