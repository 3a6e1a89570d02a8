"""The assignments of options to layers that no other one beats in both bytes and error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# Partial assignments that are kept after each layer. Up to this number the front is exact; beyond it, assignments whose
# bytes differ by less than 1/20,000 of the range count as equal.
MOST_PARTIAL = 20_000


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One option for each layer.

    Args:
        num_bytes: the sum of the options' bytes.
        error: the sum of their errors.
        choices: the index of the option, by layer.
    """

    num_bytes: int
    error: float
    choices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Stage:
    """The partial assignments after one layer: their sums, and how each came about."""

    num_bytes: np.ndarray
    error: np.ndarray
    parent: np.ndarray
    choice: np.ndarray


def pareto_assignments(
    num_bytes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], *, most: int = MOST_PARTIAL
) -> list[Assignment]:
    """Returns the Pareto front of all assignments, fewest bytes first.

    The errors of layers are taken to add up. The front holds, for every limit on bytes, the assignment of least error:
    it solves the integer program of every budget at once. Partial assignments that another one beats cannot become part
    of it, and are dropped after each layer.

    Args:
        num_bytes: bytes of the options of each layer.
        errors: their errors, in the same order.
        most: partial assignments to keep.

    Example:

    >>> front = pareto_assignments([[4, 2], [8, 4]], [[0.0, 1.0], [0.0, 0.5]])
    >>> [(a.num_bytes, a.error, a.choices) for a in front]
    [(6, 1.5, (1, 1)), (8, 0.5, (0, 1)), (12, 0.0, (0, 0))]

    Source: Nemhauser and Ullmann, Management Science 15(9), 1969.
    """
    stages: list[_Stage] = []
    before = _Stage(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))
    for sizes, costs in zip(num_bytes, errors, strict=True):
        before = _extended(before, np.asarray(sizes, np.int64), np.asarray(costs, np.float64), most)
        stages.append(before)
    return _traced(stages, before)


def _extended(before: _Stage, sizes: np.ndarray, costs: np.ndarray, most: int) -> _Stage:
    """Returns the partial assignments with one more layer, without those that another one beats."""
    total = (before.num_bytes[:, None] + sizes).ravel()
    error = (before.error[:, None] + costs).ravel()
    order = np.lexsort((error, total))
    least = np.minimum.accumulate(error[order])
    is_better = np.r_[True, least[1:] < least[:-1]]
    kept = order[is_better]
    if len(kept) > most:
        kept = _thinned(kept, total, most)
    return _Stage(total[kept], error[kept], kept // len(sizes), kept % len(sizes))


def _thinned(kept: np.ndarray, total: np.ndarray, most: int) -> np.ndarray:
    """Returns the best assignment of each of `most` equal ranges of bytes; the last one of a range has least error."""
    sizes = total[kept]
    ranges = (sizes - sizes[0]) * most // max(int(sizes[-1] - sizes[0]) + 1, 1)
    is_last = np.r_[ranges[1:] != ranges[:-1], True]
    is_last[0] = True
    return kept[is_last]


def _traced(stages: list[_Stage], last: _Stage) -> list[Assignment]:
    """Returns the assignments of the last stage with the choices that led to them."""
    rows = np.arange(len(last.num_bytes))
    columns = []
    for stage in reversed(stages):
        columns.append(stage.choice[rows])
        rows = stage.parent[rows]
    choices = np.stack(columns[::-1], axis=1) if columns else np.zeros((len(rows), 0), np.int64)
    return [
        Assignment(int(size), float(error), tuple(map(int, row)))
        for size, error, row in zip(last.num_bytes, last.error, choices, strict=True)
    ]
