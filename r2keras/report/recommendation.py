"""What to take: the smallest file that meets a limit on lost accuracy and one on bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from r2keras._errors import invalid
from r2keras.report._format import count, percent, points
from r2keras.report.groups import Baseline, Group, float_baseline, group

# Two means that differ by less are equal: sums of decimal fractions are not exact.
TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """What to take under two limits, and how near the rest comes.

    Args:
        chosen: the smallest file that meets both limits; None if none does.
        most_accurate: the most accurate one within `max_bytes`; None if no file is that small.
        smallest: the smallest file that meets the limit on accuracy; None if none does.
        nearest: the most accurate group of all.
        smallest_of_all: the smallest file of all.
        baseline: the float accuracy that losses are counted from.
        max_accuracy_drop: the limit on accuracy, a fraction; None if there is none.
        max_bytes: the limit on the file; None if there is none.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> found = recommend([row], max_accuracy_drop=0.02, max_bytes=20_000)
    >>> found.chosen is None, found.path
    (True, None)
    >>> print(found)
    Nothing measured meets the limits (at most 2.00 points of accuracy lost and at most 20,000 bytes). The smallest \
file, linf, qat, 2 bits (97.00% in 27,912 bytes), is 7,912 bytes too large.
    """

    chosen: Group | None
    most_accurate: Group | None
    smallest: Group | None
    nearest: Group
    smallest_of_all: Group
    baseline: Baseline
    max_accuracy_drop: float | None
    max_bytes: int | None

    def drop(self, part: Group) -> float:
        """Returns the accuracy that a group loses against the float baseline; negative if it gains."""
        return self.baseline.accuracy.mean - part.score.mean

    @property
    def row(self) -> dict[str, Any] | None:
        """The row to take: of the chosen group's seeds the one nearest their median accuracy."""
        return None if self.chosen is None else self.chosen.typical_row

    @property
    def path(self) -> str | None:
        """The file to take."""
        return None if self.chosen is None else self.row["path"]

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_accuracy_drop is not None or self.max_bytes is not None

    @property
    def limits(self) -> str:
        """The two limits in words."""
        drop, size = self.max_accuracy_drop, self.max_bytes
        parts = [] if drop is None else [f"at most {points(drop)} of accuracy lost" if drop else "no accuracy lost"]
        parts += [] if size is None else [f"at most {count(size)} bytes"]
        return " and ".join(parts) or "no limits"

    @property
    def sentences(self) -> list[str]:
        """The recommendation in two or three plain sentences."""
        if self.chosen is None:
            return [f"Nothing measured meets the limits ({self.limits}).", *self._misses()]
        return [self._take(), self._which_seed(), *self._alternative()]

    @property
    def text(self) -> str:
        """The sentences in one paragraph."""
        return " ".join(self.sentences)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Returns the recommendation as plain JSON."""
        named = ("chosen", "most_accurate", "smallest", "nearest", "smallest_of_all")
        return {
            "text": self.text,
            "path": self.path,
            "seed": None if self.row is None else self.row["seed"],
            "max_accuracy_drop": self.max_accuracy_drop,
            "max_bytes": self.max_bytes,
            "baseline": dataclasses.asdict(self.baseline),
            **{name: self._group_dict(getattr(self, name)) for name in named},
        }

    def _group_dict(self, part: Group | None) -> dict[str, Any] | None:
        """Returns a group's figures as plain JSON."""
        if part is None:
            return None
        figures = {"accuracy": dataclasses.asdict(part.score), "drop": self.drop(part), "file_bytes": part.file_bytes}
        return {"regularizer": part.regularizer, "method": part.method, "num_bits": part.num_bits, **figures}

    def _take(self) -> str:
        """Returns the sentence on what to take."""
        part = self.chosen
        return (
            f"Take {part.label}: {count(part.file_bytes)} bytes at {self._measured(part)}, "
            f"{self._against_baseline(part)}."
        )

    def _measured(self, part: Group) -> str:
        """Returns the accuracy of a group with its spread and where it was measured."""
        score, where = part.score, "on the file" if part.on_file else "in Keras, not on the file"
        if score.std is None:
            return f"{percent(score.mean)} accuracy (one seed only, measured {where})"
        spread = f"{percent(score.mean)} \u00b1 {100 * score.std:.2f}"
        return f"{spread} accuracy (mean of {score.n} seeds, measured {where})"

    def _against_baseline(self, part: Group) -> str:
        """Returns how far a group lies from the float accuracy."""
        drop = self.drop(part)
        side = "below" if drop >= 0 else "above"
        name = self.baseline.regularizer
        kind = "trained without a regularizer" if name == "none" else f"trained with {name}"
        return f"{points(abs(drop))} {side} the float model {kind} ({percent(self.baseline.accuracy.mean)})"

    def _which_seed(self) -> str:
        """Returns the sentence on the file of one seed."""
        row, part = self.row, self.chosen
        accuracy = percent(row[part.score_column])
        file = row["path"] or f"the file of seed {row['seed']}"
        if part.score.n == 1:
            return f"The file is {file} (seed {row['seed']})."
        seed = f"seed {row['seed']} with {accuracy}"
        return f"The file is {file}: {seed}, nearest the median over seeds, not the luckiest."

    def _alternative(self) -> list[str]:
        """Returns the sentence on the most accurate file of the size, where it is another."""
        part = self.most_accurate
        if part is self.chosen:
            return ["No other file within the limit on bytes is more accurate."] if self.max_bytes else []
        within = "within the limit on bytes" if self.max_bytes else "of all"
        return [f"Most accurate {within} is {self._figures(part)}."]

    def _misses(self) -> list[str]:
        """Returns one sentence on each limit: how far the nearest file misses it."""
        return [self._miss_within_bytes(), *self._miss_within_accuracy()]

    def _miss_within_bytes(self) -> str:
        """Returns how near a file comes without breaking the limit on bytes, or how far the smallest is above it."""
        part = self.most_accurate
        if part is not None:
            over = self.drop(part) - self.max_accuracy_drop
            return f"Within the limit on bytes, {self._figures(part)} comes nearest: it loses {points(over)} too much."
        over = self.smallest_of_all.file_bytes - self.max_bytes
        return f"The smallest file, {self._figures(self.smallest_of_all)}, is {count(over)} bytes too large."

    def _miss_within_accuracy(self) -> list[str]:
        """Returns how near a file comes without losing too much, or how far the most accurate is from that."""
        part = self.smallest
        if part is not None and part is not self.smallest_of_all:
            over = count(part.file_bytes - self.max_bytes)
            return [f"Within the limit on accuracy, {self._figures(part)} is smallest: {over} bytes too large."]
        if part is None and self.nearest is not self.most_accurate:
            over = points(self.drop(self.nearest) - self.max_accuracy_drop)
            return [f"The most accurate of all, {self._figures(self.nearest)}, still loses {over} too much."]
        return []

    def _figures(self, part: Group) -> str:
        """Returns a group with its accuracy and bytes."""
        return f"{part.label} ({percent(part.score.mean)} in {count(part.file_bytes)} bytes)"


def recommend(
    rows: Iterable[Mapping[str, Any]], *, max_accuracy_drop: float | None, max_bytes: int | None
) -> Recommendation:
    """Chooses the smallest file that meets both limits, judged by means over seeds.

    A group (regularizer, method, num_bits) is judged by its mean accuracy on the file (in Keras where a seed's file
    was not run) and by its largest file. The loss is counted from the mean float accuracy of the regularizer `"none"`,
    or from the best float mean where there is no such row. Of equally small files the more accurate is taken. Of
    the group's seeds the one nearest the median is named, since the best one would be luck.

    Args:
        rows: result rows of one dataset and one model.
        max_accuracy_drop: accuracy that may be lost, a fraction: 0.01 is one point. None sets no limit.
        max_bytes: bytes that the file may have. None sets no limit.

    Returns:
        The recommendation; its `text` says what to take, or how far the nearest misses each limit.

    Raises:
        ValueError: no rows, a bad row, no row with a file, or a limit out of range.
        TypeError: a value or a limit has the wrong type.

    Example:

    >>> row = dict(regularizer="none", method="qat", num_bits=8, seed=0, float_accuracy=0.98, accuracy=0.98,
    ...            file_accuracy=0.975, file_bytes=90000, ideal_bytes=80000, latency_ms=0.2, max_over_std=6.1, path="a")
    >>> print(recommend([row], max_accuracy_drop=0.01, max_bytes=100_000).sentences[0])
    Take no regularizer, qat, 8 bits: 90,000 bytes at 97.50% accuracy (one seed only, measured on the file), \
0.50 points below the float model trained without a regularizer (98.00%).
    """
    _check_limits(max_accuracy_drop, max_bytes)
    groups = group(rows)
    baseline = float_baseline(groups)
    sized = [part for part in groups if part.file_bytes is not None]
    if not sized:
        raise ValueError(invalid("rows", "rows with `file_bytes`", "none has a file", "Export the models first"))
    floor = -1.0 if max_accuracy_drop is None else baseline.accuracy.mean - max_accuracy_drop - TOLERANCE
    accurate = [part for part in sized if part.score.mean >= floor]
    small = [part for part in sized if max_bytes is None or part.file_bytes <= max_bytes]
    return Recommendation(
        chosen=_smallest([part for part in accurate if part in small]),
        most_accurate=_most_accurate(small),
        smallest=_smallest(accurate),
        nearest=_most_accurate(sized),
        smallest_of_all=_smallest(sized),
        baseline=baseline,
        max_accuracy_drop=max_accuracy_drop,
        max_bytes=max_bytes,
    )


def _smallest(groups: list[Group]) -> Group | None:
    """Returns the smallest file, of equals the most accurate, of equals the first by name."""
    return min(groups, key=lambda g: (g.file_bytes, -g.score.mean, g.key), default=None)


def _most_accurate(groups: list[Group]) -> Group | None:
    """Returns the most accurate group, of equals the smallest file, of equals the first by name."""
    return min(groups, key=lambda g: (-g.score.mean, g.file_bytes, g.key), default=None)


def _check_limits(drop: object, size: object) -> None:
    """Raises for a limit that is out of range."""
    checks = (
        ("max_accuracy_drop", drop, lambda value: 0 <= value <= 1, "a fraction from 0 to 1, or None"),
        ("max_bytes", size, lambda value: value > 0, "a number of bytes above 0, or None"),
    )
    for name, value, fits, expected in checks:
        if value is not None and not (_is_number(value) and fits(value)):
            raise (ValueError if _is_number(value) else TypeError)(invalid(name, expected, value))


def _is_number(value: object) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
