"""Damaged copies of valid files, for hypothesis: changed bytes, and exchanged values of their JSON."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Of a quick run, and of `SLOW=1`.
QUICK, MANY = 200, 10_000
# What edited files hold in place of numbers, texts, lists and objects.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, 1e400),
    *("", "x", "x" * 10_000, "\x00", "../../x", "a{99999999999}", "(", "float", "ste", "per_group"),
    *([], [[]], [1], [None], ["a", 1], {}, {"a": 1}, {"": None}, [10**30] * 3, [[[[[[[[1]]]]]]]]),
]
# Bytes that mean something in the formats.
TOKENS = [*(bytes([i]) for i in (0, 1, 9, 10, 32, 127, 128, 255)), b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"]
TEXT_TOKENS = [
    *(c.encode() for c in "[]{}:,*&!|>-?#%'\"@`\\~<=0123456789.eE"),
    b"!!bool ",
    b"<<: ",
    b"*a",
    b"&a ",
    b"NaN",
]


def examples(number: int) -> Callable:
    """Returns hypothesis' settings for a number of examples, the same in every run."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes, *, text: bool = False) -> bytes:
    """Draws a copy of a file with one to four changes of its bytes."""
    result = bytearray(data)
    tokens = [*TOKENS, *TEXT_TOKENS] if text else TOKENS
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(result) - 1, 0)))
        length = draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["flip", "set", "insert", "drop", "copy", "cut", "repeat"]))
        if kind == "flip" and result:
            result[place] ^= 1 << draw(st.integers(0, 7))
        elif kind in ("set", "insert"):
            token = draw(st.sampled_from(tokens))
            result[place : place + (len(token) if kind == "set" else 0)] = token
        elif kind == "drop":
            del result[place : place + length]
        elif kind == "copy":
            source = draw(st.integers(0, max(len(result) - 1, 0)))
            result[place:place] = result[source : source + length]
        elif kind == "cut" and draw(st.booleans()):
            del result[place:]
        elif kind == "repeat":
            result[place:place] = result[place : place + length] * draw(st.integers(1, 300))
    return bytes(result)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all values within lists and dictionaries."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(*path, key) for key, _ in items]
    return found + [deeper for key, part in items for deeper in places(part, (*path, key))] if found else []


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """Draws a copy of a JSON value in which one to three values are exchanged, dropped, renamed or moved."""
    result = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        paths = places(result)
        if not paths:
            return draw(st.sampled_from(ODD_VALUES))
        *way, key = draw(st.sampled_from(paths))
        parent = result
        for step in way:
            parent = parent[step]
        kind = draw(st.sampled_from(["exchange", "exchange", "drop", "rename", "move"]))
        if kind == "drop":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", "kind", "match", "num_bits"]))] = parent.pop(key)
        elif kind == "move":
            *other, last = draw(st.sampled_from(paths))
            source = result
            try:
                for step in (*other, last):
                    source = source[step]
            except (LookupError, TypeError):  # An earlier change removed it.
                continue
            parent[key] = copy.deepcopy(source)
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return result


def check_refusal(error: ValueError, name: str) -> None:
    """Asserts that an error is one sentence of bounded length that names the file."""
    text = str(error)
    assert name in text
    assert len(text) < 4000
    assert "\n" not in text


def peak_megabytes() -> float:
    """Returns the most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
