"""A run that is killed, stopped or out of disk loses nothing, and ends in the same bits."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from isic_siamese import checkpoint, training
from isic_siamese.embedding import embed_rows
from isic_siamese.errors import run_command
from isic_siamese.model_files import write_model
from isic_siamese.trainer import Trainer, Views
from isic_siamese.training import train
from isic_siamese.training_data import TrainingData
from tests.toy import make_trainer, run


def test_a_run_that_was_interrupted_goes_on_and_ends_in_the_same_bits(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(make_trainer(data), tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_APART", -1.0)  # after every step
    steps = 0

    def stop_now_and_then(trainer: Trainer) -> Trainer:
        step = trainer.run_step

        def counted(epoch: int, position: int, views: Views) -> torch.Tensor:
            nonlocal steps
            steps += 1
            if steps % 7 == 0:
                raise KeyboardInterrupt
            return step(epoch, position, views)

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


def test_a_run_that_is_over_stays_at_hand_until_its_results_are_written(data: TrainingData, tmp_path: Path) -> None:
    whole = train(make_trainer(data), tmp_path / "checkpoints", lambda _: None)
    trainer = make_trainer(data)
    trainer.run_step = None  # type: ignore[assignment,method-assign]
    again = run(trainer, tmp_path)
    pd.testing.assert_frame_equal(again.history, whole.history, check_exact=True)
    assert np.array_equal(again.best, embed_rows(whole.encoder, data.shards, data.val_rows))


def test_a_short_run_saves_when_it_is_over_and_a_long_one_now_and_then(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda _, state: saved.append(len(state["progress"]["history"])))
    train(make_trainer(data, epochs=3), tmp_path, lambda _: None)
    assert saved == [3]
    monkeypatch.setattr(checkpoint, "SECONDS_APART", -1.0)
    trainer = make_trainer(data, epochs=3)
    train(trainer, tmp_path, lambda _: None)
    expected = [epoch for epoch in range(3) for _ in trainer.steps] + [1, 2, 3]
    assert saved[1:] == sorted(expected)


def test_a_process_that_does_not_save_never_waits_for_its_device_to_do_so(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[float] = []

    def item(tensor: torch.Tensor) -> float:
        read.append(float(tensor))
        return read[-1]

    monkeypatch.setattr(torch.Tensor, "item", item)
    monkeypatch.setattr(training, "ranks", SimpleNamespace(rank=lambda: 1, from_first=lambda state: state))
    monkeypatch.setattr(checkpoint, "SECONDS_APART", -1.0)
    monkeypatch.setattr(training, "LOOK_EVERY", 1000)
    train(make_trainer(data, epochs=3), tmp_path / "checkpoints", lambda _: None)
    assert len(read) == 3 and not (tmp_path / "checkpoints").exists()


def test_the_bar_of_a_run_that_goes_on_starts_where_it_was(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_trainer(data), tmp_path, lambda _: None)
    capsys.readouterr()
    trainer = make_trainer(data)
    train(trainer, tmp_path, lambda _: None)
    n = 4 * trainer.images_per_epoch
    assert f" {n}/{n} [" in capsys.readouterr().err.partition("\r")[2].partition("\r")[0]


def test_a_run_on_another_processor_or_of_other_splits_is_another_one(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_trainer(data).key
    moved = replace(data, train_rows=data.train_rows[:-1], val_rows=np.append(data.train_rows[-1:], data.val_rows))
    assert make_trainer(moved).key != key
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert make_trainer(data).key != key


def test_a_run_on_more_threads_is_another_one(data: TrainingData) -> None:
    n_threads = torch.get_num_threads()
    key = make_trainer(data).key
    try:
        torch.set_num_threads(n_threads + 1)
        assert make_trainer(data).key != key
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit"])
def test_a_checkpoint_that_is_not_whole_costs_its_run_and_no_more(
    data: TrainingData, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(data, epochs=1)
    whole = train(trainer, tmp_path / "checkpoints", lambda _: None)
    path = tmp_path / f"checkpoints/{trainer.key}.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"empty": bytearray(), "cut": content[:1000], "a bit": content}[damage])
    again = run(make_trainer(data, epochs=1), tmp_path)
    assert "is not whole: starting anew" in caplog.text
    pd.testing.assert_frame_equal(again.history, whole.history, check_exact=True)


RUN = """
    import signal
    import sys
    from pathlib import Path
    from isic_siamese import checkpoint
    from isic_siamese.errors import run_command
    from isic_siamese.model_files import write_model
    from isic_siamese.training import train
    from tests.toy import draw_data, make_trainer
    checkpoint.SECONDS_APART = -1.0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal; a job in the background ignores it
    folder = Path(sys.argv[1])
    trainer = make_trainer(draw_data(folder), epochs=10)
    print("started", flush=True)
    run_command(
        lambda: write_model(folder / "model", train(trainer, folder / "checkpoints", lambda _: None).encoder, "stretch")
    )
    checkpoint.Checkpoint(folder / "checkpoints", trainer.key).forget()
"""


def start_run(folder: Path) -> subprocess.Popen[str]:
    """Start a run of 10 epochs in a process of its own, and return when it is about to take its first step."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(folder)],
        cwd=Path(__file__).parents[1],
        env={"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "started\n"
    return process


def wait_for_checkpoint(folder: Path) -> None:
    while not list(folder.glob("checkpoints/[!.]*.pt")):
        time.sleep(0.02)


def test_a_run_killed_without_warning_goes_on_and_ends_in_the_same_bytes(data: TrainingData, tmp_path: Path) -> None:
    write_model(tmp_path / "whole", run(make_trainer(data, epochs=10), tmp_path).encoder, "stretch")
    for attempt in ("killed", "finished"):
        process = start_run(tmp_path)
        if attempt == "killed":
            wait_for_checkpoint(tmp_path)
            process.kill()
        process.communicate()
        assert (process.returncode == 0) == (attempt == "finished")
        assert (tmp_path / "checkpoints").exists() == (attempt == "killed")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "model")]
    assert files[0] == files[1]


def test_ctrl_c_stops_without_a_traceback_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    process = start_run(tmp_path)
    wait_for_checkpoint(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.endswith("stopped\n") and "Traceback" not in errors
    (left,) = tmp_path.glob("checkpoints/*")
    assert set(checkpoint.Checkpoint(left.parent, left.stem).load() or {}) == {"trainer", "progress"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["checkpoints", "model"])
def test_a_full_disk_is_an_error_that_names_the_file_and_says_what_to_do(
    data: TrainingData, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The temporary file is a link to the device that is always full, so the system itself refuses the bytes."""
    trainer = make_trainer(data, epochs=1)
    path = {"checkpoints": tmp_path / f"checkpoints/{trainer.key}.pt", "model": tmp_path / "model/model.safetensors"}
    path[name].parent.mkdir()
    (path[name].parent / f".{os.getpid()}.{path[name].name}").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stop:
        run_command(
            lambda: write_model(
                tmp_path / "model", train(trainer, tmp_path / "checkpoints", lambda _: None).encoder, "stretch"
            )
        )
    assert stop.value.code == 1
    message = f"error: {path[name]}: No space left on device; free some space and run this again\n"
    assert capsys.readouterr().err.endswith(message)
    assert not path[name].exists()
    assert name == "checkpoints" or path["checkpoints"].exists(), "what was learned is not lost with the disk"


def test_the_embeddings_of_the_first_and_of_the_best_epoch_outlast_an_interruption(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(make_trainer(data), tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_APART", -1.0)
    trainer, first = make_trainer(data), []

    def stop_in_the_third(history: pd.DataFrame) -> None:
        first.append(trainer.validate().embeddings)
        if len(history) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(trainer, tmp_path / "checkpoints", stop_in_the_third)
    parts = run(make_trainer(data), tmp_path)
    assert np.array_equal(whole.first, first[0]) and not np.array_equal(whole.first, first[1])
    assert np.array_equal(parts.first, whole.first) and np.array_equal(parts.best, whole.best)
    assert np.array_equal(whole.best, embed_rows(whole.encoder, data.shards, data.val_rows))
