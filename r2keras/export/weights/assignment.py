"""Assignment of a file's constants to recorded weights, over all weights at once."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.weights.matching import Match, match
from r2keras.record import CompressionRecord


@dataclasses.dataclass(eq=False)
class Assignment:
    """One constant of the file and the weights whose values it holds.

    Args:
        constant: position of the constant in the list passed to `assign`.
        matches: weight name -> match. The codes of the first weight are stored; the others share its values.
    """

    constant: int
    matches: dict[str, Match]

    @property
    def owner(self) -> str:
        """The weight whose codes are stored."""
        return next(iter(self.matches))


def assign(weights: dict[str, np.ndarray], constants: list[np.ndarray]) -> tuple[list[Assignment], list[str]]:
    """Assigns to each weight the constants that hold its values.

    A weight may be in several constants (a shared layer that was folded twice), and one constant may hold several
    weights (the converter merges equal tensors). Matches weak enough to be chance (a bias of the size of a kernel, for
    example) are used only for weights without a strong one.

    Args:
        weights: float32 values by name.
        constants: float32 constants of the file.

    Returns:
        The assignments, and the names of the weights without one.
    """
    assignments: dict[int, Assignment] = {}
    weak: dict[str, list[tuple[int, Match]]] = {}
    for name, weight in weights.items():
        for i in _of_size(constants, weight.size):
            if i in assignments:
                continue
            candidate = match(weight, constants[i])
            if candidate is None:
                continue
            if candidate.is_strong:
                assignments[i] = Assignment(i, {name: candidate})
            else:
                weak.setdefault(name, []).append((i, candidate))
    for name in weights:
        if not _is_assigned(assignments, name):
            _use_weak_match(name, weak.get(name, []), assignments, constants)
    unassigned = [name for name in weights if not _is_assigned(assignments, name)]
    missing = [name for name in unassigned if not _share_constant(name, weights[name], constants, assignments)]
    return list(assignments.values()), missing


def _of_size(constants: list[np.ndarray], size: int) -> list[int]:
    """Returns the positions of the constants with `size` values."""
    return [i for i, constant in enumerate(constants) if constant.size == size]


def _is_assigned(assignments: dict[int, Assignment], name: str) -> bool:
    """Whether a constant is assigned to a weight."""
    return any(name in assignment.matches for assignment in assignments.values())


def _use_weak_match(
    name: str, candidates: list[tuple[int, Match]], assignments: dict[int, Assignment], constants: list[np.ndarray]
) -> None:
    """Assigns the likeliest free constant: an exact match, then most evidence, then a matrix rather than a vector."""
    free = [(i, candidate) for i, candidate in candidates if i not in assignments]
    if free:
        i, best = max(free, key=lambda pair: (pair[1].is_exact, pair[1].evidence, constants[pair[0]].ndim))
        assignments[i] = Assignment(i, {name: best})


def _share_constant(
    name: str, weight: np.ndarray, constants: list[np.ndarray], assignments: dict[int, Assignment]
) -> bool:
    """Assigns a constant of another weight: moved if the other one has a second constant, shared if not.

    Returns:
        Whether there is such a constant.
    """
    for i in _of_size(constants, weight.size):
        candidate = match(weight, constants[i]) if i in assignments else None
        if candidate is None:
            continue
        owner = assignments[i].owner
        has_second = sum(owner in assignment.matches for assignment in assignments.values()) > 1
        assignments[i] = Assignment(i, {name: candidate} if has_second else {**assignments[i].matches, name: candidate})
        return True
    return False


# A constant of a file: subgraph, tensor, values.
Where = tuple[int, int, np.ndarray]


def assignments_of(where: list[Where], record: CompressionRecord) -> list[Assignment]:
    """Returns the constants that hold the recorded weights, each with its weights.

    Raises:
        ValueError: a weight is in none of them.
    """
    values = {name: tensor.values() for name, tensor in record.tensors.items()}
    assignments, missing = assign(values, [constant for _, _, constant in where])
    if missing:
        expected = "weights that are constants in the converted file, which their codes replace"
        received = f"no constant with the values of {', '.join(map(repr, missing))}. Nothing was written"
        fix = "Leave the layer out of the recipe, so that it stays float"
        raise ValueError(invalid_part("record", expected, received, fix))
    return assignments
