"""Which of a file's constants each recorded weight owns, over all weights at once."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.export.match import Match, match


@dataclasses.dataclass(eq=False)
class Place:
    """One constant of the file and the weights that it holds.

    Args:
        constant: position of the constant in the list that was searched.
        matches: weight name -> match; the first one gives its codes, others share a constant of the same values.
    """

    constant: int
    matches: dict[str, Match]

    @property
    def owner(self) -> str:
        """The weight whose codes are stored."""
        return next(iter(self.matches))


def assign(weights: dict[str, np.ndarray], constants: list[np.ndarray]) -> tuple[list[Place], list[str]]:
    """Gives each weight the constants that hold it.

    A weight may lie in several constants (a shared layer that was folded twice), and one constant may hold several
    weights (equal tensors are merged by the converter). Constants too small to rule out chance (a bias as large as a
    kernel, say) are used only for weights that no larger one holds.

    Args:
        weights: float32 values by name.
        constants: float32 constants of the file.

    Returns:
        The places, and the names of the weights that have none.
    """
    places: dict[int, Place] = {}
    weak: dict[str, list[tuple[int, Match]]] = {}
    for name, weight in weights.items():
        for i in _of_size(constants, weight.size):
            if i in places:
                continue
            found = match(weight, constants[i])
            if found is None:
                continue
            if found.is_strong:
                places[i] = Place(i, {name: found})
            else:
                weak.setdefault(name, []).append((i, found))
    for name in weights:
        if not _has_place(places, name):
            _place_weak(name, weak.get(name, []), places, constants)
    without = [name for name in weights if not _has_place(places, name)]
    missing = [name for name in without if not _share(name, weights[name], constants, places)]
    return list(places.values()), missing


def _of_size(constants: list[np.ndarray], size: int) -> list[int]:
    """Returns the positions of the constants with `size` values."""
    return [i for i, constant in enumerate(constants) if constant.size == size]


def _has_place(places: dict[int, Place], name: str) -> bool:
    """Whether a weight has a constant."""
    return any(name in place.matches for place in places.values())


def _place_weak(
    name: str, found: list[tuple[int, Match]], places: dict[int, Place], constants: list[np.ndarray]
) -> None:
    """Gives a weight the likeliest free constant: most evidence, then a matrix rather than a vector."""
    free = [(i, m) for i, m in found if i not in places]
    if free:
        i, best = max(free, key=lambda pair: (pair[1].is_exact, pair[1].evidence, constants[pair[0]].ndim))
        places[i] = Place(i, {name: best})


def _share(name: str, weight: np.ndarray, constants: list[np.ndarray], places: dict[int, Place]) -> bool:
    """Gives a weight a constant that another one took: for its own if that has a second, shared otherwise."""
    for i in _of_size(constants, weight.size):
        found = match(weight, constants[i]) if i in places else None
        if found is None:
            continue
        owner = places[i].owner
        has_second = sum(owner in place.matches for place in places.values()) > 1
        places[i] = Place(i, {name: found} if has_second else {**places[i].matches, name: found})
        return True
    return False
