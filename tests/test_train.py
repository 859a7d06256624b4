"""The stage train, run for real on the toy problem."""

import json
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from isic_siamese.arrays import Embeddings
from isic_siamese.files import write_csv
from isic_siamese.model_files import read_model
from isic_siamese.pairs import draw_pairs
from isic_siamese.trainer import Trainer, Validation
from isic_siamese.training import Trained
from stages import train as stage
from tests.processes import run_ranks
from tests.toy import PAIRS, PARAMS, RECIPE, draw_data, index_of, make_trainer, run

CHECKPOINTS = "data/checkpoints/train"
EPOCHS = 3


def make_project(folder: Path) -> Path:
    """Write everything that comes before `train`; each image is of a patient of its own."""
    shards = folder / "data/shards/train"
    shards.mkdir(parents=True)
    data = draw_data(shards)
    index = index_of(data.malignant, images_per_patient=1)
    write_csv(shards / "index.csv", index)
    splits = np.where(np.isin(index["row"], data.train_rows), "train", "val")
    write_csv(folder / "data/splits.csv", index[["patient_id"]].assign(split=splits))
    rng = np.random.default_rng(1)
    of_val = draw_pairs(data.val_rows, data.malignant[data.val_rows], PAIRS, rng, oversample=False)
    write_csv(folder / "data/pairs/train.csv", data.pairs)
    write_csv(folder / "data/pairs/val.csv", of_val)
    params = {"release": "demo", "seed": 0, "margin": 1.0, "augment": RECIPE.model_dump()}
    params["shards"] = {"image_px": 32, "fit": "crop", "images_per_shard": 128, "exclude": []}
    params["train"] = PARAMS.model_dump() | {"epochs": EPOCHS}
    YAML().dump(params, folder / "params.yaml")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """What training by itself comes to, with the same parameters; of its epochs and of the stage's, the second is best.

    By their real areas the first would be: the toy problem is that easy.
    """
    validate, areas = Trainer.validate, cycle([0.7, 0.9, 0.8])

    def validate_otherwise(trainer: Trainer) -> Validation:
        return validate(trainer)._replace(roc_auc=next(areas))

    monkeypatch.setattr(Trainer, "validate", validate_otherwise)
    (tmp_path / "by_itself").mkdir()
    return run(make_trainer(draw_data(tmp_path / "by_itself"), epochs=EPOCHS), tmp_path)


@pytest.mark.usefixtures("here")
def test_the_histograms_are_those_of_the_validation_pairs_after_the_first_epoch_and_the_best(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[dict[str, np.ndarray], np.ndarray, float]] = []
    monkeypatch.setattr(stage, "write_histograms", lambda _, *what: drawn.append(what))
    stage.main()
    (panels, same, margin), pairs = drawn[0], pd.read_csv("data/pairs/val.csv")

    def slow(embeddings: Embeddings) -> list[float]:
        rows = zip(pairs["left"] - 96, pairs["right"] - 96, strict=True)  # of the toy's validation split, the last 32
        return [np.sqrt(((embeddings[i].astype(float) - embeddings[j]) ** 2).sum()) for i, j in rows]

    assert json.loads(Path("metrics/train.json").read_text())["best_epoch"] == 2
    assert list(panels) == ["Validation pairs, epoch 1", "Validation pairs, epoch 2, the best"]
    for distances, embeddings in zip(panels.values(), (trained.first, trained.best), strict=True):
        np.testing.assert_allclose(distances, slow(embeddings), rtol=1e-12)
    assert np.array_equal(same, pairs["same"] == 1) and margin == 1.0


def test_the_checkpoint_goes_when_the_results_are_written_and_not_before(
    here: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(stage, "write_histograms", lambda *_: (here / "no such folder").rmdir())
        with pytest.raises(FileNotFoundError):
            stage.main()
    assert len(list(here.glob(f"{CHECKPOINTS}/*.pt"))) == 1
    stage.main()
    assert not (here / CHECKPOINTS).exists() and (here / "metrics/plots/train_distances.png").exists()
    state = read_model(here / "data/models")[0].state_dict()
    assert state["head.weight"].equal(trained.encoder.state_dict()["head.weight"])


def test_of_two_processes_the_first_alone_writes_and_to_what_one_would(here: Path, tmp_path: Path) -> None:
    """Each is in a folder of its own, or nobody could tell who wrote."""
    other = make_project(tmp_path / "other")
    before = sorted(other.rglob("*"))
    run_ranks(["-m", "stages.train"], [here, other])
    assert sorted(other.rglob("*")) == before
    curve = pd.read_csv(here / "metrics/plots/train.csv")
    read_model(here / "data/models")
    assert not (here / CHECKPOINTS).exists()
    stage.main()
    np.testing.assert_allclose(curve, pd.read_csv(here / "metrics/plots/train.csv"), rtol=2e-3)
