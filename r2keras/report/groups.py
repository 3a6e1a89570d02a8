"""Rows of several seeds taken together: mean and spread per (regularizer, method, num_bits)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from r2keras._errors import invalid
from r2keras.report._format import bits
from r2keras.report.results import Row, checked_rows

REFERENCE = "none"


@dataclasses.dataclass(frozen=True)
class Stat:
    """Mean and spread of one figure over seeds.

    Args:
        mean: arithmetic mean.
        std: sample standard deviation (divisor `n - 1`); None for one seed.
        n: how many seeds have the figure.
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Stat:
        """Measures at least one value.

        >>> Stat.of([0.5, 0.7]).mean
        0.6
        """
        values = list(values)
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows that differ in their seed alone.

    Args:
        regularizer: its name; `"none"` is the reference.
        method: how the weights were quantized.
        num_bits: bits a weight.
        rows: one row per seed.
    """

    regularizer: str
    method: str
    num_bits: int
    rows: tuple[Row, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the group from the others."""
        return self.regularizer, self.method, self.num_bits

    @property
    def label(self) -> str:
        """The group in words."""
        name = "no regularizer" if self.regularizer == REFERENCE else self.regularizer
        return ", ".join(dict.fromkeys((name, self.method, bits(self.num_bits))))

    def stat(self, column: str) -> Stat | None:
        """Returns mean and spread of a column over the seeds that have it; None if none has."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return Stat.of(values) if values else None

    @property
    def on_file(self) -> bool:
        """Whether every seed's file was run, so that its accuracy is known."""
        return all(row["file_accuracy"] is not None for row in self.rows)

    @property
    def score_column(self) -> str:
        """The column that the group is judged by: `file_accuracy` if every seed has it, else `accuracy`."""
        return "file_accuracy" if self.on_file else "accuracy"

    @property
    def score(self) -> Stat:
        """Accuracy that the group is judged by."""
        return Stat.of(row[self.score_column] for row in self.rows)

    @property
    def file_bytes(self) -> int | None:
        """The largest file of all seeds; None if a seed has no file."""
        sizes = [row["file_bytes"] for row in self.rows]
        return None if None in sizes else max(sizes)

    @property
    def typical_row(self) -> Row:
        """The row whose accuracy is nearest the median over seeds; on a tie the less accurate, then the lower seed."""
        ordered = sorted(row[self.score_column] for row in self.rows)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

        def distance(row: Row) -> tuple:
            accuracy = row[self.score_column]
            return round(abs(accuracy - middle), 12), accuracy, row["seed"]

        return min(self.rows, key=distance)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The float accuracy that a loss of accuracy is counted from.

    Args:
        accuracy: mean and spread over seeds.
        regularizer: the one that the float models were trained with.
    """

    accuracy: Stat
    regularizer: str


def group(rows: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Puts together the rows that differ in their seed alone.

    Args:
        rows: result rows of one dataset and one model.

    Returns:
        Groups: regularizers and methods in the order of their first row, most bits first.

    Raises:
        ValueError: no rows, a bad row, or rows that cannot be averaged: several datasets, models, or numbers of epochs
            within a group.
        TypeError: a value has the wrong type.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> [both] = group([row, {**row, "seed": 1, "file_accuracy": 0.95}])
    >>> both.label, round(both.score.mean, 4), round(both.score.std, 4)
    ('linf, qat, 2 bits', 0.96, 0.0141)
    """
    checked = checked_rows(rows)
    for column in ("dataset", "model"):
        _check_same(checked, column, "the results")
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in checked:
        found.setdefault((row["regularizer"], row["method"], row["num_bits"]), []).append(row)
    groups = [Group(*key, tuple(part)) for key, part in found.items()]
    for part in groups:
        _check_same(part.rows, "epochs", f"the group {part.label}")
    places = [list(dict.fromkeys(row[name] for row in checked)) for name in ("regularizer", "method")]
    return sorted(groups, key=lambda g: (places[0].index(g.regularizer), places[1].index(g.method), -g.num_bits))


def float_baseline(groups: Iterable[Group]) -> Baseline:
    """Returns the float accuracy that all groups are compared with.

    It is the mean over seeds of the models trained without a regularizer (`"none"`); where there are none, the
    best mean of any regularizer.

    Raises:
        ValueError: no groups.
    """
    seeds: dict[str, dict[int, list[float]]] = {}
    for part in groups:
        for row in part.rows:
            seeds.setdefault(part.regularizer, {}).setdefault(row["seed"], []).append(row["float_accuracy"])
    if not seeds:
        raise ValueError(invalid("groups", "at least one group", []))
    means = {name: Stat.of(Stat.of(values).mean for values in found.values()) for name, found in seeds.items()}
    name = REFERENCE if REFERENCE in means else max(means, key=lambda key: means[key].mean)
    return Baseline(means[name], name)


def pareto(groups: Iterable[Group]) -> list[Group]:
    """Returns the groups that no other beats in bytes and accuracy both, smallest file first."""
    sized = sorted((g for g in groups if g.file_bytes is not None), key=lambda g: (g.file_bytes, -g.score.mean))
    front: list[Group] = []
    for part in sized:
        if not front or part.score.mean > front[-1].score.mean:
            front.append(part)
    return front


def _check_same(rows: Iterable[Row], column: str, where: str) -> None:
    """Raises if rows differ in a column that averages must not mix."""
    values = list(dict.fromkeys(row.get(column) for row in rows))
    if len(values) > 1:
        raise ValueError(
            f"Rows of different `{column}` cannot be averaged. Expected one in {where}. Received: "
            f"{', '.join(map(repr, values))}. Report each on its own."
        )
