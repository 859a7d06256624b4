import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from isic_siamese import checkpoint
from isic_siamese.encoder import write_model
from isic_siamese.errors import TrainingError
from isic_siamese.trainer import Trainer, TrainingData
from isic_siamese.training import Trained, train
from tests.toy import draw_data, make_trainer


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return draw_data(tmp_path)


def run(trainer: Trainer, folder: Path) -> Trained:
    return train(trainer, folder / "checkpoints", lambda _: None)


def test_the_encoder_learns_to_tell_the_classes_apart(data: TrainingData, tmp_path: Path) -> None:
    trained = run(make_trainer(data), tmp_path)
    losses = trained.history["loss"]
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert trained.summary()["val_roc_auc"] > 0.95


def test_the_encoder_that_is_kept_is_that_of_the_best_epoch(data: TrainingData, tmp_path: Path) -> None:
    trainer = make_trainer(data)
    trained = run(trainer, tmp_path)
    assert trainer.validate().roc_auc == trained.history["val_roc_auc"].max() == trained.summary()["val_roc_auc"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: TrainingData, tmp_path: Path) -> None:
    one, again, other = (run(make_trainer(data, seed, epochs=1), tmp_path).encoder.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_a_run_that_was_interrupted_goes_on_and_ends_in_the_same_bits(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(make_trainer(data), tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_APART", -1.0)  # after every step
    steps = 0

    def stop_now_and_then(trainer: Trainer) -> Trainer:
        step = trainer.run_step

        def counted(epoch: int, position: int) -> torch.Tensor:
            nonlocal steps
            steps += 1
            if steps % 7 == 0:
                raise KeyboardInterrupt
            return step(epoch, position)

        trainer.run_step = counted  # type: ignore[method-assign]
        return trainer

    attempts = 0
    while True:
        attempts += 1
        try:
            parts = run(stop_now_and_then(make_trainer(data)), tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert attempts > 4
    pd.testing.assert_frame_equal(parts.history, whole.history, check_exact=True)
    weights, expected = parts.encoder.state_dict(), whole.encoder.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not (tmp_path / "checkpoints").exists()


KILLED = """
    import sys
    from pathlib import Path
    from isic_siamese import checkpoint
    from isic_siamese.encoder import write_model
    from isic_siamese.training import train
    from tests.toy import draw_data, make_trainer
    checkpoint.SECONDS_APART = -1.0
    folder = Path(sys.argv[1])
    trainer = make_trainer(draw_data(folder), epochs=20)
    print("started", flush=True)
    write_model(folder / "model", train(trainer, folder / "checkpoints", lambda _: None).encoder)
"""


def test_a_run_killed_without_warning_goes_on_and_ends_in_the_same_bytes(data: TrainingData, tmp_path: Path) -> None:
    write_model(tmp_path / "whole", run(make_trainer(data, epochs=20), tmp_path).encoder)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    environment = {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    for attempt in ("killed", "finished"):
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout and process.stdout.readline() == b"started\n"
        if attempt == "killed":
            time.sleep(0.8)
            process.kill()
        assert (process.wait() == 0) == (attempt == "finished")
        process.stdout.close()
        assert (tmp_path / "checkpoints").exists() == (attempt == "killed")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "model")]
    assert files[0] == files[1]


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_change(data: TrainingData, tmp_path: Path) -> None:
    trainer = make_trainer(data)
    with torch.no_grad():
        trainer.encoder.head.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 1; lower train.learning_rate"):
        run(trainer, tmp_path)


def test_the_history_so_far_is_given_out_after_each_epoch(data: TrainingData, tmp_path: Path) -> None:
    lengths: list[int] = []
    train(make_trainer(data, epochs=3), tmp_path / "checkpoints", lambda history: lengths.append(len(history)))
    assert lengths == [1, 2, 3]
