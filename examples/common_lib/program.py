"""The program around an example's work: parsing flags, exit codes, and errors as one line on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags

from common_lib.flag_checks import UsageError
from r2keras.cli.common import flags_help

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130
STOPPED = "Stopped. Finished work is kept; run the same command again to resume."


def start(work: Callable[[], int]) -> None:
    """Parses the command line, does the work, and exits.

    `--help` prints the program's docstring, and the flags of `__main__` and of its settings module with their defaults.
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
    """Parses the command line; exits with one line for a bad one, and after the help."""
    if {"--help", "-h", "--helpshort"} & set(argv[1:]):
        sys.stdout.write(help_text(argv[0]))
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        return rest
    except flags.Error as error:
        sys.exit(_fail(error, BAD_USAGE))


def help_text(path: str) -> str:
    """Returns the help of the program that runs: its docstring, and one line per flag in the order of definition."""
    text = (sys.modules["__main__"].__doc__ or "").strip()
    defined = flags.FLAGS.flags_by_module_dict()
    names = [flag.name for module in defined if _is_settings(module, path) for flag in defined[module]]
    return f"{text}\n\nFlags:\n{flags_help(flags.FLAGS, names=names)}"


def _is_settings(module: str, path: str) -> bool:
    """Whether a module holds flags of the program: the program itself, or the settings in its folder `*_lib`."""
    package, _, name = module.rpartition(".")
    return module == path or (package.endswith("_lib") and name == "settings")


def _fail(error: BaseException, code: int) -> int:
    """Writes the error as one line; returns the exit code."""
    message = " ".join(str(error).split()) or type(error).__name__
    hint = " See --help." if code == BAD_USAGE else ""
    sys.stderr.write(f"{message.rstrip('.')}.{hint}\n")
    return code
