"""The program around an example's work: parsing flags, exit codes, and errors as one line on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags

from common_lib.flag_checks import UsageError

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130
STOPPED = "Stopped. Finished work is kept; run the same command again to resume."


def start(work: Callable[[], int]) -> None:
    """Parses the command line, does the work, and exits.

    The exit code is what `work` returns; 2 for a bad command line, 1 for any other error that a user can cause, and
    130 after Ctrl-C or SIGTERM. Errors are one line on standard error.

    Args:
        work: reads its flags from `absl.flags.FLAGS`, and raises `UsageError` for a bad one.
    """
    app.run(lambda _: _exit_code(work), flags_parser=_parse_flags)


def make_console(width: int = 120) -> Console:
    """Returns a console as wide as the terminal, or `width` columns where the output goes to a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)


def _exit_code(work: Callable[[], int]) -> int:
    """Does the work and returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except UsageError as error:
        return _fail(error, BAD_USAGE)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        sys.stderr.write(f"{STOPPED}\n")
        return INTERRUPTED


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; exits with one line for a bad one."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        return rest
    except flags.Error as error:
        sys.exit(_fail(error, BAD_USAGE))


def _fail(error: BaseException, code: int) -> int:
    """Writes the error as one line; returns the exit code."""
    message = " ".join(str(error).split()) or type(error).__name__
    hint = " See --helpshort." if code == BAD_USAGE else ""
    sys.stderr.write(f"{message.rstrip('.')}.{hint}\n")
    return code
