import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isic_siamese import training
from isic_siamese.errors import TrainingError
from isic_siamese.trainer import Validation
from isic_siamese.training import _check_finite, train
from isic_siamese.training_data import TrainingData
from tests.toy import make_trainer, run


def test_the_encoder_learns_to_tell_the_classes_apart(data: TrainingData, tmp_path: Path) -> None:
    trained = run(make_trainer(data), tmp_path)
    losses = trained.history["loss"]
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert trained.summary()["val_roc_auc"] > 0.95


def test_the_encoder_that_is_kept_is_that_of_the_best_epoch(data: TrainingData, tmp_path: Path) -> None:
    trainer = make_trainer(data)
    trained = run(trainer, tmp_path)
    assert trainer.validate().roc_auc == trained.history["val_roc_auc"].max() == trained.summary()["val_roc_auc"]


@pytest.mark.parametrize(("areas", "best"), [([0.6, 0.8, 0.8, 0.7], 2), ([0.4, 0.3, 0.2, 0.1], 1)])
def test_of_equally_good_epochs_the_first_is_the_best(
    data: TrainingData, tmp_path: Path, areas: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, weights = make_trainer(replace(data, pairs=data.pairs[data.pairs["block"] == 0])), []

    def validate() -> Validation:
        weights.append(trainer.encoder.head.weight.detach().clone())
        return Validation(areas[len(weights) - 1], np.full((32, 8), len(weights), np.float32))

    monkeypatch.setattr(trainer, "validate", validate)
    trained = run(trainer, tmp_path)
    assert trained.summary()["best_epoch"] == trained.best[0, 0] == best and trained.first[0, 0] == 1
    assert torch.equal(trained.encoder.head.weight, weights[best - 1])
    assert trained.history["epoch"].tolist() == [1, 2, 3, 4]


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps_in_its_own_order(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(replace(data, pairs=data.pairs[data.pairs["block"] < 3]), epochs=2)
    run_steps, losses = trainer.run_steps, []

    def noted(epoch: int, order: list[int], done: int) -> Iterator[torch.Tensor]:
        assert trainer.encoder.training and order == trainer.epoch_order(epoch)
        for loss in run_steps(epoch, order, done):
            losses.append(loss.item())
            yield loss

    monkeypatch.setattr(trainer, "run_steps", noted)
    history = run(trainer, tmp_path).history
    np.testing.assert_allclose(history["loss"], np.reshape(losses, (2, 3)).mean(axis=1), rtol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: TrainingData, tmp_path: Path) -> None:
    one, again, other = (run(make_trainer(data, seed, epochs=1), tmp_path).encoder.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_a_run_says_what_it_runs_on(data: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer = make_trainer(data, epochs=1, precision="bfloat16")
    train(trainer, tmp_path, lambda _: None)
    assert f"on cpu, encoder in bfloat16, {len(trainer.steps)} steps an epoch" in caplog.text


def test_memory_that_ran_out_is_an_error_that_says_what_to_change(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(data)
    monkeypatch.setattr(trainer, "run_step", lambda *_: torch.empty(1 << 60))
    wanted = r"out of memory on cpu: .*; see what else is in it, or take a smaller train.encoder or fewer train.stages"
    with pytest.raises(TrainingError, match=wanted):
        run(trainer, tmp_path)
    monkeypatch.setattr("isic_siamese.trainer.pool_rows", lambda *_, **__: torch.empty(1 << 60))
    with pytest.raises(TrainingError, match=wanted):
        make_trainer(data)


def test_the_bar_shows_loss_validation_auc_images_a_second_and_the_time_left(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(data, epochs=2)
    run(trainer, tmp_path)
    lines = capsys.readouterr().err.split("\r")
    n = 2 * trainer.images_per_epoch
    assert re.search(rf"epoch 2/2: 100%.* {n}/{n} \[\d+:\d+<\d+:\d+, .*image/s, loss=0\.\d+, val_roc_auc=", lines[-1])


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_change(data: TrainingData, tmp_path: Path) -> None:
    trainer = make_trainer(data)
    with torch.no_grad():
        trainer.encoder.head.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 1; lower train.learning_rate"):
        run(trainer, tmp_path)
    with pytest.raises(TrainingError, match="no longer finite in epoch 3"):
        _check_finite(math.inf, 2)


def test_a_loss_that_is_not_finite_ends_a_run_before_its_epoch_is_over(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LOOK_EVERY", 2)
    trainer, taken = make_trainer(data), []

    def take(*step: object) -> torch.Tensor:
        taken.append(step)
        return torch.tensor(torch.nan)

    monkeypatch.setattr(trainer, "run_step", take)
    with pytest.raises(TrainingError, match="no longer finite in epoch 1"):
        run(trainer, tmp_path)
    assert len(taken) == 2 < len(trainer.steps)


def test_the_history_so_far_is_given_out_after_each_epoch(data: TrainingData, tmp_path: Path) -> None:
    lengths: list[int] = []
    train(make_trainer(data, epochs=3), tmp_path / "checkpoints", lambda history: lengths.append(len(history)))
    assert lengths == [1, 2, 3]
