"""One form for every error a user can cause: what, expected, received, the likely fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataNeededError(ValueError):
    """Something has to be measured, and there are no data to measure it on."""


def invalid(name: str, expected: str, received: object, fix: str = "") -> str:
    """Returns the message for a bad argument.

    >>> invalid("num_bits", "an integer from 1 to 8", 9)
    'Invalid value for argument `num_bits`. Expected an integer from 1 to 8. Received: num_bits=9.'
    """
    text = f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={received!r}."
    return f"{text} {sentence(fix)}" if fix else text


def invalid_choice(name: str, choices: Iterable[str], received: object) -> str:
    """Returns the message for a word that is not among `choices`, with the nearest one offered.

    >>> invalid_choice("range", ("min_max", "mse"), "mes")
    "Invalid value for argument `range`. Expected one of 'min_max', 'mse'. Received: range='mes'. Did you mean 'mse'?"
    """
    choices = list(choices)
    near = difflib.get_close_matches(str(received), choices, n=1)
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
    """Returns a text that ends like a sentence.

    >>> sentence("Did you mean it?"), sentence("It is empty")
    ('Did you mean it?', 'It is empty.')
    """
    return text if text.endswith((".", "?", "!")) else text + "."


def check_int(name: str, value: object, low: int, high: int | None) -> None:
    """Raises unless `value` is an integer in `[low, high]`."""
    expected = f"an integer from {low} to {high}" if high is not None else f"an integer of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(invalid(name, expected, value))
    if value < low or (high is not None and value > high):
        raise ValueError(invalid(name, expected, value))


def check_owned(spec: object, name: str, owner: str, low: float, high: float) -> None:
    """Raises unless an argument is None, or a number in `[low, high]` where the argument that needs it is given."""
    value, (argument, word) = getattr(spec, name), owner.split("=")
    expected = f"a number from {low:g} to {high:g}" if high < float("inf") else f"a number of at least {low:g}"
    if value is None:
        return
    if getattr(spec, argument) != word:
        raise ValueError(invalid(name, f"None unless {argument}={word!r}", value, f"Leave {name} out"))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(invalid(name, expected, value))
    if not (low <= value <= high and abs(value) < float("inf")):
        raise ValueError(invalid(name, expected, value))
