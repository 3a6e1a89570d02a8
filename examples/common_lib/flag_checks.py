"""Checks of flags that all examples share. Each raises a UsageError that names the flag and its value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags


class UsageError(ValueError):
    """A bad command line: one line on standard error, exit code 2."""


def apply_smoke(small: Mapping[str, Any]) -> None:
    """With `--smoke`, sets the flags in `small` that the command line does not set."""
    if not flags.FLAGS.smoke:
        return
    for name, value in small.items():
        if not flags.FLAGS[name].present:
            flags.FLAGS[name].value = value


def check_at_least(flag: str, value: float | None, least: float) -> None:
    """Raises if a value is below `least`; None passes."""
    if value is not None and value < least:
        raise UsageError(f"--{flag}={value} is too small: expected at least {least}")


def check_positive(flag: str, value: float | None) -> None:
    """Raises unless a value is above 0 and finite; None passes."""
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"--{flag}={value} is out of range: expected a number above 0")


def check_choice(flag: str, word: str, choices: Collection[str]) -> None:
    """Raises unless a word is one of `choices`."""
    if word not in choices:
        raise UsageError(f"--{flag}={word} is unknown: expected one of {', '.join(choices)}")


def unique_words(flag: str, words: Sequence[str], choices: Collection[str]) -> tuple[str, ...]:
    """Returns the words without duplicates; raises if there are none, or one is not in `choices`."""
    for word in words:
        check_choice(flag, word, choices)
    if not words:
        raise UsageError(f"--{flag} is empty: expected any of {', '.join(choices)}")
    return tuple(dict.fromkeys(words))


def unique_integers(flag: str, words: Sequence[str], low: int, high: int) -> tuple[int, ...]:
    """Returns the words as integers without duplicates; raises unless all lie between `low` and `high`."""
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in words))
    except ValueError:
        raise UsageError(f"--{flag}={','.join(words)}: expected integers separated by commas") from None
    if not numbers or not all(low <= number <= high for number in numbers):
        raise UsageError(f"--{flag}={','.join(words)}: expected integers from {low} to {high}")
    return numbers
