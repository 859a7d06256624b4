"""Errors a user can mend, and how a command reports them without a traceback."""

import errno
import logging
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in what the user gave. Its message says where, wanted, got and what to do next."""


class ParamsError(UserError):
    """A key of `params.yaml` is unknown, missing, mistyped or out of range."""


class DataError(UserError):
    """A file of the release, or one made from it, is not what it should be."""


class TrainingError(UserError):
    """Training cannot go on with these parameters on this machine."""


def run_command(main: Callable[[], None]) -> None:
    """Run `main` as a command: log to stderr, and turn a `UserError` into one message and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(
            f"error: {error.filename or 'the disk'}: {error.strerror}; free some space and run this again\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
