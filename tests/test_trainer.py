import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from isic_siamese import ranks, votes
from isic_siamese.embedding import embed_rows, pool_rows
from isic_siamese.errors import DataError, ParamsError, TrainingError
from isic_siamese.shards import Shards
from isic_siamese.trainer import Trainer
from isic_siamese.training_data import TrainingData, training_key
from tests.toy import PARAMS, RECIPE, make_trainer


def first_loss(run: Trainer) -> float:
    return next(run.run_steps(0, [0])).item()


@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_features_are_standardised_by_training_images_evenly_spread(
    data: TrainingData, frozen_groups: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isic_siamese.trainer.STANDARDISED", 2)
    run = make_trainer(data, frozen_groups=frozen_groups)
    pooled = pool_rows(run.encoder, data.shards, data.train_rows[[0, -1]])
    torch.testing.assert_close(run.encoder.centre, pooled.mean(dim=0))


def test_order_and_draws_are_those_of_the_seed_the_epoch_and_the_step(data: TrainingData) -> None:
    runs = [make_trainer(data, seed) for seed in (0, 1)]
    orders = [run.epoch_order(epoch) for run in runs for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == list(range(len(runs[0].steps))) for order in orders)
    draws = [run._draws(epoch, position)[0, 0] for run in runs for epoch in (0, 1) for position in (0, 1)]
    assert len(set(map(float, draws))) == 8


def test_what_an_encoder_draws_for_dropout_is_that_of_the_step(data: TrainingData) -> None:
    run = make_trainer(data)
    drawn: list[float] = []
    run.encoder.head.register_forward_hook(lambda *_: drawn.append(torch.rand(1).item()))
    for position in (0, 1, 0):
        next(run.run_steps(0, [position]))
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_frozen_backbone_stays_as_it_is_and_the_projection_learns(data: TrainingData) -> None:
    run = make_trainer(data, frozen_groups="all")
    before = {name: tensor.clone() for name, tensor in run.encoder.state_dict().items()}
    run.encoder.train()
    next(run.run_steps(0, [0]))
    changed = {name for name, tensor in run.encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("learned", [20, 1000])  # fewer than the training images, and more
@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_the_validation_auc_is_that_of_the_votes_of_the_training_images(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch, learned: int, frozen_groups: int | str
) -> None:
    monkeypatch.setattr(votes, "LEARNED", learned)
    data = replace(data, malignant=np.roll(data.malignant, 7))  # which no image tells
    run = make_trainer(data, frozen_groups=frozen_groups)
    train, val = (embed_rows(run.encoder, data.shards, rows) for rows in (data.train_rows, data.val_rows))
    validation = run.validate()
    np.testing.assert_allclose(validation.embeddings, val, atol=1e-6)
    assert validation.embeddings.dtype == np.float32
    scores = votes.vote_scores(val, train, data.malignant[data.train_rows])
    assert validation.roc_auc == pytest.approx(roc_auc_score(data.malignant[data.val_rows], scores))


def test_the_key_of_a_run_changes_with_all_that_its_result_depends_on(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = data, PARAMS, RECIPE, 1.0, 0
    assert make_trainer(data).key == training_key(*given)
    shard = np.load(tmp_path / "shard-00000.npy")
    shard[5, 0, 0, 0] ^= 1
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other/shard-00000.npy", shard)
    others = (
        replace(data, shards=Shards(tmp_path / "other")),
        replace(data, malignant=np.roll(data.malignant, 1)),
        replace(data, train_rows=data.train_rows[1:]),
        replace(data, val_rows=data.val_rows[1:]),
        replace(data, pairs=data.pairs[1:]),
    )
    keys = [training_key(*given), *(training_key(other, *given[1:]) for other in others)]
    keys.append(training_key(data, PARAMS.model_copy(update={"epochs": 3}), *given[2:]))
    keys.append(training_key(data, PARAMS, RECIPE.model_copy(update={"flip": 0.4}), 1.0, 0))
    keys += [training_key(data, PARAMS, RECIPE, margin, seed) for margin, seed in ((0.5, 0), (1.0, 1))]
    for name in ("ranks.n_ranks", "device_name"):
        with monkeypatch.context() as patched:
            patched.setattr(f"isic_siamese.training_data.{name}", lambda *_: 2)
            keys.append(training_key(*given))
    assert len(set(keys)) == len(keys) == 12


def test_a_state_holds_all_that_the_next_steps_depend_on(data: TrainingData) -> None:
    run, other = (make_trainer(data, cross_entropy_weight=0.5) for _ in range(2))
    next(run.run_steps(0, [0]))
    other.load_state(copy.deepcopy(run.state()))
    later = [[next(trained.run_steps(0, [position])).item() for position in (1, 2, 3)] for trained in (run, other)]
    assert later[0] == later[1]


def test_precision_is_what_the_parameter_says_and_by_default_float32_on_a_cpu(data: TrainingData) -> None:
    losses = [first_loss(make_trainer(data, precision=name)) for name in ("auto", "float32", "bfloat16")]
    assert losses[0] == losses[1] != losses[2] and losses[2] == pytest.approx(losses[0], rel=0.05)


def test_features_that_are_kept_have_the_precision_of_those_that_are_not(data: TrainingData) -> None:
    for precision in (torch.float32, torch.bfloat16):
        run = make_trainer(data, frozen_groups="all", precision=str(precision).removeprefix("torch."))
        rows = torch.from_numpy(data.train_rows[: run.encoder.batch_size])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            once_more = run.encoder.features(run.images.take(rows))
        assert run.features is not None and torch.equal(run.features[rows], once_more)


def test_more_processes_than_views_are_refused(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "n_ranks", lambda: 17)
    with pytest.raises(ParamsError, match="start fewer"):
        make_trainer(data)


@pytest.mark.parametrize("malignant", [False, True])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_one_class_is_refused(data: TrainingData, split: str, malignant: bool) -> None:
    rows = np.flatnonzero(data.malignant == malignant)[:7]
    got = f"split {split}: wanted images of both classes, got {7 * malignant} melanoma of 7; use a release"
    with pytest.raises(DataError, match=got):
        make_trainer(replace(data, train_rows=rows) if split == "train" else replace(data, val_rows=rows))


def test_embeddings_that_are_not_finite_are_an_error_that_says_what_to_change(data: TrainingData) -> None:
    run = make_trainer(data)
    torch.nn.init.constant_(run.encoder.head.weight, torch.nan)
    with pytest.raises(TrainingError, match=r"embeddings are no longer finite; lower train.learning_rate"):
        run.validate()


def test_embeddings_that_are_all_alike_are_an_error_that_says_what_to_change(data: TrainingData) -> None:
    run = make_trainer(data)
    torch.nn.init.zeros_(run.encoder.head.weight)
    with pytest.raises(TrainingError, match=r"all embeddings have become alike .*; lower train.learning_rate"):
        run.validate()
