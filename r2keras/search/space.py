"""Candidates of a search and their bytes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import keras

from r2keras._util.errors import invalid_choice
from r2keras._util.json_text import member
from r2keras._util.shown import shown
from r2keras._util.text import bits, count
from r2keras.budget import footprint
from r2keras.search.settings import FLOAT, PALETTE, Search
from r2keras.specs import METHODS, PaletteSpec, QuantSpec, Recipe, Spec
from r2keras.widening import widen

FLOAT32_BITS = 32


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One model to train.

    Args:
        method: a method of `QuantSpec`, `"palette"` or `"float"`.
        num_bits: bits per weight; 32 for float.
        width: the width factor for `widen`.
        bytes: bytes of its weights, packed or in containers according to `Search.count`.
        container_bytes: bytes of its weights in the containers of a `.tflite` file.
        counted: the compressed and the float kernels, as in `Footprint.counted`.
    """

    method: str
    num_bits: int
    width: float
    bytes: int = 0
    container_bytes: int = 0
    counted: str = ""

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Candidate:
        """Returns the candidate from the result of `dataclasses.asdict`.

        Raises:
            ValueError: a part is missing, or is not one of a candidate.
        """
        where = "the candidate"
        method, num_bits = member(config, "method", str, where), member(config, "num_bits", int, where)
        width, counted = member(config, "width", float, where), member(config, "counted", str, where)
        num_bytes, container_bytes = (member(config, key, int, where) for key in ("bytes", "container_bytes"))
        if method not in (FLOAT, PALETTE, *METHODS):
            raise ValueError(invalid_choice("method", (FLOAT, PALETTE, *METHODS), method))
        if not 1 <= num_bits <= FLOAT32_BITS or not 0 < width < math.inf or not min(num_bytes, container_bytes) >= 0:
            raise ValueError(f"{where} is not one of a search: {shown(config)}")
        return cls(method, num_bits, float(width), num_bytes, container_bytes, counted)

    @property
    def is_control(self) -> bool:
        """Whether it is the float control of its width."""
        return self.method == FLOAT

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that identify the candidate."""
        return {"method": self.method, "num_bits": self.num_bits, "width": self.width}

    @property
    def label(self) -> str:
        """The candidate as text."""
        name = FLOAT if self.is_control else f"{self.method}, {bits(self.num_bits)}"
        return f"{name}, width {self.width:g}"


@dataclasses.dataclass(frozen=True)
class Space:
    """The candidates of a search.

    Args:
        candidates: the candidates to train, float controls first.
        over_budget: number of candidates left out because they exceed `max_bytes`.
        undefined: number of candidates left out because the method does not support the bit width.
    """

    candidates: tuple[Candidate, ...]
    over_budget: int
    undefined: int

    def find(self, params: dict[str, Any]) -> Candidate | None:
        """Returns the candidate with the parameters of a trial, or None."""
        return next((c for c in self.candidates if c.params == params), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the space as plain JSON."""
        return {**dataclasses.asdict(self), "candidates": [dataclasses.asdict(c) for c in self.candidates]}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Space:
        """Returns the space from the result of `to_dict`.

        Raises:
            ValueError: a part is missing or is not what `to_dict` returns.
        """
        candidates = member(config, "candidates", list, "the space")
        over_budget, undefined = (member(config, key, int, "the space") for key in ("over_budget", "undefined"))
        return cls(tuple(map(Candidate.from_dict, candidates)), over_budget, undefined)


def recipe_of(search: Search, method: str, num_bits: int) -> Recipe | None:
    """Returns the recipe of a method and bit width; None for the float control.

    Raises:
        ValueError: the method does not support the bit width.
    """
    if method == FLOAT:
        return None
    rules: list[tuple[str, Spec | None]] = [(".*", _spec(search, method, num_bits))]
    if search.keep_float is not None:
        rules.insert(0, (search.keep_float, None))
    return Recipe(rules)


def space_of(search: Search, model: keras.Model) -> Space:
    """Returns the candidates of a search with their bytes, from shapes alone.

    Raises:
        ValueError: the model cannot be widened to a width, or no candidate is within the budget.
    """
    models = {width: _widened(search, model, width) for width in search.widths}
    controls = [_candidate(search, FLOAT, FLOAT32_BITS, width, models[width], None) for width in sorted(models)]
    compressed, num_undefined = [], 0
    for method, num_bits in itertools.product(search.methods, search.bits):
        recipe = _recipe_or_none(search, method, num_bits)
        if recipe is None:
            num_undefined += len(models)
        else:
            compressed += [_candidate(search, method, num_bits, w, wide, recipe) for w, wide in models.items()]
    fitting = [c for c in compressed if search.max_bytes is None or c.bytes <= search.max_bytes]
    if not fitting:
        raise ValueError(_no_candidate_message(search, compressed))
    return Space((*controls, *fitting), len(compressed) - len(fitting), num_undefined)


def _widened(search: Search, model: keras.Model, width: float) -> keras.Model:
    """Returns the widened model, or the model itself if 1 is the only width: it may have no layer to widen."""
    return model if width == 1 and search.widths == (1.0,) else widen(model, width, match=search.match)


def _spec(search: Search, method: str, num_bits: int) -> Spec:
    """Returns the spec of all compressed kernels."""
    if method == PALETTE:
        return PaletteSpec(num_bits=num_bits)
    return QuantSpec(
        num_bits=num_bits,
        method=method,
        granularity=search.granularity,
        activation_bits=search.activation_bits,
        activation_method=search.activation_method,
    )


def _recipe_or_none(search: Search, method: str, num_bits: int) -> Recipe | None:
    """Returns the recipe, or None if the method does not support the bit width."""
    try:
        return recipe_of(search, method, num_bits)
    except ValueError as error:
        if "`num_bits`" in str(error):
            return None
        raise


def _candidate(
    search: Search, method: str, num_bits: int, width: float, model: keras.Model, recipe: Recipe | None
) -> Candidate:
    """Returns a candidate with its bytes."""
    size = footprint(model, recipe)
    num_bytes = size.container_bytes if search.count == "containers" else size.bytes
    return Candidate(method, num_bits, width, num_bytes, size.container_bytes, size.counted)


def _no_candidate_message(search: Search, compressed: list[Candidate]) -> str:
    """Returns the message for a budget below every candidate, or for methods that support none of the bits."""
    if not compressed:
        methods, bit_widths = list(search.methods), list(search.bits)
        return f"None of the methods {methods} supports any of the bits {bit_widths}. Choose other bits."
    smallest = min(compressed, key=lambda c: c.bytes)
    return (
        f"No candidate fits max_bytes={count(search.max_bytes)}. Expected a budget of at least "
        f"{count(smallest.bytes)}, the bytes of the smallest candidate ({smallest.label}). Allow fewer bits, smaller "
        "widths or more bytes."
    )
