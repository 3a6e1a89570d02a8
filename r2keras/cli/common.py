"""Shared parts of the command-line programs: flags, help, inputs and one-line errors.

Keras and its backend are imported only after the flags have been checked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

import r2keras
from r2keras._util.errors import invalid, missing, sentence
from r2keras._util.files import one_line, read_npz
from r2keras._util.native_log import quiet_imports
from r2keras._util.npz_file import CORRUPT

if TYPE_CHECKING:
    import keras
    import numpy as np

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError)
# Errors that Keras raises for files that are not models.
_UNREADABLE = (*_USER_ERRORS, *CORRUPT)


def run(
    values: flags.FlagValues,
    text: str,
    program: Callable[[], int],
    argv: Sequence[str] | None = None,
    *,
    required: Sequence[str] = (),
) -> int:
    """Parses the command line into `values` and runs a program.

    Args:
        values: the program's flags. Each program has its own, so that two of them can be imported side by side.
        text: what `--help` prints above the flags: the program's module docstring. `--version` prints the version.
        program: does the work and returns the exit code.
        argv: the program's name and arguments; None means `sys.argv`.
        required: names of the flags that have to be given.

    Returns:
        The program's exit code; 2 after a user error, which is reported in one sentence on standard error; 130 after
        Ctrl-C.
    """
    argv = list(sys.argv if argv is None else argv)
    values.unparse_flags()
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(argv[1:]):
        sys.stdout.write(f"{_named_as_called(text, argv[0]).strip()}\n\nFlags:\n{flags_help(values, required)}")
        sys.stdout.write("  --version: Print the version of r2keras, and do nothing else.\n")
        return 0
    if "--version" in argv[1:]:
        sys.stdout.write(f"{_command(argv[0])} {r2keras.__version__}\n")
        return 0
    try:
        rest = values(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        need(values, *required)
        return program()
    except flags.Error as error:
        return _report(f"{one_line(error)}. See {_command(argv[0])} --help.")
    except MissingFlagError as error:
        return _report(f"{error}. See {_command(argv[0])} --help.")
    except _USER_ERRORS as error:
        return _report(sentence(one_line(error)))
    except KeyboardInterrupt:
        _report("Stopped.")
        return INTERRUPTED


class MissingFlagError(ValueError):
    """A flag that the program needs was not given."""


def need(values: flags.FlagValues, *names: str) -> None:
    """Raises MissingFlagError for the first of the named flags that was not given."""
    for name in names:
        if not values[name].value:
            raise MissingFlagError(f"--{name} is missing ({values[name].help.rstrip('.')})")


def import_keras() -> None:
    """Imports Keras and its backend without the log that TensorFlow's native code writes to the terminal.

    Raises:
        ImportError: Keras, or a package that it needs, is not installed.
    """
    try:
        with quiet_imports():
            import keras  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(missing(error.name or "keras", "This program")) from error


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` or `.h5` model, uncompiled.

    Raises:
        ValueError: the file is corrupt, or is not a Keras model.
        OSError: the file cannot be read.
        ImportError: Keras is not installed.
    """
    import_keras()
    import keras

    if Path(path).suffix not in (".keras", ".h5"):
        raise ValueError(invalid("model", "a file name ending in .keras or .h5", str(path)))
    with open(path, "rb"):
        pass  # Raises OSError for a file that cannot be opened, which Keras would report as corrupt.
    try:
        return keras.models.load_model(path, compile=False)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable Keras model ({one_line(error)[:300]}). Expected a file that model.save wrote."
        ) from error


def load_inputs(
    path: str | os.PathLike, model: keras.Model, flag: str = "data"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads the inputs of a model from an `.npz`: the array `x`, or one array by the name of each input.

    Args:
        path: the file.
        model: the model.
        flag: the flag that names the file, for errors.

    Returns:
        `(inputs, others)` by name: the inputs in the model's order, and the arrays that are not inputs.

    Raises:
        ValueError: the file is corrupt, lacks an input, holds no samples, or its arrays do not fit the model.
        OSError: the file cannot be read.
    """
    if Path(path).suffix == ".npy":
        raise ValueError(f"--{flag}={path} should end in .npz: save the array with np.savez(path, x=array)")
    arrays = read_npz(path)
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and names[0] not in arrays:
        names = ["x"]
    absent = [name for name in names if name not in arrays]
    if absent:
        several = f", one for each of the model's {len(names)} inputs" if len(names) > 1 else ""
        raise ValueError(
            f"{path} lacks the array {_quoted(absent)}. Expected {_quoted(names)}{several}. Received: {_quoted(arrays)}"
        )
    for name, tensor in zip(names, model.inputs, strict=True):
        _check_array(arrays[name], tensor.shape, f"The array `{name}` in --{flag}={path}")
    lengths = {len(arrays[name]) for name in names}
    if len(lengths) > 1:
        raise ValueError(f"The arrays {_quoted(names)} in --{flag}={path} hold different numbers of samples: {lengths}")
    return {name: arrays.pop(name) for name in names}, arrays


def _check_array(array: np.ndarray, expected: Sequence[int | None], label: str) -> None:
    """Raises ValueError unless an array holds numbers, and samples of the shape of an input."""
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{label} is of type {array.dtype}. Expected real numbers: token numbers for text, real and imaginary "
            "parts as two channels"
        )
    if array.ndim == 0 or not len(array):
        raise ValueError(f"{label} holds no samples. Expected at least one along its first axis")
    sizes = zip(array.shape[1:], expected[1:], strict=False)
    if array.ndim != len(expected) or any(size not in (None, found) for found, size in sizes):
        open_shape = ", ".join("any" if size is None else str(size) for size in (None, *expected[1:]))
        raise ValueError(f"{label} has the shape {array.shape}. Expected ({open_shape}), as the model takes it")


def keep_inputs(values: flags.FlagValues, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raises ValueError for a file that is to be written in place of one that is read, or of another that is written.

    Args:
        values: the program's flags.
        inputs: names of the flags that name files to read.
        outputs: names of the flags that name files to write.
    """
    taken = {os.path.realpath(values[name].value): name for name in inputs if values[name].value}
    for name in outputs:
        if values[name].value:
            path = os.path.realpath(values[name].value)
            if path in taken:
                raise ValueError(f"--{name}={values[name].value} is the file of --{taken[path]}: choose another name")
            taken[path] = name


def _command(path: str) -> str:
    """Returns the command that runs a program, from `sys.argv[0]`.

    >>> _command("/usr/bin/r2keras-convert"), _command("tools/convert.py")
    ('r2keras-convert', 'python tools/convert.py')
    >>> _command("/usr/lib/python3/r2keras/cli/convert.py")
    'python -m r2keras.cli.convert'
    """
    parts = Path(path)
    if parts.suffix != ".py":
        return parts.stem
    if parts.parts[-3:-1] == ("r2keras", "cli"):
        return f"python -m r2keras.cli.{parts.stem}"
    return f"python {path}"


def _named_as_called(text: str, path: str) -> str:
    """Returns a help text with the command that the program was run by.

    >>> _named_as_called("r2keras-expand --input=a.tflite", "tools/expand.py")
    'python tools/expand.py --input=a.tflite'
    """
    return text.replace(f"r2keras-{Path(path).stem.removesuffix('_file')}", _command(path))


def _quoted(names: Iterable[str]) -> str:
    """Returns names in backticks."""
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def flags_help(values: flags.FlagValues, required: Sequence[str] = (), names: Sequence[str] | None = None) -> str:
    """Returns one line per flag, in the order of definition, with its default or the note that it is required.

    Args:
        values: the flags.
        required: names of the flags that have to be given.
        names: the flags to list; None lists all.
    """
    lines = []
    for name in values if names is None else names:
        if name not in ("", "?"):
            remark = " Required." if name in required else _default(values[name].default)
            lines.append(f"  --{name}: {values[name].help}{remark}\n")
    return "".join(lines)


def _default(value: object) -> str:
    """Returns a flag's default in words, as it would be written on the command line.

    >>> _default(["1", "1.25"]), _default(True), _default(None)
    (' Default: 1,1.25.', ' Default: true.', '')
    """
    if value is None or value == []:
        return ""
    if isinstance(value, list):
        return f" Default: {','.join(value)}."
    return f" Default: {str(value).lower() if isinstance(value, bool) else value}."


def _report(text: str) -> int:
    """Writes one line to standard error and returns the exit code of a user error."""
    sys.stderr.write(f"{text}\n")
    return USAGE_ERROR
