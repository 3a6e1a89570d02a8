"""`sensitivity`: how much the outputs change when one layer alone is compressed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._models.float32 import in_float32
from r2keras._models.walk import ModelView, view_of
from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, invalid, invalid_part
from r2keras._util.files import atomic_write_text
from r2keras._util.progress import progress_bar
from r2keras._util.tables import add_row, new_table
from r2keras._util.text import DASH, count, percent
from r2keras.automatic.judge import TINY, Judge, Metric, has_regression_loss
from r2keras.automatic.options import Choice, Option, choices_of, specs_for
from r2keras.automatic.plots import write_sensitivity
from r2keras.automatic.working_copy import WorkingCopy, with_biases
from r2keras.calibration.data import Data, labelled_samples
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.folding import folded
from r2keras.calibration.rounding.float_inputs import input_statistics
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions
from r2keras.specs import QuantSpec

if TYPE_CHECKING:
    from rich.table import Table

BATCH_SIZE = 128
MOST_BITS = 8


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What compressing one layer alone does to the outputs.

    Args:
        layer: its path.
        option: what its kernels become, such as `"4 bits"` or `"palette, 2 bits"`.
        num_values: weights in its kernels.
        num_bytes: bytes of its kernels in a file, about.
        error: mean divergence of the outputs from the float model's: Kullback-Leibler for probabilities, else the
            squared error divided by the outputs' variance.
        drop: loss of quality: of accuracy with labels, of expected accuracy or agreement without; None if the error was
            predicted from the layer's own outputs (`compress` does that for 8 bits and for palettes).

    Example:

    >>> LayerSensitivity("conv", "4 bits", 1000, 600, 0.002, 0.01).num_bytes
    600
    """

    layer: str
    option: str
    num_values: int
    num_bytes: int
    error: float
    drop: float | None


@dataclasses.dataclass(frozen=True)
class Sensitivity(Tabular):
    """The sensitivity of a model to each option of each layer; `print` shows a table.

    Args:
        rows: one per layer and option, in the order of the layers.
        metric: what `drop` is a loss of.
        num_samples: samples on which it was measured.

    Example:

    >>> rows = [LayerSensitivity(name, "4 bits", 100, 250, error, 0.0) for name, error in (("a", 0.1), ("b", 0.2))]
    >>> [row.layer for row in Sensitivity(tuple(rows), "accuracy", 64).worst()]
    ['b', 'a']
    """

    rows: tuple[LayerSensitivity, ...]
    metric: str
    num_samples: int

    def worst(self, number: int = 10) -> list[LayerSensitivity]:
        """Returns the rows with the largest errors, the largest first."""
        return sorted(self.rows, key=lambda row: -row.error)[: check_int("number", number, 1, None)]

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return dataclasses.asdict(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON, atomically.

        Raises:
            OSError: the file cannot be written.
        """
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the errors by layer, one series per option, into an `.svg` or `.png` file.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        write_sensitivity(self.rows, path)

    def __rich__(self) -> Table:
        options = list(dict.fromkeys(row.option for row in self.rows))
        columns = [("layer", False), ("weights", True), *((f"{option}: error", True) for option in options)]
        columns += [(f"{option}: drop", True) for option in options]
        title = f"Sensitivity of each layer, {self.num_samples} samples; drop in {self.metric.replace('_', ' ')}"
        table = new_table(title, columns)
        for layer in dict.fromkeys(row.layer for row in self.rows):
            found = {row.option: row for row in self.rows if row.layer == layer}
            cells = [f"{found[o].error:.2g}" if o in found else DASH for o in options]
            cells += [percent(found[o].drop) if o in found else DASH for o in options]
            add_row(table, [layer, count(next(iter(found.values())).num_values), *cells])
        return table


def sensitivity(
    model: keras.Model,
    data: Data,
    *,
    bits: Sequence[int] = (8, 4, 2),
    palettes: bool = False,
    labels: np.ndarray | None = None,
    metric: str | Metric | None = None,
    rounding: str = "nearest",
    max_samples: int | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Measures what each layer costs at each number of bits, when all other layers stay float.

    Batch normalizations are folded first (`fold_batch_norm`), and the bias of the layer is corrected for the mean
    change of its outputs. Grids have one scale per output channel, with ranges of least squared error.

    Args:
        model: a built, trained Functional or Sequential model; left untouched.
        data: unlabeled inputs in any form that `calibrate` takes; some hundred samples.
        bits: numbers of bits per weight, 1 to 8.
        palettes: whether to measure palettes, too, at up to 4 bits.
        labels: class numbers or other targets, one per sample, if `data` are arrays.
        metric: what `drop` is a loss of, as in `compress`.
        rounding: `"nearest"`, or `"adaround"`, which takes a second or so per kernel and number of bits.
        max_samples: the number of samples to use; None uses all, as `calibrate` does.
        progress: whether to show progress, in terminals and notebooks.

    Returns:
        One row per layer and option.

    Raises:
        TypeError: a subclassed model.
        ValueError: bits out of range; data, labels or a metric that do not fit.

    Example:

    >>> layers = [keras.layers.Dense(8, activation="relu", name="first"), keras.layers.Dense(2, name="second")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> result = sensitivity(model, np.eye(4, dtype=np.float32), bits=(8, 2))
    >>> [(row.layer, row.option) for row in result.rows]
    [('first', '8 bits'), ('first', '2 bits'), ('second', '8 bits'), ('second', '2 bits')]

    Source: the output divergence of one layer at a time as in Wu et al., arXiv 2004.09602, section 5.3.
    """
    bits = checked_bits(bits)
    if rounding not in ("nearest", "adaround"):
        raise ValueError(invalid("rounding", "'nearest' or 'adaround'", rounding))
    view = folded(in_float32(view_of(model)))
    check_kernels(view)
    samples = labelled_samples(view, data, labels, max_samples)
    batches = list(samples.batches(BATCH_SIZE))
    inputs, sorted_labels = without_labels(batches, labels is not None)
    judge = Judge(view.model, inputs, sorted_labels, metric, has_regression_loss(model))
    copy = with_biases(view)
    statistics = input_statistics(copy, inputs)
    options = AdaRoundOptions() if rounding == "adaround" else None
    choices = choices_of(copy, specs_for(bits, palettes), inputs, statistics, options, None, progress)
    rows = measured(WorkingCopy(copy, statistics), choices, judge, (), lambda row: None, progress)
    return Sensitivity(tuple(rows), judge.name, judge.num_samples)


def checked_bits(bits: Iterable[int]) -> tuple[int, ...]:
    """Returns numbers of bits, most first, each once; raises ValueError for others than 1 to 8."""
    if isinstance(bits, (int, str)) or not isinstance(bits, Iterable):
        raise ValueError(invalid("bits", "a list of numbers from 1 to 8", bits, "Write bits=(8, 4, 2)"))
    checked = {check_int("bits", number, 1, MOST_BITS) for number in bits}
    if not checked:
        raise ValueError(invalid("bits", "at least one number from 1 to 8", []))
    return tuple(sorted(checked, reverse=True))


def check_kernels(view: ModelView) -> None:
    """Raises ValueError for a model in which there is nothing to compress."""
    if not view.kernels:
        expected = "a model with kernels: convolutions, Dense, Embedding or recurrent layers"
        raise ValueError(invalid_part("model", expected, f"{view.model.name!r}, which has none"))


def without_labels(batches: list[Batch], has_labels: bool) -> tuple[list[Batch], np.ndarray | None]:
    """Returns batches of inputs alone, and the labels that came as their last arrays."""
    if not has_labels:
        return batches, None
    return [batch[:-1] for batch in batches], np.concatenate([batch[-1] for batch in batches])


def measured(
    copy: WorkingCopy,
    choices: Sequence[Choice],
    judge: Judge,
    known: Sequence[LayerSensitivity],
    keep: Callable[[LayerSensitivity], None],
    progress: bool,
    *,
    predicts: bool = False,
) -> list[LayerSensitivity]:
    """Returns the sensitivity of all layers to all of their options.

    Args:
        copy: the model in which options are tried.
        choices: layers and their options.
        judge: what measures.
        known: rows of an earlier run, which are not measured again.
        keep: called with every new row.
        progress: whether to show a bar.
        predicts: whether to run grids below 8 bits alone, and to predict the other options from these.
    """
    rows = {(row.layer, row.option): row for row in known}
    pairs = [(choice, option) for choice in choices for option in choice.options]
    few_bits = [(choice, option) for choice, option in pairs if _is_few_bits(option)]
    done = 0
    with progress_bar(progress, len(pairs), "Sensitivity") as update:
        for choice, option in [*few_bits, *(pair for pair in pairs if pair not in few_bits)]:
            update(done, f"Sensitivity of {choice.path} to {option.label}")
            key = choice.path, option.label
            if key not in rows:
                row = _predicted(copy, choice, option, rows) if predicts else None
                rows[key] = row or _measured(copy, choice, option, judge)
                keep(rows[key])
            done += 1
        update(done, "Sensitivity")
    return [rows[choice.path, option.label] for choice, option in pairs]


def _is_few_bits(option: Option) -> bool:
    """Whether an option is a grid of fewer than 8 bits."""
    return isinstance(option.spec, QuantSpec) and option.spec.num_bits < MOST_BITS


def _measured(copy: WorkingCopy, choice: Choice, option: Option, judge: Judge) -> LayerSensitivity:
    """Returns what the outputs of the whole model say of one option."""
    copy.take(choice, option)
    found = judge.judge(copy.model)
    copy.restore(choice)
    return LayerSensitivity(choice.path, option.label, choice.num_values, option.num_bytes, found.error, found.drop)


def _predicted(
    copy: WorkingCopy, choice: Choice, option: Option, rows: Mapping[tuple[str, str], LayerSensitivity]
) -> LayerSensitivity | None:
    """Returns one option's error from that of the measured option whose own output error is nearest.

    The error of the model's outputs is about proportional to the layer's. None if there is none to predict from.
    """
    own = copy.local_error(option)
    if own is None or _is_few_bits(option):
        return None
    known: list[tuple[float, float]] = []
    for other in choice.options:
        row, local = rows.get((choice.path, other.label)), copy.local_error(other)
        if _is_few_bits(other) and row is not None and local:
            known.append((local, row.error))
    if not known:
        return None
    local, error = min(known, key=lambda pair: abs(math.log(pair[0] / max(own, TINY * pair[0]))))
    return LayerSensitivity(choice.path, option.label, choice.num_values, option.num_bytes, error * own / local, None)


def error_table(rows: Iterable[LayerSensitivity], choices: Sequence[Choice]) -> list[list[float]]:
    """Returns the errors of each layer's options, in the order of `choices`."""
    errors = {(row.layer, row.option): row.error for row in rows}
    return [[errors[choice.path, option.label] for option in choice.options] for choice in choices]
