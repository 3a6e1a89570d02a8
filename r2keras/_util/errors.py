"""The one form of error messages: the argument, what was expected, what was received, and the likely fix."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping

from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras._util.shown import cut, shown

# More threads than any processor has cores. LiteRT starts as many as it is told to, which may never end.
MOST_THREADS = 1024


class DataNeededError(ValueError):
    """A step needs calibration data, and none were given."""


class EdgesError(ValueError):
    """A recipe has a rule for the first and last kernels, and the model has none between them."""


def invalid(name: str, expected: str, received: object, fix: str = "") -> str:
    """Returns the message for a bad argument.

    >>> invalid("num_bits", "an integer from 1 to 8", 9)
    'Invalid value for argument `num_bits`. Expected an integer from 1 to 8. Received: num_bits=9.'
    """
    text = f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={shown(received)}."
    return f"{text} {sentence(fix)}" if fix else text


def invalid_part(name: str, expected: str, received: str, fix: str = "") -> str:
    """Returns the message for an argument of which a part is wrong, such as a layer of a model.

    Args:
        name: the argument.
        expected: the values that it accepts.
        received: the wrong part, described in words.
        fix: the likely remedy, or empty.

    >>> invalid_part("model", "a built model", "the model 'net', which is not built", "Give it a keras.Input")
    "Invalid value for argument `model`. Expected a built model. Received: the model 'net', which is not built. ..."
    """
    text = f"Invalid value for argument `{name}`. Expected {expected}. Received: {sentence(received)}"
    return f"{text} {sentence(fix)}" if fix else text


def invalid_choice(name: str, choices: Iterable[str], received: object) -> str:
    """Returns the message for a string that is not among `choices`, with the nearest one suggested.

    >>> invalid_choice("range", ("min_max", "mse"), "mes")
    "Invalid value for argument `range`. Expected one of 'min_max', 'mse'. Received: range='mes'. Did you mean 'mse'?"
    """
    choices = list(choices)
    near = difflib.get_close_matches(cut(received, 50) if isinstance(received, str) else "", choices, n=1)
    fix = f"Did you mean {near[0]!r}?" if near else ""
    return invalid(name, "one of " + ", ".join(map(repr, choices)), received, fix)


def missing(package: str, purpose: str, extra: str = "") -> str:
    """Returns the message for a package that is not installed.

    >>> missing("tensorflow", "Export to LiteRT")
    'Export to LiteRT needs the package `tensorflow`, which is not installed. Run `pip install tensorflow`.'
    """
    command = f"pip install 'r2keras[{extra}]'" if extra else f"pip install {package}"
    return f"{purpose} needs the package `{package}`, which is not installed. Run `{command}`."


def sentence(text: str) -> str:
    """Returns the text, with a full stop if it does not end like a sentence.

    >>> sentence("Did you mean it?"), sentence("It is empty")
    ('Did you mean it?', 'It is empty.')
    """
    return text if text.endswith((".", "?", "!")) else text + "."


def check_int(name: str, value: object, low: int, high: int | None) -> int:
    """Returns an integer in `[low, high]`, also one of NumPy, as a Python int; raises for anything else."""
    expected = f"an integer from {low} to {high}" if high is not None else f"an integer of at least {low}"
    whole = as_int(value)
    if whole is None:
        raise TypeError(invalid(name, expected, value))
    if whole < low or (high is not None and whole > high):
        raise ValueError(invalid(name, expected, value))
    return whole


def check_threads(value: object) -> int:
    """Returns the argument `num_threads` as a Python int; raises for anything else than 1 to `MOST_THREADS`."""
    return check_int("num_threads", value, 1, MOST_THREADS)


def check_choice(name: str, choices: Collection[str], value: object) -> None:
    """Raises ValueError unless a value is one of the strings `choices`.

    >>> check_choice("range", ("min_max", "mse"), ["mse"])
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `range`. Expected one of 'min_max', 'mse'. Received: range=['mse'].
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(invalid_choice(name, choices, value))


def check_named_files(files: object) -> None:
    """Raises for an argument `files` that is not a dict with at least one path by its name."""
    if not isinstance(files, Mapping):
        raise TypeError(invalid("files", "a dict of paths by name", files))
    if not files:
        raise ValueError(invalid("files", "at least one .tflite file, by its name in the table", files))


def check_pattern(name: str, value: object, received: str = "") -> re.Pattern[str]:
    """Returns a regular expression compiled; raises ValueError for anything else.

    Args:
        name: the argument.
        value: its value.
        received: where the pattern is, in words, if the argument has several.

    >>> check_pattern("match", "(")
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `match`. Expected a regular expression. Received: match='('. Correct the \
pattern: missing ), unterminated subpattern at position 0.
    """
    try:
        if not isinstance(value, str):
            raise TypeError("it is not text")
        return re.compile(value)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else cut(error, 200)
        expected, fix = "a regular expression", f"Correct the pattern: {reason}"
        text = invalid_part(name, expected, received, fix) if received else invalid(name, expected, value, fix)
        raise ValueError(text) from error


def check_number(name: str, value: object, low: float, high: float) -> float | None:
    """Returns None, or a finite number in `[low, high]` as a Python number; raises for anything else."""
    expected = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number of at least {low:g}"
    if value is None:
        return None
    number = as_number(value)
    if number is None:
        raise TypeError(invalid(name, expected, value))
    if not (is_finite(number) and low <= number <= high):
        raise ValueError(invalid(name, expected, value))
    return number


def check_positive(name: str, value: object, expected: str = "a finite number above 0") -> float:
    """Returns a finite number above 0 as a Python number; raises for anything else."""
    number = as_number(value)
    if number is None:
        raise TypeError(invalid(name, expected, value))
    if not (is_finite(number) and number > 0):
        raise ValueError(invalid(name, expected, value))
    return number


def check_only_with(name: str, value: object, needed: str, needed_value: object, received: object) -> None:
    """Raises for an argument that is valid only together with another one.

    Args:
        name: the argument.
        value: its value; None if it was left out.
        needed: the other argument.
        needed_value: the value that the other argument needs.
        received: the value that it has.

    >>> check_only_with("delta", 0.1, "method", "ewgs", "ste")
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `delta`. Expected None unless method='ewgs'. Received: delta=0.1. ...
    """
    if value is not None and received != needed_value:
        raise ValueError(invalid(name, f"None unless {needed}={needed_value!r}", value, f"Leave {name} out"))
