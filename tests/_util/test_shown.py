"""Received values are cut in messages, and of large ones only the beginning is read."""

import dataclasses

import numpy as np
import pytest

from r2keras._util.errors import invalid, invalid_choice
from r2keras._util.shown import LONGEST, cut, shown

pytestmark = pytest.mark.backends


@pytest.mark.parametrize(
    "value",
    [
        *(
            0,
            -1.5,
            None,
            True,
            "a'b",
            b"\x00",
            [],
            (),
            {},
            set(),
            frozenset(),
            [1],
            (1,),
            (1, 2),
            {1},
            {"a": [1, {2: 3}]},
        ),
        *([[[]]], {"a": {}}, frozenset({1}), np.float32(0.5), np.arange(3), len, int, [None, (1, "x")]),
    ],
)
def test_short_values_are_their_repr(value):
    assert shown(value) == repr(value)


def test_aliases_are_not_expanded():
    nested = ["x"] * 8
    for _ in range(60):
        nested = [nested] * 8
    assert len(shown(nested)) == LONGEST
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[[[...]]]]]]"
    own = {}
    own["own"] = own
    assert len(shown(own)) <= LONGEST


@dataclasses.dataclass
class Refuses:
    def __repr__(self):
        raise RuntimeError


def test_long_values_are_cut():
    for value in ("x" * 10**7, b"x" * 10**7, [0] * 10**7, {"x" * 10**7: 1}, 10**300):
        assert len(shown(value)) == LONGEST
        assert shown(value).endswith("...")
        assert len(invalid("x", "y", value)) < LONGEST + 100
        assert len(invalid_choice("x", ["a", "b"], value)) < LONGEST + 100


def test_an_array_of_many_values_is_its_shape():
    assert shown(np.zeros((64, 8), np.float32)) == "an array of shape (64, 8) and type float32"
    assert shown([np.zeros(900)]) == "[an array of shape (900,) and type float64]"


def test_values_without_a_repr():
    assert shown(Refuses()) == "<Refuses>"
    assert shown([10**10_000]) in ("[<int>]", shown([10**10_000]))
    assert len(shown(10**10_000)) <= LONGEST


def test_cut():
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "..."
    assert cut(ValueError("abcdefgh"), 5) == "ab..."
