from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isic_siamese.augment import AugmentParams
from isic_siamese.encoder import EMBED_BATCH, embed
from isic_siamese.losses import contrastive_loss, pair_distances
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.shards import Shards
from isic_siamese.training import Trainer, TrainingData, TrainParams, cut_steps, learning_rate_factor, train

PARAMS = TrainParams(
    encoder="test_efficientnet",
    weights="none",
    embedding_dim=8,
    epochs=4,
    learning_rate=3e-3,
    weight_decay=0.0,
    warmup_epochs=0.5,
)
RECIPE = AugmentParams(
    apply_to="oversampled", flip=0.5, rotate=True, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02
)


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    """128 images of 32 px: melanomas have a dark spot, benign ones a dark ring, on skin of any tone."""
    rng = np.random.default_rng(0)
    malignant = rng.random(128) < 0.25
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    radius = np.hypot(x, y)
    shapes = np.where(malignant[:, None, None], radius < 0.45, (radius > 0.5) & (radius < 0.67))
    skin = rng.uniform(120, 220, (128, 1, 1, 3))
    images = skin * (1 - 0.5 * shapes[..., None]) + rng.normal(0, 4, (128, 32, 32, 3))
    np.save(tmp_path / "shard-00000.npy", images.clip(0, 255).astype(np.uint8))
    train_rows, val_rows = np.arange(96), np.arange(96, 128)
    section = PairsParams(views_per_block=16, pairs_per_block=64)
    pairs = draw_pairs(train_rows, malignant[train_rows], section, rng, oversample=True)
    return TrainingData(Shards(tmp_path), malignant, train_rows, val_rows, pairs, section.pairs_per_block)


def trainer(data: TrainingData, seed: int = 0, **changed: object) -> Trainer:
    return Trainer(data, PARAMS.model_copy(update=changed), RECIPE, margin=1.0, seed=seed)


def test_the_encoder_learns_to_tell_the_classes_apart(data: TrainingData) -> None:
    trained = train(trainer(data))
    losses = trained.history["loss"]
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert trained.summary()["val_roc_auc"] > 0.95


def test_the_encoder_that_is_kept_is_that_of_the_best_epoch(data: TrainingData) -> None:
    run = trainer(data)
    trained = train(run)
    assert run.validation_roc_auc() == trained.history["val_roc_auc"].max() == trained.summary()["val_roc_auc"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: TrainingData) -> None:
    one, again, other = (train(trainer(data, seed, epochs=1)).encoder.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_each_distinct_view_of_a_step_is_embedded_once_and_the_loss_is_that_of_the_pairs(data: TrainingData) -> None:
    """The step's loss against a slow loop that sends both sides of each pair through the encoder."""
    run = trainer(data)
    run.encoder.eval()  # batch statistics would differ between the two ways
    step = run.steps[0]
    assert len(step.rows) == 16 and len(step.same) == 64
    pairs = data.pairs.iloc[:64]
    views = torch.stack([step.rows, step.oversampled.long()], dim=1)
    for side, position in (("left", step.left), ("right", step.right)):
        assert views[position, 0].tolist() == pairs[side].tolist()
        assert views[position, 1].tolist() == (pairs[f"{side}_view"] > 0).astype(int).tolist()
    images = [torch.from_numpy(data.shards.images(pairs[side].to_numpy())) for side in ("left", "right")]
    with torch.no_grad():
        both = [run.encoder(side) for side in images]
        once = run.encoder(run.images[step.rows])
    same = torch.from_numpy(pairs["same"].to_numpy(bool))
    slow = contrastive_loss(pair_distances(*both), same, 1.0)
    fast = contrastive_loss(pair_distances(once[step.left], once[step.right]), step.same, 1.0)
    torch.testing.assert_close(fast, slow)


def test_only_oversampled_views_are_augmented_unless_all_are_asked_for(data: TrainingData) -> None:
    for apply_to in ("oversampled", "all"):
        run = trainer(data)
        run.recipe = RECIPE.model_copy(update={"apply_to": apply_to})
        seen: list[torch.Tensor] = []
        run.encoder.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        step = run.steps[0]
        run.run_step(step, torch.rand(len(step.rows), 6, generator=torch.Generator().manual_seed(0)))
        changed = (seen[0] != run.images[step.rows]).flatten(1).any(dim=1)
        expected = step.oversampled if apply_to == "oversampled" else torch.ones_like(step.oversampled)
        assert torch.equal(changed, expected)


def test_a_pair_index_in_any_order_trains_on_the_same_pairs() -> None:
    columns = ["left", "right", "left_view", "right_view", "same"]
    pairs = pd.DataFrame([[5, 9, 0, 2, 0], [9, 5, 1, 0, 0], [5, 7, 0, 0, 1]], columns=columns)
    first, second = cut_steps(pairs, 2, torch.device("cpu"))
    assert first.rows.tolist() == [5, 9, 9] and first.oversampled.tolist() == [False, True, True]
    assert first.left.tolist() == [0, 1] and first.right.tolist() == [2, 0]
    assert second.rows.tolist() == [5, 7] and second.same.tolist() == [True]


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 10, 100) for step in range(100)]
    assert factors.index(max(factors)) in (9, 10) and max(factors) == 1.0
    assert np.all(np.diff(factors[:10]) > 0) and np.all(np.diff(factors[10:]) < 0) and factors[-1] < 0.001


def test_the_validation_auc_compares_with_the_training_images(data: TrainingData) -> None:
    run = trainer(data)
    embeddings = embed(run.encoder, data.shards.batches(np.arange(128), EMBED_BATCH))
    assert embeddings.shape == (128, 8) and embeddings.dtype == np.float32
    assert 0 <= run.validation_roc_auc() <= 1
