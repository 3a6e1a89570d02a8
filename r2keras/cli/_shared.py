"""What the command-line tools share: flags, help, inputs, and one sentence instead of a traceback.

r2keras, and with it the Keras backend, is imported after the flags are known to be good.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    import keras
    import numpy as np

USAGE_ERROR = 2
INTERRUPTED = 130
_MISTAKES = (ValueError, TypeError, OSError, ImportError, RuntimeError)
_UNREADABLE = (*_MISTAKES, KeyError, AttributeError, EOFError, zipfile.BadZipFile)


def run(values: flags.FlagValues, text: str, tool: Callable[[], int], argv: Sequence[str] | None = None) -> int:
    """Parses the command line into `values` and runs a tool.

    Args:
        values: the tool's flags. They are its own, so that two tools can be imported side by side.
        text: what `--help` shows above the flags: the tool's module docstring.
        tool: does the work and returns the exit code.
        argv: the program's name and arguments; None means `sys.argv`.

    Returns:
        The tool's exit code; 2 after a mistake of the user's, told in one sentence on standard error; 130 after Ctrl-C.
    """
    argv = list(sys.argv if argv is None else argv)
    values.unparse_flags()
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(argv[1:]):
        sys.stdout.write(f"{text.strip()}\n\nFlags:\n{_flags_help(values)}")
        return 0
    try:
        rest = values(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        return tool()
    except flags.Error as error:
        return _told(f"{' '.join(str(error).split())}. See --help.")
    except _MISTAKES as error:
        return _told(_sentence(error))
    except KeyboardInterrupt:
        _told("Stopped.")
        return INTERRUPTED


def load_r2keras() -> ModuleType:
    """Returns the package, imported without the log that TensorFlow's native code writes to the terminal.

    Raises:
        ImportError: the package, or one that it needs, is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _errors_to_nowhere():  # What TensorFlow logs while it is imported heeds no variable.
            import r2keras
    except ModuleNotFoundError as error:
        fix = "Run `python -m pip install .` in the folder of the repository first"
        raise ImportError(f"The package `{error.name}` is not installed. {fix}") from error
    return r2keras


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` or `.h5` model, uncompiled.

    Raises:
        ValueError: the file is corrupt, or no Keras model.
        OSError: the file cannot be read.
    """
    import keras

    from r2keras._errors import invalid
    from r2keras._files import one_line

    if Path(path).suffix not in (".keras", ".h5"):
        raise ValueError(invalid("model", "a file name ending in .keras or .h5", str(path)))
    open(path, "rb").close()  # Keras takes a file that cannot be opened for a corrupt one.
    try:
        return keras.models.load_model(path, compile=False)
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a readable Keras model ({one_line(error)[:300]}).") from error


def load_inputs(path: str | os.PathLike, model: keras.Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads the inputs of a model from an `.npz`: the array `x`, or one array by the name of each input.

    Returns:
        `(inputs, others)` by name: the inputs in the model's order, and the arrays that are no inputs.

    Raises:
        ValueError: the file is corrupt, lacks an input, or holds no samples.
        OSError: the file cannot be read.
    """
    from r2keras._files import read_npz

    arrays = read_npz(path)
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and names[0] not in arrays:
        names = ["x"]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks the array {_quoted(missing)}. Expected {_quoted(names)}. Received: {_quoted(arrays)}"
        )
    if any(arrays[name].ndim == 0 or not len(arrays[name]) for name in names):
        raise ValueError(f"{path} holds no samples. Expected at least one along the first axis of {_quoted(names)}")
    return {name: arrays.pop(name) for name in names}, arrays


def need(values: flags.FlagValues, *names: str) -> None:
    """Raises ValueError for the first of the named flags that was not given."""
    for name in names:
        if not values[name].value:
            raise ValueError(f"--{name} is missing ({values[name].help.rstrip('.')}). See --help")


def _quoted(names: Iterable[str]) -> str:
    """Returns names between backticks."""
    return ", ".join(f"`{name}`" for name in names) or "nothing"


@contextlib.contextmanager
def _errors_to_nowhere() -> Iterator[None]:
    """Points the file descriptor of standard error at the null device while the block runs."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _flags_help(values: flags.FlagValues) -> str:
    """Returns one line a flag, in the order of their definition."""
    return "".join(f"  --{name}: {values[name].help}\n" for name in values if name not in ("", "?"))


def _sentence(error: BaseException) -> str:
    """Returns what an exception says, on one line."""
    try:
        load_r2keras()
    except ImportError as absent:
        return f"{absent}."
    from r2keras._errors import sentence
    from r2keras._files import one_line

    return sentence(one_line(error))


def _told(sentence: str) -> int:
    """Writes one line to standard error and returns the exit code of a user's mistake."""
    sys.stderr.write(f"{sentence}\n")
    return USAGE_ERROR
