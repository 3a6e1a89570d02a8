"""Received values as text of bounded length, for error messages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Characters of a received value in a message. Longer ones are cut: a file of some bytes can describe gigabytes.
LONGEST = 200
# A container within this many others is not opened.
DEEPEST = 6
# Elements of an array whose values are shown; of larger ones, the shape is.
LARGEST_ARRAY = 8
_CUT = "..."
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def shown(value: object) -> str:
    """Returns the `repr` of a value, cut after 200 characters; of large containers, only the beginning is read.

    >>> shown({"num_bits": 9})
    "{'num_bits': 9}"
    >>> len(shown(["x" * 10**6] * 10**6))
    200
    >>> shown(np.zeros((64, 8)))
    'an array of shape (64, 8) and type float64'
    """
    parts, length = [], 0
    for part in _parts(value, 0):
        parts.append(part)
        length += len(part)
        if length > LONGEST:
            break
    return cut("".join(parts))


def cut(text: object, longest: int = LONGEST) -> str:
    """Returns a text, or the text of an exception, cut after some characters.

    >>> cut("abcdefgh", 6), cut("abc", 6)
    ('abc...', 'abc')
    """
    text = str(text)
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT


def _parts(value: object, depth: int) -> Iterator[str]:
    """Yields the `repr` of a value in parts; plain containers are opened only as far as the parts are asked for."""
    kind = type(value)
    if isinstance(value, (str, bytes)) and kind in (str, bytes):
        yield repr(value[: LONGEST + 1])
    elif kind in _BRACKETS and value:
        yield from _opened(value, depth) if depth < DEEPEST else (_CUT,)
    else:
        yield _own_text(value)


def _opened(value, depth: int) -> Iterator[str]:
    """Yields the parts of a container that is not empty."""
    kind = type(value)
    start, end = _BRACKETS[kind]
    yield start
    for index, item in enumerate(value):
        if index:
            yield ", "
        yield from _parts(item, depth + 1)
        if kind is dict:
            yield ": "
            yield from _parts(value[item], depth + 1)
    if kind is tuple and len(value) == 1:
        yield ","
    yield end


def _own_text(value: object) -> str:
    """Returns the `repr` of a value that is not a plain container; its class if it has none; the shape of an array."""
    try:
        if isinstance(value, np.ndarray) and value.size > LARGEST_ARRAY:
            return f"an array of shape {value.shape} and type {value.dtype}"
        return repr(value)
    except Exception:  # noqa: BLE001 - Any `__repr__` may fail; Python refuses that of very long integers.
        return f"<{type(value).__name__}>"
