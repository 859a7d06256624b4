"""The views of a step: which images they are, what is augmented, and what many steps at once come to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from isic_siamese.augment import augment
from isic_siamese.embedding import embed_rows
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.losses import contrastive_loss
from isic_siamese.trainer import Views
from isic_siamese.training_data import TrainingData
from tests.toy import RECIPE, make_trainer


def test_each_distinct_view_of_a_step_is_embedded_once_and_the_loss_is_that_of_the_pairs(data: TrainingData) -> None:
    """The step's loss against a slow loop that sends both sides of each pair through the encoder."""
    run = make_trainer(data)
    run.objective.margin = 0.8
    run.encoder.eval()  # batch statistics would differ between the two ways
    step = run.steps[0]
    assert len(step.rows) == 16
    pairs = data.pairs.iloc[:64]
    views = torch.stack([step.rows, (torch.arange(16) >= step.n_plain).long()], dim=1)
    named = pairs.assign(left_view=pairs["left_view"] > 0, right_view=pairs["right_view"] > 0)
    wanted = named[["left", "left_view", "right", "right_view"]].to_numpy(int).tolist()
    assert sorted(views[step.weights.nonzero()].flatten(1).tolist()) == sorted(wanted)
    images = [torch.from_numpy(data.shards.images(pairs[side].to_numpy())) for side in ("left", "right")]
    with torch.no_grad():
        both = [run.encoder(side) for side in images]
        once = run.encoder(run.images.take(step.rows))
    same = torch.from_numpy(pairs["same"].to_numpy(bool))
    slow = contrastive_loss((both[0] - both[1]).norm(dim=1), same, 0.8)
    torch.testing.assert_close(run.objective(once, step), slow.mean())


@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_only_oversampled_views_are_augmented_unless_all_are_asked_for(
    data: TrainingData, frozen_groups: int | str
) -> None:
    for apply_to in ("oversampled", "all"):
        run = make_trainer(data, frozen_groups=frozen_groups)
        run.recipe = RECIPE.model_copy(update={"apply_to": apply_to})
        run.encoder.eval()
        position = len(run.steps) - 1
        step = run.steps[position]
        assert 0 < step.n_plain < len(step.rows)
        with torch.no_grad():
            (views,) = run.prepare(0, [position])
            change = run.embed_views(views) - run.encoder(run.images.take(step.rows))
        first = step.n_plain if apply_to == "oversampled" else 0
        assert torch.equal(change.abs().amax(dim=1) > 1e-5, torch.arange(len(step.rows)) >= first)


def test_a_copy_is_augmented_by_the_draws_of_its_place(data: TrainingData) -> None:
    run = make_trainer(data)
    step, position = run.steps[-1], len(run.steps) - 1
    ((images, _),) = run.prepare(0, [position])
    augmented = augment(run.images.take(step.rows), run._draws(0, position), RECIPE)
    assert 0 < step.n_plain < len(step.rows)
    assert torch.equal(images[step.n_plain :], augmented[step.n_plain :])


def test_known_features_give_the_embeddings_that_the_images_give(data: TrainingData) -> None:
    """Where no layer of the backbone learns, an image goes through it once; what comes of it is the same."""
    run = make_trainer(data, frozen_groups="all")
    assert run.features is not None and make_trainer(data).features is None
    run.encoder.eval()
    validation = run.validate()
    with torch.no_grad():
        every = list(range(len(run.steps)))
        known = [run.embed_views(views) for views in run.prepare(0, every)]
        run.features = None
        for embeddings, views in zip(known, run.prepare(0, every), strict=True):
            torch.testing.assert_close(embeddings, run.embed_views(views), atol=1e-5, rtol=0)
    np.testing.assert_allclose(validation.embeddings, run.validate().embeddings, atol=1e-5)


@pytest.mark.parametrize("frozen_groups", [0, "all"])
@pytest.mark.parametrize("apply_to", ["oversampled", "all"])
def test_the_views_of_many_steps_at_once_come_to_what_they_come_to_step_by_step(
    data: TrainingData, apply_to: str, frozen_groups: int | str
) -> None:
    def train_epoch(ahead: int, done: int = 0) -> list[float]:
        run = make_trainer(data, frozen_groups=frozen_groups)
        run.recipe = RECIPE.model_copy(update={"apply_to": apply_to})
        run.ahead = ahead
        return [loss.item() for loss in run.run_steps(0, run.epoch_order(0), done)]

    alone = train_epoch(1)
    assert len(alone) % 3 and len(alone) > 6  # the last batch is a smaller one
    assert train_epoch(3) == pytest.approx(alone, rel=1e-4)
    assert len(train_epoch(3, done=4)) == len(alone) - 4


@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_which_views_are_prepared_at_once_does_not_depend_on_where_a_run_goes_on(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch, frozen_groups: int | str
) -> None:
    """Else it would not end in the same bits."""
    run = make_trainer(data, frozen_groups=frozen_groups)
    run.ahead = 3
    asked: list[list[int]] = []
    prepare = run.prepare

    def noted(epoch: int, positions: list[int]) -> list[Views]:
        asked.append(positions)
        return prepare(epoch, positions)

    monkeypatch.setattr(run, "prepare", noted)
    order = run.epoch_order(0)
    list(run.run_steps(0, order))
    whole = asked.copy()
    asked.clear()
    list(run.run_steps(0, order, 4))
    assert asked == whole[1:] and whole[0] == order[:3]


def test_how_many_images_go_through_a_frozen_encoder_at_once_changes_nothing_but_rounding(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features_and_embeddings(batch_size: int) -> list[torch.Tensor]:
        monkeypatch.setattr(SiameseEncoder, "batch_size", batch_size)
        run = make_trainer(data, frozen_groups="all")
        assert run.features is not None
        asked = torch.from_numpy(embed_rows(run.encoder, data.shards, data.val_rows, 8))
        prepared = [features for (features,) in run.prepare(0, [0, 1, len(run.steps) - 1])]
        return [run.features, *prepared, asked]

    for few, many in zip(features_and_embeddings(3), features_and_embeddings(1000), strict=True):
        torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_a_step_without_copies_augments_none(data: TrainingData, encoder: str, frozen_groups: int | str) -> None:
    plain = data.pairs[(data.pairs["left_view"] == 0) & (data.pairs["right_view"] == 0)]
    plain_data = replace(data, pairs=plain.head(64).assign(block=0))
    run = make_trainer(plain_data, encoder=encoder, stages=2, frozen_groups=frozen_groups)
    ((views, *_),) = run.prepare(0, [0])
    rows = run.steps[0].rows
    assert torch.equal(views, run.images.take(rows) if run.features is None else run.features[rows])
    assert next(run.run_steps(0, [0])).isfinite()
