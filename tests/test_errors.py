"""How a command ends: by a message, by a signal, or because who reads it has seen enough."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from isic_siamese.errors import DataError, run_command

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
DEMO = """
release: demo
seed: 1
margin: 1.0
demo: {seed: 1, patients: 12, images: 400, melanomas: 6, duplicates: 1, test_images: 2, image_px: 256}
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("a.csv: no rows"), "error: a.csv: no rows\n"),
        (DataError("a.csv: no rows\nmend it"), "error: a.csv: no rows\n       mend it\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.npy"),
            "error: a.npy: No space left on device; free some space and run this again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.csv"),
            "error: a.csv: Permission denied; mend that and run this again\n",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "pairs"),
            "error: pairs: File exists; mend that and run this again\n",
        ),
        (
            OSError(errno.ELOOP, "Too many levels of symbolic links", "a.jpg"),
            "error: a.jpg: Too many levels of symbolic links; mend that and run this again\n",
        ),
        (
            OSError(errno.ENOTEMPTY, "Directory not empty", "raw"),
            "error: raw: Directory not empty; mend that and run this again\n",
        ),
        (
            OSError(errno.EFBIG, "File too large", "a.npy"),
            "error: a.npy: File too large; raise the limit of 'ulimit -f', or use a disk that takes files of that "
            "size, and run this again\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_message_and_exit_status_1(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(fail)
    assert stop.value.code == 1 and capsys.readouterr().err == message


def test_a_message_begins_below_an_open_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        for number in tqdm(range(9), "check"):
            if number == 3:
                raise DataError("a.csv: no rows")

    with pytest.raises(SystemExit):
        run_command(fail)
    bar, message, rest = capsys.readouterr().err.rpartition("\r")[2].split("\n")
    assert bar.startswith("check") and message == "error: a.csv: no rows" and rest == ""


def test_what_no_user_can_mend_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        run_command(Path("/no/such/file").unlink)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = """
from isic_siamese.errors import run_command
run_command(lambda: [print("line") for _ in range(10**6)])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_closed_output_is_no_error() -> None:
    code = "import sys; sys.stdout = None; from isic_siamese.errors import run_command; run_command(lambda: None)"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def listen() -> None:
    """Heed Ctrl-C, as a process does that a terminal started; one in the background, as tests may be, ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("module", ["stages.train", "isic_siamese"])
def test_ctrl_c_during_imports_ends_a_command_without_a_traceback(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        assert process.stderr
        assert any(line.endswith(" numpy\n") for line in process.stderr)  # torch is yet to come
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == -signal.SIGINT and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_ended_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal sends SIGINT, a scheduler first SIGTERM."""
    (tmp_path / "params.yaml").write_text(DEMO)
    stage = [sys.executable, "-m", "stages.download"]
    with subprocess.Popen(stage, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, preexec_fn=listen) as process:
        while not list(tmp_path.glob("data/releases/demo/.*.zip")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not list(tmp_path.glob("data/releases/demo/*.zip")) + list(tmp_path.glob("data/releases/demo/.*"))
