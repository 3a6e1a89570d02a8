"""The candidates of a search, and which of them fit its budget."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from r2keras.budget import footprint
from r2keras.palette_spec import PaletteSpec
from r2keras.recipe import Recipe, Spec
from r2keras.report._format import bits, count
from r2keras.search.settings import FLOAT, PALETTE, Search
from r2keras.specs import QuantSpec
from r2keras.widening import widen

FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One model to train.

    Args:
        method: a method of `QuantSpec`, `"palette"` or `"float"`.
        num_bits: bits a weight; 32 for float.
        width: the factor for `widen`.
        bytes: what its weights take, counted as the search says.
        container_bytes: what they take in the containers of a `.tflite`.
        counted: which tensors that covers.
    """

    method: str
    num_bits: int
    width: float
    bytes: int = 0
    container_bytes: int = 0
    counted: str = ""

    @property
    def is_control(self) -> bool:
        """Whether it is the float control of its width."""
        return self.method == FLOAT

    @property
    def params(self) -> dict[str, Any]:
        """What tells it from the others."""
        return {"method": self.method, "num_bits": self.num_bits, "width": self.width}

    @property
    def label(self) -> str:
        """The candidate in words."""
        name = FLOAT if self.is_control else f"{self.method}, {bits(self.num_bits)}"
        return f"{name}, width {self.width:g}"


@dataclasses.dataclass(frozen=True)
class Space:
    """The candidates of a search.

    Args:
        candidates: those to train, the float controls first.
        over_budget: how many were left out because they take more than `max_bytes`.
        undefined: how many were left out because a method has no such number of bits.
    """

    candidates: tuple[Candidate, ...]
    over_budget: int
    undefined: int

    def find(self, params: dict[str, Any]) -> Candidate | None:
        """Returns the candidate of a trial's parameters, or None."""
        return next((c for c in self.candidates if c.params == params), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the space as plain JSON."""
        return {**dataclasses.asdict(self), "candidates": [dataclasses.asdict(c) for c in self.candidates]}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Space:
        """Returns the space of a `to_dict` result."""
        return cls(tuple(Candidate(**c) for c in config["candidates"]), config["over_budget"], config["undefined"])


def recipe_of(search: Search, method: str, num_bits: int) -> Recipe | None:
    """Returns the recipe of a method and a number of bits; None for the float control.

    Raises:
        ValueError: the method has no such number of bits.
    """
    if method == FLOAT:
        return None
    rules: list[tuple[str, Spec | None]] = [] if search.keep_float is None else [(search.keep_float, None)]
    return Recipe([*rules, (".*", _spec(search, method, num_bits))])


def space_of(search: Search, model: keras.Model) -> Space:
    """Returns the candidates of a search, each with its bytes, from shapes alone.

    Raises:
        ValueError: a model that cannot be widened so; no candidate within the budget.
    """
    wide = {width: _wider(search, model, width) for width in search.widths}
    controls = [_candidate(search, FLOAT, FLOAT_BITS, width, wide[width], None) for width in sorted(wide)]
    recipes = {(m, b): _recipe_or_none(search, m, b) for m in search.methods for b in search.bits}
    defined = {key: recipe for key, recipe in recipes.items() if recipe is not None}
    found = [_candidate(search, *key, width, wide[width], recipe) for key, recipe in defined.items() for width in wide]
    fitting = [c for c in found if search.max_bytes is None or c.bytes <= search.max_bytes]
    if not fitting:
        raise ValueError(_none_fits(search, found))
    missing = (len(recipes) - len(defined)) * len(wide)
    return Space((*controls, *fitting), len(found) - len(fitting), missing)


def _wider(search: Search, model: keras.Model, width: float) -> keras.Model:
    """Returns the wider model; width 1 alone needs nothing to widen."""
    return model if width == 1 and search.widths == (1.0,) else widen(model, width, match=search.match)


def _spec(search: Search, method: str, num_bits: int) -> Spec:
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
    """Returns the recipe, or None where only the number of bits does not go with the method."""
    try:
        return recipe_of(search, method, num_bits)
    except ValueError as error:
        if "`num_bits`" in str(error):
            return None
        raise


def _candidate(search: Search, method: str, num_bits: int, width: float, model, recipe: Recipe | None) -> Candidate:
    """Returns a candidate with its bytes."""
    found = footprint(model, recipe)
    size = found.container_bytes if search.count == "containers" else found.bytes
    return Candidate(method, num_bits, width, size, found.container_bytes, found.counted)


def _none_fits(search: Search, found: list[Candidate]) -> str:
    """Returns the message for a budget below every candidate, or for methods without any of the bits."""
    if not found:
        return f"None of the methods {list(search.methods)} has any of the bits {list(search.bits)}. Choose other bits."
    least = min(found, key=lambda c: c.bytes)
    return (
        f"No candidate fits max_bytes={count(search.max_bytes)}. Expected a budget of at least {count(least.bytes)}, "
        f"which the smallest takes ({least.label}). Allow fewer bits, smaller widths or more bytes."
    )
