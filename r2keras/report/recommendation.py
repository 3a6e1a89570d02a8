"""Recommendation of the smallest file within a limit on lost accuracy and a limit on bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid
from r2keras._util.numeric import as_number
from r2keras._util.tables import text_cell
from r2keras._util.text import count, number, percent, points
from r2keras.report.groups import Baseline, Group, bytes_of, device_of, float_baseline, float_latency, group
from r2keras.report.names import REFERENCE, regularizer_name
from r2keras.report.noise import difference_noise

if TYPE_CHECKING:
    from rich.text import Text

# Means that differ by less count as equal: sums of decimal fractions are not exact.
EQUAL_ACCURACY = 1e-9
# Latencies that differ by less are called equal.
EQUAL_LATENCY = 0.05


@dataclasses.dataclass(frozen=True)
class Recommendation(Tabular):
    """The recommended group of rows under two limits, and the closest alternatives.

    If every row has `validation_accuracy` and `float_validation_accuracy`, the choice is made by these, and the
    accuracies of the test data are only reported.

    Args:
        chosen: the group with the smallest file that meets both limits; None if no group does.
        most_accurate: the most accurate group within `max_bytes`; None if no file is small enough.
        smallest: the group with the smallest file that meets the limit on accuracy; None if no group does.
        nearest: the most accurate group of all.
        smallest_of_all: the group with the smallest file of all.
        baseline: the float accuracy that drops are measured from, on the test data.
        choice_baseline: the same on the data that the choice was made on.
        on_validation: whether the choice was made on validation data.
        float_ms: latency of the float file in milliseconds; None if it was not measured.
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
file, 2-bit, trained, R2 L-infinity (97.00% in 27,912 bytes), is 7,912 bytes too large.
    """

    chosen: Group | None
    most_accurate: Group | None
    smallest: Group | None
    nearest: Group
    smallest_of_all: Group
    baseline: Baseline
    choice_baseline: Baseline
    on_validation: bool
    float_ms: float | None
    max_accuracy_drop: float | None
    max_bytes: int | None

    def drop(self, part: Group) -> float:
        """Returns the test accuracy that a group loses relative to the float baseline; negative for a gain."""
        return self.baseline.accuracy.mean - part.score.mean

    def choice_drop(self, part: Group) -> float:
        """Returns the accuracy that a group loses on the data that the choice was made on."""
        return self.choice_baseline.accuracy.mean - choice_score(part, self.on_validation)

    def noise(self, part: Group) -> float | None:
        """Returns half the width of the 95% interval of `drop`; None if neither samples nor spread are known."""
        return difference_noise(self.baseline.accuracy, part.score, part.test_samples)

    def slowdown(self, part: Group) -> float | None:
        """Returns the latency of a group relative to the float file; None if one of them was not measured."""
        latency = part.stat("latency_ms")
        return latency.mean / self.float_ms if latency and self.float_ms else None

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
        """The recommendation in a few sentences."""
        if self.chosen is None:
            return [f"No result meets the limits ({self.limits}).", *self._misses(), *self._how_chosen()]
        part = self.chosen
        return [
            f"Use {part.label}: {count(part.file_bytes)} bytes at {self._accuracy_text(part)}.",
            self._drop_text(part),
            *self._latency_text(part),
            self._which_seed(part),
            *self._alternative(),
            *self._how_chosen(),
        ]

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
            "choice_baseline": dataclasses.asdict(self.choice_baseline),
            "on_validation": self.on_validation,
            **{name: self._group_dict(getattr(self, name)) for name in named},
        }

    def _group_dict(self, part: Group | None) -> dict[str, Any] | None:
        """Returns a group's figures as plain JSON."""
        if part is None:
            return None
        figures = {
            "accuracy": dataclasses.asdict(part.score),
            "drop": self.drop(part),
            "noise": self.noise(part),
            "file_bytes": part.file_bytes,
            "slowdown": self.slowdown(part),
        }
        return {"regularizer": part.regularizer, "method": part.method, "num_bits": part.num_bits, **figures}

    def _accuracy_text(self, part: Group) -> str:
        """Returns the accuracy of a group with its spread and where it was measured."""
        score = part.score
        where = "on the file" if part.on_file else "in Keras, not on the file"
        if score.std is None:
            return f"{percent(score.mean)} accuracy (one seed only, measured {where})"
        return (
            f"{percent(score.mean)} accuracy (mean of {score.n} seeds \u00b1 {100 * score.std:.2f}, measured {where})"
        )

    def _drop_text(self, part: Group) -> str:
        """Returns the sentence on the distance of a group from the float baseline, next to the noise."""
        drop, noise = self.drop(part), self.noise(part)
        name = self.baseline.regularizer
        trained = "" if name == REFERENCE else f", trained with {regularizer_name(name)}"
        against = f"the float model ({percent(self.baseline.accuracy.mean)}{trained})"
        if noise is not None and abs(drop) <= noise:
            return (
                f"No measurable loss against {against}: the difference of {points(abs(drop))} is within the noise of "
                f"\u00b1{points(noise)} ({self._noise_text(part)})."
            )
        interval = "" if noise is None else f" \u00b1 {100 * noise:.2f} ({self._noise_text(part)})"
        verb = "loses" if drop >= 0 else "gains"
        return f"It {verb} {points(abs(drop))}{interval} against {against}."

    def _noise_text(self, part: Group) -> str:
        """Returns what the noise is made of."""
        seeds = "1 seed" if part.score.n == 1 else f"{part.score.n} seeds"
        samples = "" if part.test_samples is None else f"{count(part.test_samples)} test samples, "
        return f"95%: {samples}{seeds}"

    def _latency_text(self, part: Group) -> list[str]:
        """Returns the sentence on the latency, if it was measured."""
        latency, slowdown = part.stat("latency_ms"), self.slowdown(part)
        if latency is None:
            return []
        text = f"It takes {number(latency.mean)} ms on {device_of(part)}"
        if slowdown is None or part.is_float:
            return [f"{text}."]
        return [f"{text}, {slowdown_text(slowdown)} ({number(self.float_ms)} ms)."]

    def _how_chosen(self) -> list[str]:
        """Returns the sentence on the data of the choice, unless the test data were used."""
        if not self.on_validation:
            return []
        part = self.chosen or self.nearest
        sizes = {row["validation_samples"] for row in part.rows if row.get("validation_samples") is not None}
        samples = f"{count(min(sizes))} validation samples" if sizes else "the validation data"
        if self.chosen is None:
            return [f"The limit on accuracy was checked on {samples}; all accuracies given are those of the test data."]
        drop = self.choice_drop(part)
        lost = "equals the float model" if drop == 0 else f"{'loses' if drop > 0 else 'gains'} {points(abs(drop))}"
        return [f"Chosen on {samples}, where it {lost}; all accuracies given are those of the test data."]

    def _which_seed(self, part: Group) -> str:
        """Returns the sentence on the recommended file of the chosen group."""
        row = part.typical_row
        file = row["path"] or f"the file of seed {row['seed']}"
        if part.score.n == 1:
            return f"The file is {file} (seed {row['seed']})."
        accuracy = percent(row[part.choice_column])
        kind = "validation accuracy" if part.has_validation else "accuracy"
        return f"The file is {file}: seed {row['seed']} with {accuracy} {kind}, the closest to the median over seeds."

    def _alternative(self) -> list[str]:
        """Returns the sentence on the most accurate file within the limit on bytes, if it is another one."""
        part = self.most_accurate
        if part is None or part is self.chosen:
            return ["No other file within the limit on bytes is more accurate."] if self.max_bytes else []
        within = "within the limit on bytes" if self.max_bytes else "of all"
        where = " on the validation data" if self.on_validation else ""
        return [f"The most accurate file {within}{where} is {self._figures(part)}."]

    def _misses(self) -> list[str]:
        """Returns for each limit a sentence on how far the closest file misses it."""
        return [self._miss_within_bytes(), *self._miss_within_accuracy()]

    def _miss_within_bytes(self) -> str:
        """Returns how much accuracy is missing within the limit on bytes, or how far the smallest file exceeds it."""
        part = self.most_accurate
        if part is not None:
            assert self.max_accuracy_drop is not None  # Without this limit, `part` would have been chosen.
            excess = points(self.choice_drop(part) - self.max_accuracy_drop)
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
            excess = points(self.choice_drop(self.nearest) - self.max_accuracy_drop)
            return [f"The most accurate of all, {self._figures(self.nearest)}, still loses {excess} too much."]
        return []

    def _figures(self, part: Group) -> str:
        """Returns a group with its accuracy and bytes."""
        return f"{part.label} ({percent(part.score.mean)} in {count(part.file_bytes)} bytes)"


def recommend(
    rows: Iterable[Mapping[str, Any]], *, max_accuracy_drop: float | None, max_bytes: int | None
) -> Recommendation:
    """Recommends the smallest file that meets both limits on average over seeds.

    A group (regularizer, method, num_bits) counts with its largest file and with its mean accuracy: on validation data
    if every row has `validation_accuracy` and `float_validation_accuracy`, else `file_accuracy`, or `accuracy` if the
    file of a seed was not run. A choice by `file_accuracy` reports the accuracy that it was made on, which is then too
    high by luck. The drop is measured from the mean float accuracy of the regularizer `"none"`, or from the best float
    mean if that row is missing. Of equally small files the more accurate one is recommended. Within the group, the
    seed closest to the median is named: the best seed would be luck.

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
    Use 8-bit, trained: 90,000 bytes at 97.50% accuracy (one seed only, measured on the file).
    """
    _check_limits(max_accuracy_drop, max_bytes)
    groups = group(rows)
    baseline = float_baseline(groups)
    sized = [part for part in groups if part.file_bytes is not None]
    if not sized:
        raise ValueError(invalid("rows", "rows with `file_bytes`", "no row has a file", "Export the models first"))
    on_validation = all(part.has_validation for part in groups)
    choice_baseline = float_baseline(groups, "float_validation_accuracy") if on_validation else baseline
    floor = -1.0 if max_accuracy_drop is None else choice_baseline.accuracy.mean - max_accuracy_drop - EQUAL_ACCURACY
    accurate = [part for part in sized if choice_score(part, on_validation) >= floor]
    small = [part for part in sized if max_bytes is None or bytes_of(part) <= max_bytes]
    both = [part for part in accurate if part in small]
    return Recommendation(
        chosen=_smallest(both, on_validation) if both else None,
        most_accurate=_most_accurate(small, on_validation) if small else None,
        smallest=_smallest(accurate, on_validation) if accurate else None,
        nearest=_most_accurate(sized, on_validation),
        smallest_of_all=_smallest(sized, on_validation),
        baseline=baseline,
        choice_baseline=choice_baseline,
        on_validation=on_validation,
        float_ms=float_latency(groups, baseline.regularizer),
        max_accuracy_drop=max_accuracy_drop,
        max_bytes=max_bytes,
    )


def choice_score(part: Group, on_validation: bool) -> float:
    """Returns the mean accuracy that a choice reads: on validation data, or else the reported one."""
    stat = part.stat("validation_accuracy") if on_validation else part.score
    assert stat is not None  # `on_validation` says that every row has the column.
    return stat.mean


def slowdown_text(ratio: float) -> str:
    """Returns a latency relative to the float file in words.

    >>> slowdown_text(4.21), slowdown_text(0.5), slowdown_text(1.01)
    ('4.2x slower than the float file', '2.0x faster than the float file', 'as fast as the float file')
    """
    if abs(ratio - 1) <= EQUAL_LATENCY:
        return "as fast as the float file"
    return f"{ratio:.1f}x slower than the float file" if ratio > 1 else f"{1 / ratio:.1f}x faster than the float file"


def _smallest(groups: list[Group], on_validation: bool) -> Group:
    """Returns the group with the smallest file; of equals the most accurate, then the first by name."""
    return min(groups, key=lambda g: (bytes_of(g), -choice_score(g, on_validation), g.key))


def _most_accurate(groups: list[Group], on_validation: bool) -> Group:
    """Returns the most accurate group; of equals the one with the smallest file, then the first by name."""
    return min(groups, key=lambda g: (-choice_score(g, on_validation), bytes_of(g), g.key))


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
