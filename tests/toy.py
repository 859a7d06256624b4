"""A toy problem that a tiny network learns in a second, for the tests of training."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic_siamese import augment, lesion_map, pooling
from isic_siamese.augment import AugmentParams
from isic_siamese.checkpoint import Checkpoint
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.shards import Shards
from isic_siamese.trainer import Trainer
from isic_siamese.training import Trained, train
from isic_siamese.training_data import TrainingData, TrainParams

PARAMS = TrainParams(
    encoder="test_efficientnet",
    weights="none",
    stages=5,
    frozen_groups=0,
    embedding_dim=8,
    loss="contrastive",
    cross_entropy_weight=0.0,
    epochs=4,
    learning_rate=3e-3,
    weight_decay=0.0,
    warmup_epochs=0.5,
    precision="float32",
)
PAIRS = PairsParams(views_per_block=16, pairs_per_block=64)
RECIPE = AugmentParams(
    apply_to="oversampled",
    flip=0.5,
    rotate="quarter",
    scale=0,
    translate=0,
    brightness=0.1,
    contrast=0.1,
    saturation=0.1,
    hue=0.02,
)


def draw_data(folder: Path) -> TrainingData:
    """128 images of 32 px: melanomas have a dark spot, benign ones a dark ring, on skin of any tone."""
    rng = np.random.default_rng(0)
    malignant = rng.random(128) < 0.25
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    radius = np.hypot(x, y)
    shapes = np.where(malignant[:, None, None], radius < 0.45, (radius > 0.5) & (radius < 0.67))
    skin = rng.uniform(120, 220, (128, 1, 1, 3))
    images = skin * (1 - 0.5 * shapes[..., None]) + rng.normal(0, 4, (128, 32, 32, 3))
    np.save(folder / "shard-00000.npy", images.clip(0, 255).astype(np.uint8))
    train_rows, val_rows = np.arange(96), np.arange(96, 128)
    pairs = draw_pairs(train_rows, malignant[train_rows], PAIRS, rng, oversample=True)
    return TrainingData(Shards(folder), malignant, train_rows, val_rows, pairs)


def index_of(malignant: np.ndarray, images_per_patient: int = 2) -> pd.DataFrame:
    """The index of such images; the first patient has the first of them."""
    rows = np.arange(len(malignant))
    names = [f"ISIC_{row:07}" for row in rows]
    patients = [f"IP_{row // images_per_patient:07}" for row in rows]
    return pd.DataFrame({"row": rows, "image_name": names, "patient_id": patients, "target": malignant.astype(int)})


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return draw_data(tmp_path)


def make_trainer(data: TrainingData, seed: int = 0, **changed: object) -> Trainer:
    return Trainer(data, PARAMS.model_copy(update=changed), RECIPE, margin=1.0, seed=seed)


def run(trainer: Trainer, folder: Path) -> Trained:
    """Train to the end, and leave no checkpoint."""
    trained = train(trainer, folder / "checkpoints", lambda _: None)
    Checkpoint(folder / "checkpoints", trainer.key).forget()
    return trained


def forget_constants() -> None:
    """Forget the tensors that are made once for each device."""
    for function in (value for module in (augment, lesion_map, pooling) for value in vars(module).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()
