"""Recommendation of the smallest file within a limit on lost accuracy and a limit on bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid
from r2keras._util.numeric import as_number
from r2keras._util.tables import text_cell
from r2keras._util.text import count, percent, points
from r2keras.report.groups import REFERENCE, Baseline, Group, bytes_of, float_baseline, group

if TYPE_CHECKING:
    from rich.text import Text

# Means that differ by less count as equal: sums of decimal fractions are not exact.
EQUAL_ACCURACY = 1e-9


@dataclasses.dataclass(frozen=True)
class Recommendation(Tabular):
    """The recommended group of rows under two limits, and the closest alternatives.

    Args:
        chosen: the group with the smallest file that meets both limits; None if no group does.
        most_accurate: the most accurate group within `max_bytes`; None if no file is small enough.
        smallest: the group with the smallest file that meets the limit on accuracy; None if no group does.
        nearest: the most accurate group of all.
        smallest_of_all: the group with the smallest file of all.
        baseline: the float accuracy that drops are measured from.
        max_accuracy_drop: the limit on lost accuracy, a fraction; None for no limit.
        max_bytes: the limit on the file size; None for no limit.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> advice = recommend([row], max_accuracy_drop=0.02, max_bytes=20_000)
    >>> advice.chosen is None, advice.path
    (True, None)
    >>> print(advice)
    No result meets the limits (at most 2.00 points of accuracy lost and at most 20,000 bytes). The smallest \
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
        """Returns the accuracy that a group loses relative to the float baseline; negative for a gain."""
        return self.baseline.accuracy.mean - part.score.mean

    @property
    def row(self) -> dict[str, Any] | None:
        """The recommended row: the seed of the chosen group closest to the median accuracy."""
        return None if self.chosen is None else self.chosen.typical_row

    @property
    def path(self) -> str | None:
        """The path of the recommended file."""
        row = self.row
        return None if row is None else row["path"]

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.max_accuracy_drop is not None or self.max_bytes is not None

    @property
    def limits(self) -> str:
        """The two limits in words."""
        parts = []
        if self.max_accuracy_drop:
            parts.append(f"at most {points(self.max_accuracy_drop)} of accuracy lost")
        elif self.max_accuracy_drop is not None:
            parts.append("no accuracy lost")
        if self.max_bytes is not None:
            parts.append(f"at most {count(self.max_bytes)} bytes")
        return " and ".join(parts) or "no limits"

    @property
    def sentences(self) -> list[str]:
        """The recommendation in one to three sentences."""
        if self.chosen is None:
            return [f"No result meets the limits ({self.limits}).", *self._misses()]
        return [self._take(self.chosen), self._which_seed(self.chosen), *self._alternative()]

    @property
    def text(self) -> str:
        """The sentences as one paragraph."""
        return " ".join(self.sentences)

    def __rich__(self) -> Text:
        return text_cell(self.text)

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

    def _take(self, part: Group) -> str:
        """Returns the sentence on the recommended group."""
        size, accuracy = f"{count(part.file_bytes)} bytes", self._accuracy_text(part)
        return f"Use {part.label}: {size} at {accuracy}, {self._drop_text(part)}."

    def _accuracy_text(self, part: Group) -> str:
        """Returns the accuracy of a group with its spread and where it was measured."""
        score = part.score
        where = "on the file" if part.on_file else "in Keras, not on the file"
        if score.std is None:
            return f"{percent(score.mean)} accuracy (one seed only, measured {where})"
        spread = f"{percent(score.mean)} \u00b1 {100 * score.std:.2f}"
        return f"{spread} accuracy (mean of {score.n} seeds, measured {where})"

    def _drop_text(self, part: Group) -> str:
        """Returns the distance of a group from the float baseline."""
        drop = self.drop(part)
        side = "below" if drop >= 0 else "above"
        name = self.baseline.regularizer
        kind = "trained without a regularizer" if name == REFERENCE else f"trained with {name}"
        return f"{points(abs(drop))} {side} the float model {kind} ({percent(self.baseline.accuracy.mean)})"

    def _which_seed(self, part: Group) -> str:
        """Returns the sentence on the recommended file of the chosen group."""
        row = part.typical_row
        file = row["path"] or f"the file of seed {row['seed']}"
        if part.score.n == 1:
            return f"The file is {file} (seed {row['seed']})."
        accuracy = percent(row[part.score_column])
        return f"The file is {file}: seed {row['seed']} with {accuracy}, the closest to the median over seeds."

    def _alternative(self) -> list[str]:
        """Returns the sentence on the most accurate file within the limit on bytes, if it is another one."""
        part = self.most_accurate
        if part is None or part is self.chosen:
            return ["No other file within the limit on bytes is more accurate."] if self.max_bytes else []
        within = "within the limit on bytes" if self.max_bytes else "of all"
        return [f"The most accurate file {within} is {self._figures(part)}."]

    def _misses(self) -> list[str]:
        """Returns for each limit a sentence on how far the closest file misses it."""
        return [self._miss_within_bytes(), *self._miss_within_accuracy()]

    def _miss_within_bytes(self) -> str:
        """Returns how much accuracy is missing within the limit on bytes, or how far the smallest file exceeds it."""
        part = self.most_accurate
        if part is not None:
            assert self.max_accuracy_drop is not None  # Without this limit, `part` would have been chosen.
            excess = points(self.drop(part) - self.max_accuracy_drop)
            return f"Within the limit on bytes, {self._figures(part)} comes closest: it loses {excess} too much."
        assert self.max_bytes is not None  # Without this limit, every file would be small enough.
        excess = count(bytes_of(self.smallest_of_all) - self.max_bytes)
        return f"The smallest file, {self._figures(self.smallest_of_all)}, is {excess} bytes too large."

    def _miss_within_accuracy(self) -> list[str]:
        """Returns how far files within the limit on accuracy are too large, or how much the most accurate one loses."""
        part = self.smallest
        if part is not None and part is not self.smallest_of_all:
            assert self.max_bytes is not None  # Without this limit, `part` would have been chosen.
            excess = count(bytes_of(part) - self.max_bytes)
            return [f"Within the limit on accuracy, {self._figures(part)} is the smallest: {excess} bytes too large."]
        if part is None and self.nearest is not self.most_accurate:
            assert self.max_accuracy_drop is not None  # Without this limit, `smallest` would be a group.
            excess = points(self.drop(self.nearest) - self.max_accuracy_drop)
            return [f"The most accurate of all, {self._figures(self.nearest)}, still loses {excess} too much."]
        return []

    def _figures(self, part: Group) -> str:
        """Returns a group with its accuracy and bytes."""
        return f"{part.label} ({percent(part.score.mean)} in {count(part.file_bytes)} bytes)"


def recommend(
    rows: Iterable[Mapping[str, Any]], *, max_accuracy_drop: float | None, max_bytes: int | None
) -> Recommendation:
    """Recommends the smallest file that meets both limits on average over seeds.

    A group (regularizer, method, num_bits) counts with its mean accuracy on the file (in Keras if the file of a seed
    was not run) and with its largest file. The drop is measured from the mean float accuracy of the regularizer
    `"none"`, or from the best float mean if that row is missing. Of equally small files the more accurate one is
    recommended. Within the group, the seed closest to the median is named: the best seed would be luck.

    Args:
        rows: result rows of one dataset and one model.
        max_accuracy_drop: accuracy that may be lost, as a fraction: 0.01 is one point. None sets no limit.
        max_bytes: maximum size of the file. None sets no limit.

    Returns:
        The recommendation. Its `text` names the file, or says how far the closest files miss each limit.

    Raises:
        ValueError: no rows, an invalid row, no row with a file, or a limit out of range.
        TypeError: a value or a limit has the wrong type.

    Example:

    >>> row = dict(regularizer="none", method="qat", num_bits=8, seed=0, float_accuracy=0.98, accuracy=0.98,
    ...            file_accuracy=0.975, file_bytes=90000, ideal_bytes=80000, latency_ms=0.2, max_over_std=6.1, path="a")
    >>> print(recommend([row], max_accuracy_drop=0.01, max_bytes=100_000).sentences[0])
    Use no regularizer, qat, 8 bits: 90,000 bytes at 97.50% accuracy (one seed only, measured on the file), \
0.50 points below the float model trained without a regularizer (98.00%).
    """
    _check_limits(max_accuracy_drop, max_bytes)
    groups = group(rows)
    baseline = float_baseline(groups)
    sized = [part for part in groups if part.file_bytes is not None]
    if not sized:
        raise ValueError(invalid("rows", "rows with `file_bytes`", "no row has a file", "Export the models first"))
    floor = -1.0 if max_accuracy_drop is None else baseline.accuracy.mean - max_accuracy_drop - EQUAL_ACCURACY
    accurate = [part for part in sized if part.score.mean >= floor]
    small = [part for part in sized if max_bytes is None or bytes_of(part) <= max_bytes]
    both = [part for part in accurate if part in small]
    return Recommendation(
        chosen=_smallest(both) if both else None,
        most_accurate=_most_accurate(small) if small else None,
        smallest=_smallest(accurate) if accurate else None,
        nearest=_most_accurate(sized),
        smallest_of_all=_smallest(sized),
        baseline=baseline,
        max_accuracy_drop=max_accuracy_drop,
        max_bytes=max_bytes,
    )


def _smallest(groups: list[Group]) -> Group:
    """Returns the group with the smallest file; of equals the most accurate, then the first by name."""
    return min(groups, key=lambda g: (bytes_of(g), -g.score.mean, g.key))


def _most_accurate(groups: list[Group]) -> Group:
    """Returns the most accurate group; of equals the one with the smallest file, then the first by name."""
    return min(groups, key=lambda g: (-g.score.mean, bytes_of(g), g.key))


def _check_limits(drop: object, size: object) -> None:
    """Raises for a limit that is out of range."""
    checks = (
        ("max_accuracy_drop", drop, lambda value: 0 <= value <= 1, "a fraction from 0 to 1, or None"),
        ("max_bytes", size, lambda value: value > 0, "a number of bytes greater than 0, or None"),
    )
    for name, value, fits, expected in checks:
        if value is not None and not (_is_number(value) and fits(value)):
            raise (ValueError if _is_number(value) else TypeError)(invalid(name, expected, value))


def _is_number(value: object) -> bool:
    """Whether a value is a number; a boolean is not."""
    return as_number(value) is not None
