"""Errors a user can mend, and how a command reports them without a traceback."""

import errno
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Where a file may not be read or written, or where a folder or a file is the other one, or a path leads nowhere.
BARRED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG),
)
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys(BARRED, "mend that"),
    errno.EFBIG: "raise the limit of 'ulimit -f', or use a disk that takes files of that size,",
}


class UserError(Exception):
    """A mistake in what the user gave. Its message says where, wanted, got and what to do next."""


class ParamsError(UserError):
    """A key of `params.yaml` is unknown, missing, mistyped or out of range."""


class DataError(UserError):
    """A file of the release, or one made from it, is not what it should be."""


class TrainingError(UserError):
    """Training cannot go on with these parameters on this machine."""


@contextmanager
def explaining(
    where: Path,
    problem: str,
    stage: str,
    broken: tuple[type[Exception], ...] = (ValueError, KeyError, IndexError, EOFError),
) -> Iterator[None]:
    """Raise a `DataError` where what is read in the block is absent or `broken`: say which stage makes it."""
    try:
        yield
    except FileNotFoundError as error:
        advice = f"run 'dvc repro {stage}' or 'dvc pull' in the root of the repository"
        raise DataError(f"{error.filename}: no such file; {advice}") from None
    except broken as error:
        raise DataError(f"{where}: {problem}: {error}; run 'dvc repro -f {stage}'") from None


def end_quietly() -> None:
    """Have Ctrl-C end a command without a traceback until `run_command`: importing torch takes seconds."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_command(main: Callable[[], None]) -> None:
    """Run `main` as a command: log to stderr, and turn a `UserError` into one message and exit status 1.

    A disk that is full or bars the way is one message, too. A SIGTERM ends it as Ctrl-C does, with nothing half written
    left behind.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, level in (("httpx", logging.WARNING), ("huggingface_hub", logging.ERROR)):  # each request, each retry
        logging.getLogger(name).setLevel(level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as `end_quietly` has it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not sys.stdout:  # None where it is closed
        sys.stdout = io.StringIO()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        traceback.clear_frames(error.__traceback__)  # which closes a progress bar, and so ends its line
        message = str(error).replace("\n", "\n       ")  # each line below the first word of the first
        sys.stderr.write(f"error: {message}\n")
        sys.exit(1)
    except BrokenPipeError:  # whoever read the answers, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the very end
        sys.exit(1)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0)
        if not advice:
            raise
        traceback.clear_frames(error.__traceback__)
        sys.stderr.write(f"error: {error.filename or 'the disk'}: {error.strerror}; {advice} and run this again\n")
        sys.exit(1)
    except KeyboardInterrupt as error:
        traceback.clear_frames(error.__traceback__)
        sys.stderr.write("stopped\n")
        sys.exit(130)
