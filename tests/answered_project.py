"""Drawn shards with a tiny encoder, for which the stages evaluate and predict answered once for all tests."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isic_siamese.encoder import build_encoder
from isic_siamese.files import replacing, write_csv
from isic_siamese.model_files import write_model
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.splits import seen_images
from stages import evaluate, predict

N, N_TEST, PX = 90, 7, 32
PARAMS = """
release: demo
seed: 5
margin: 1.0
shards: {image_px: 32, fit: crop, images_per_shard: 100, exclude: []}
evaluate: {temperature: 0.1, vote_penalty: 0.3, neighbours: 3, orientations: 8, resamples: 100, confidence: 0.95}
"""


def draw_images(rng: np.random.Generator, malignant: np.ndarray) -> np.ndarray:
    """Noise, darker where malignant, in overlapping amounts."""
    level = 150 - 60 * malignant + rng.normal(0, 20, len(malignant))
    noise = rng.normal(0, 15, (len(malignant), PX, PX, 3))
    return np.clip(level[:, None, None, None] + noise, 0, 255).astype(np.uint8)


def make_project(folder: Path) -> None:
    """Write everything that comes before `evaluate`: three images a patient, every third patient with a melanoma."""
    rng = np.random.default_rng(0)
    numbers = np.arange(N)
    malignant = (numbers % 3 == 0) & (numbers // 3 % 3 == 0)
    index = pd.DataFrame(
        {
            "image_name": [f"ISIC_{number:07}" for number in numbers],
            "patient_id": [f"IP_{number // 3:07}" for number in numbers],
            "lesion_id": [f"IL_{number:07}" for number in numbers],
            "sex": np.where(numbers // 3 % 2, "male", "female"),
            "age_approx": (20 + numbers // 3 * 2).astype(str),
            "anatom_site_general_challenge": "torso",
            "diagnosis": np.where(malignant, "melanoma", "nevus"),
            "benign_malignant": np.where(malignant, "malignant", "benign"),
            "target": malignant.astype(int),
            "width": 1024,
            "height": 768,
        }
    )
    shards = folder / "data/shards"
    index.insert(0, "row", numbers)
    write_csv(shards / "train/index.csv", index)
    write_csv(shards / "train/removed.csv", pd.DataFrame({"image_name": ["ISIC_0009999"], "reason": ["duplicate"]}))
    test = pd.DataFrame({"row": range(N_TEST), "image": [f"ISIC_9{number:06}" for number in range(N_TEST)]})
    write_csv(shards / "test/index.csv", test)
    for part, labels in (("train", malignant), ("test", np.arange(N_TEST) % 2 == 0)):
        with replacing(shards / part / "shard-00000.npy") as temporary:
            np.save(temporary, draw_images(rng, labels))
    split = np.repeat(["train", "val", "test"], 10)
    splits = pd.DataFrame({"patient_id": index["patient_id"].unique(), "split": split})
    write_csv(folder / "data/splits.csv", splits)
    params = PairsParams(views_per_block=16, pairs_per_block=16)
    write_csv(folder / "data/pairs/test.csv", draw_pairs(numbers[60:], malignant[60:], params, rng, oversample=False))
    torch.manual_seed(0)
    encoder = build_encoder("test_efficientnet", "none", 3, 8, PX)
    write_model(folder / "data/models", encoder, "crop", seen=seen_images(index, splits))
    (folder / "params.yaml").write_text(PARAMS)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
        predict.main()
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project
