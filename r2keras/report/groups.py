"""Result rows grouped over seeds: mean and spread per regularizer, method and bit width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from r2keras._util.errors import invalid
from r2keras._util.text import MIN_FLOAT_BITS
from r2keras.report.names import REFERENCE, regularizer_name, setting_name
from r2keras.report.results import ResultRow, checked_rows
from r2keras.report.stats import Stat

# Optional columns: accuracies on data that neither training nor testing uses.
VALIDATION = ("validation_accuracy", "float_validation_accuracy")


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that differ only in their seed.

    Args:
        regularizer: name of the regularizer; `"none"` is the reference.
        method: how the weights were quantized.
        num_bits: bits per weight.
        rows: one row per seed.
    """

    regularizer: str
    method: str
    num_bits: int
    rows: tuple[ResultRow, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        """The columns that identify the group."""
        return self.regularizer, self.method, self.num_bits

    @property
    def label(self) -> str:
        """The group in words, without the regularizer if there is none."""
        return self.name if self.regularizer == REFERENCE else f"{self.name}, {regularizer_name(self.regularizer)}"

    @property
    def name(self) -> str:
        """Bit width and method in words."""
        return setting_name(self.method, self.num_bits)

    @property
    def is_float(self) -> bool:
        """Whether the weights are floating-point numbers."""
        return self.num_bits >= MIN_FLOAT_BITS

    def stat(self, column: str) -> Stat | None:
        """Returns mean and spread of a column over the seeds that have a value; None if no seed has one."""
        values = [row[column] for row in self.rows if row.get(column) is not None]
        return Stat.of(values) if values else None

    @property
    def test_samples(self) -> int | None:
        """Number of samples that the accuracies were measured on; None if a row does not say it."""
        sizes = [row["test_samples"] for row in self.rows if row.get("test_samples") is not None]
        return min(sizes) if len(sizes) == len(self.rows) else None

    @property
    def has_validation(self) -> bool:
        """Whether every seed has the accuracies of file and float model on validation data."""
        return all(row.get(name) is not None for row in self.rows for name in VALIDATION)

    @property
    def choice_column(self) -> str:
        """The accuracy column that a choice among seeds reads: of the validation data, else `score_column`."""
        return "validation_accuracy" if self.has_validation else self.score_column

    @property
    def on_file(self) -> bool:
        """Whether the accuracy of the file was measured for every seed."""
        return all(row["file_accuracy"] is not None for row in self.rows)

    @property
    def score_column(self) -> str:
        """The accuracy column that counts: `file_accuracy` if every seed has it, else `accuracy`."""
        return "file_accuracy" if self.on_file else "accuracy"

    @property
    def score(self) -> Stat:
        """Mean and spread of the accuracy in `score_column`."""
        return Stat.of(row[self.score_column] for row in self.rows)

    @property
    def file_bytes(self) -> int | None:
        """Size of the largest file of all seeds; None if a seed has no file."""
        sizes = [row["file_bytes"] for row in self.rows]
        return None if None in sizes else max(sizes)

    @property
    def typical_row(self) -> ResultRow:
        """The row closest to the median of `choice_column`; of equals the less accurate one, then the lower seed."""
        column = self.choice_column
        ordered = sorted(row[column] for row in self.rows)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

        def distance(row: ResultRow) -> tuple:
            accuracy = row[column]
            return round(abs(accuracy - middle), 12), accuracy, row["seed"]

        return min(self.rows, key=distance)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The float accuracy that accuracy drops are measured from.

    Args:
        accuracy: mean and spread over seeds.
        regularizer: the regularizer that the float models were trained with.
    """

    accuracy: Stat
    regularizer: str


def bytes_of(part: Group) -> int:
    """Returns the size of the largest file of a group.

    Raises:
        ValueError: a seed has no file.
    """
    if part.file_bytes is None:
        raise ValueError(f"The group {part.label!r} has a seed without a file. Expected a file for each seed.")
    return part.file_bytes


def group(rows: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Groups rows that differ only in their seed.

    Args:
        rows: result rows of one dataset and one model.

    Returns:
        The groups, by regularizer and method in the order of their first row, then by decreasing bits.

    Raises:
        ValueError: no rows, an invalid row, or rows that cannot be averaged: several datasets or models, or several
            numbers of epochs within a group.
        TypeError: a value has the wrong type.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> [both] = group([row, {**row, "seed": 1, "file_accuracy": 0.95}])
    >>> both.label, round(both.score.mean, 4), round(both.score.std, 4)
    ('2-bit, trained, R2 L-infinity', 0.96, 0.0141)
    """
    checked = checked_rows(rows)
    for column in ("dataset", "model"):
        _check_same(checked, column, "the results")
    rows_by_key: dict[tuple[str, str, int], list[ResultRow]] = {}
    for row in checked:
        rows_by_key.setdefault((row["regularizer"], row["method"], row["num_bits"]), []).append(row)
    groups = [Group(*key, tuple(part)) for key, part in rows_by_key.items()]
    for part in groups:
        _check_same(part.rows, "epochs", f"the group {part.label}")
    regularizers = list(dict.fromkeys(row["regularizer"] for row in checked))
    methods = list(dict.fromkeys(row["method"] for row in checked))
    return sorted(groups, key=lambda g: (regularizers.index(g.regularizer), methods.index(g.method), -g.num_bits))


def float_baseline(groups: Iterable[Group], column: str = "float_accuracy") -> Baseline:
    """Returns the float accuracy that all groups are compared with.

    This is the mean over seeds of the models trained without a regularizer (`"none"`), or the best mean of any
    regularizer if there are no such models.

    Args:
        groups: result groups.
        column: the accuracy of the float models: on the test data, or `float_validation_accuracy`.

    Raises:
        ValueError: no groups.
    """
    accuracies: dict[str, dict[int, list[float]]] = {}
    for part in groups:
        for row in part.rows:
            accuracies.setdefault(part.regularizer, {}).setdefault(row["seed"], []).append(row[column])
    if not accuracies:
        raise ValueError(invalid("groups", "at least one group", []))
    # A seed has one float model but a row for each of its files, so rows are averaged within a seed first.
    stats = {
        regularizer: Stat.of(Stat.of(values).mean for values in by_seed.values())
        for regularizer, by_seed in accuracies.items()
    }
    best = REFERENCE if REFERENCE in stats else max(stats, key=lambda regularizer: stats[regularizer].mean)
    return Baseline(stats[best], best)


def device_of(part: Group) -> str:
    """Returns where the latencies of a group were measured: the `device` of its rows, or this CPU."""
    names = {row["device"] for row in part.rows if row.get("device") and row.get("latency_ms") is not None}
    return " and ".join(sorted(names)) or "this CPU"


def float_latency(groups: Iterable[Group], regularizer: str) -> float | None:
    """Returns the mean latency of the float files in milliseconds, of one regularizer if it has any; None for none."""
    timed = [g for g in groups if g.is_float and g.stat("latency_ms")]
    own = [g for g in timed if g.regularizer == regularizer] or timed
    stat = own[0].stat("latency_ms") if own else None
    return None if stat is None else stat.mean


def pareto(groups: Iterable[Group]) -> list[Group]:
    """Returns the Pareto front of accuracy against bytes, smallest file first."""
    sized = sorted((g for g in groups if g.file_bytes is not None), key=lambda g: (g.file_bytes, -g.score.mean))
    front: list[Group] = []
    for part in sized:
        if not front or part.score.mean > front[-1].score.mean:
            front.append(part)
    return front


def _check_same(rows: Iterable[ResultRow], column: str, where: str) -> None:
    """Raises if rows differ in a column that must be the same for an average."""
    values = list(dict.fromkeys(row.get(column) for row in rows))
    if len(values) > 1:
        raise ValueError(
            f"Rows of different `{column}` cannot be averaged. Expected one in {where}. Received: "
            f"{', '.join(map(repr, values))}. Report each one separately."
        )
