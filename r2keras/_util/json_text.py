"""Parsing of JSON that was not written by this package, and checked access to what it holds."""

from __future__ import annotations

import collections
import json
from typing import Any, TypeVar

from r2keras._util.numeric import as_int, as_number
from r2keras._util.shown import cut, shown

T = TypeVar("T")
_KINDS = {dict: "an object", list: "a list", str: "text", int: "an integer", float: "a number", bool: "true or false"}
_MISSING: Any = object()


def parse_json(data: bytes | str) -> Any:
    """Returns the value of a JSON text; unlike `json.loads`, refuses repeated keys, NaN and infinities.

    Args:
        data: the text, or its bytes in UTF-8.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.

    Example:

    >>> parse_json('{"bits": 4}')
    {'bits': 4}
    >>> parse_json('{"bits": 4, "bits": 2}')
    Traceback (most recent call last):
    ...
    ValueError: It is not valid JSON (the key 'bits' is given twice).
    """
    try:
        text = decoded(data) if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("It is not valid JSON (it is nested too deeply).") from error
    except ValueError as error:
        raise ValueError(f"It is not valid JSON ({cut(error)}).") from error


def decoded(data: bytes) -> str:
    """Returns UTF-8 bytes, with or without a byte order mark, as text.

    >>> decoded(b"a")
    'a'
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason} at byte {error.start}") from error


def member(config: object, key: str, kind: type[T], where: str, default: Any = _MISSING) -> T:
    """Returns one entry of a parsed object, or raises ValueError.

    Args:
        config: the parsed object.
        key: the key.
        kind: the type that the value must have.
        where: what the object is, for the message.
        default: the value if the key is missing; without it, the key is required.

    Example:

    >>> member({"bits": "4"}, "bits", int, "the file")
    Traceback (most recent call last):
    ...
    ValueError: `bits` of the file is not an integer. Received: '4'
    """
    if not isinstance(config, dict):
        raise ValueError(f"{where} is not an object. Received: {shown(config)}")
    value = config.get(key, default)
    if value is _MISSING:
        raise ValueError(f"{where} has no `{key}`")
    if not _fits(value, kind):
        raise ValueError(f"`{key}` of {where} is not {_KINDS[kind]}. Received: {shown(value)}")
    return value


def texts(config: object, key: str, where: str) -> dict[str, str]:
    """Returns an entry that is an object of texts, or raises ValueError.

    >>> texts({"notes": {"a": "b"}}, "notes", "the file")
    {'a': 'b'}
    """
    found = member(config, key, dict, where)
    for name in found:
        member(found, name, str, f"`{key}` of {where}")
    return found


def _fits(value: object, kind: type) -> bool:
    """Whether a value is of a type; booleans are not numbers, and integers are numbers."""
    if kind is int:
        return as_int(value) is not None
    return as_number(value) is not None if kind is float else isinstance(value, kind)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of an object as a dictionary."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        repeated = counts.most_common(1)[0][0]
        raise ValueError(f"the key {shown(repeated)} is given twice")
    return found


def _no_constant(name: str) -> None:
    """Refuses NaN and infinities, which JSON does not have."""
    raise ValueError(f"{name} is not a number")
