"""How far the outputs of a compressed model are from the float model's, and what that costs in quality."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from r2keras._models import values
from r2keras._util.errors import check_choice, invalid, invalid_part
from r2keras.calibration.data_checks import Batch

# A function of labels and outputs, larger for better outputs.
Metric = Callable[[np.ndarray, Any], float]
METRICS = ("accuracy", "expected_accuracy", "agreement", "output_error")
# Those that are shares of samples.
SHARES = METRICS[:3]
# Names of losses, of classes and of functions.
REGRESSION_LOSSES = {
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
}
TINY = 1e-7
# The largest error: stored results are JSON, which has no infinity.
WORST = 1e9
# Outputs that add up to 1 within this are probabilities.
ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a compressed model computes on the samples that judge it.

    Args:
        quality: the metric: share of correct decisions, the float model's mean probability of the decisions, share of
            decisions that agree with the float model's, or 1 minus the relative output error; or the result of the
            caller's function.
        drop: the float model's quality minus this one.
        noise: standard error of the drop, from the samples; None where they do not give one.
        error: mean divergence from the float model's outputs (`output_error`).
    """

    quality: float
    drop: float
    noise: float | None
    error: float


def outputs_of(model: keras.Model, data: list[Batch]) -> list[np.ndarray]:
    """Returns the outputs of a model on all batches, one float32 array per output."""
    parts = [keras.tree.flatten(model.predict_on_batch(values.packed(model, batch))) for batch in data]
    return [np.concatenate([np.asarray(part[i], np.float32) for part in parts]) for i in range(len(parts[0]))]


def are_probabilities(output: np.ndarray) -> bool:
    """Whether the last axis of an output holds the probabilities of two or more classes.

    >>> are_probabilities(np.array([[0.25, 0.75]])), are_probabilities(np.array([[0.25, 0.5]]))
    (True, False)
    """
    if output.ndim < 2 or output.shape[-1] < 2 or output.min(initial=0) < -ROUNDING:
        return False
    return bool(np.abs(output.sum(axis=-1) - 1).max(initial=0) < ROUNDING)


def output_error(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    """Returns how far outputs are from expected ones, at most `WORST`, which is also for outputs that are not finite.

    For probabilities `p` this is the Kullback-Leibler divergence `sum p log(p / q)`, for other outputs the squared
    error divided by the expected outputs' variance; means over samples, added over outputs.

    >>> output_error([np.array([[0.0], [2.0]])], [np.array([[0.0], [1.0]])])
    0.5
    """
    total = 0.0
    for wanted, given in zip(expected, actual, strict=True):
        wanted, given = wanted.astype(np.float64), given.astype(np.float64)
        if are_probabilities(wanted):
            p, q = (np.clip(y, TINY, 1.0) for y in (wanted, given))
            total += float((p * np.log(p / q)).sum(axis=-1).mean())
        else:
            total += float(np.square(wanted - given).mean() / max(float(wanted.var()), TINY**2))
    return min(max(total, 0.0), WORST) if math.isfinite(total) else WORST


class Judge:
    """Compares models with the float model on the same samples.

    Args:
        model: the float model.
        data: checked batches.
        labels: class numbers or other targets, one per sample; or None.
        metric: one of `METRICS`, a function, or None for the default: accuracy with labels; without, expected accuracy
            for probabilities, agreement of decisions for other outputs that look like those of a classifier, else the
            output error.
        is_regression: whether the model predicts numbers, which have no decisions.
    """

    def __init__(
        self,
        model: keras.Model,
        data: list[Batch],
        labels: np.ndarray | None,
        metric: str | Metric | None,
        is_regression: bool = False,
    ) -> None:
        self.is_regression = is_regression
        self.data = data
        self.labels = labels
        self.expected = outputs_of(model, data)
        self.structure = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
        self.metric = self._chosen(metric)
        self.float_quality = self._quality(self.expected)

    @property
    def num_samples(self) -> int:
        """Samples that judge."""
        return sum(len(batch[0]) for batch in self.data)

    @property
    def name(self) -> str:
        """What is measured, as text."""
        if isinstance(self.metric, str):
            return self.metric
        return str(getattr(self.metric, "__name__", None) or getattr(self.metric, "name", "metric"))

    @property
    def mark(self) -> list[str]:
        """What is measured, so that two functions of one name differ."""
        code = getattr(self.metric, "__code__", None)
        constants = [] if code is None else [one for one in code.co_consts if isinstance(one, (int, float, str))]
        return [self.name] if code is None else [self.name, code.co_code.hex(), repr((code.co_names, constants))]

    def judge(self, model: keras.Model) -> Judgement:
        """Runs a model on the samples."""
        return self.of_outputs(outputs_of(model, self.data))

    def of_outputs(self, outputs: list[np.ndarray]) -> Judgement:
        """Returns the judgement on the outputs of a model."""
        quality = self._quality(outputs)
        error = output_error(self.expected, outputs)
        return Judgement(quality, self.float_quality - quality, self._noise(outputs), error)

    def _chosen(self, metric: str | Metric | None) -> str | Metric:
        """Returns the metric, checked against labels and outputs."""
        decides = len(self.expected) == 1 and _decisions(self.expected[0]) is not None
        if metric is None:
            metric = self._default(decides)
        if isinstance(metric, str):
            check_choice("metric", METRICS, metric)
            if metric != "output_error" and not decides:
                expected = "'output_error' or a function, for outputs that are not one row of classes per sample"
                raise ValueError(invalid("metric", expected, metric))
        elif not callable(metric):
            raise TypeError(invalid("metric", f"one of {', '.join(METRICS)}, or a function", metric))
        if self.labels is None and (metric == "accuracy" or callable(metric)):
            raise ValueError(invalid("labels", "labels, which the metric needs", None, "Pass labels="))
        if metric == "accuracy":
            self._check_classes()
        if metric == "expected_accuracy" and not are_probabilities(self.expected[0]):
            fix = "Add a softmax, or pass metric='agreement'"
            raise ValueError(invalid("metric", "another one for outputs that are not probabilities", metric, fix))
        return metric

    def _default(self, decides: bool) -> str:
        """Returns the metric of a caller who names none."""
        if self.labels is not None:
            return "accuracy"
        if not decides:
            return "output_error"
        if are_probabilities(self.expected[0]):
            return "expected_accuracy"
        return "agreement" if self._is_classification() else "output_error"

    def _is_classification(self) -> bool:
        """Whether outputs that are not probabilities look like those of a classifier.

        A number that is predicted, and an input that is reconstructed, have decisions too, but these say nothing.
        """
        output = self.expected[0]
        if output.shape[1] == 1 and not _is_in_unit_range(output):
            return False
        if self.is_regression or any(array.shape[1:] == output.shape[1:] for array in self.data[0]):
            return False
        decisions = _decisions(output)
        return decisions is not None and len(np.unique(decisions)) > 1

    def _check_classes(self) -> None:
        """Raises ValueError unless the labels are class numbers."""
        labels = np.asarray(self.labels)
        classes = max(self.expected[0].shape[1], 2)
        if labels.dtype.kind not in "iu" or labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes:
            received = f"{labels.dtype} labels of shape {labels.shape}"
            expected = f"one class number per sample, from 0 to {classes - 1}"
            is_one_hot = labels.ndim == 2 and bool(np.all(np.sort(labels) == np.eye(labels.shape[1])[0, ::-1]))
            fix = "Pass labels.argmax(axis=1)" if is_one_hot else "Pass metric= for other labels"
            raise ValueError(invalid_part("labels", expected, received, fix))

    def _quality(self, outputs: list[np.ndarray]) -> float:
        """Returns the metric of outputs."""
        if callable(self.metric):
            return self._called(self.metric, outputs)
        if self.metric == "output_error":
            return 1.0 - math.sqrt(output_error(self.expected, outputs))
        return float(self._scores(outputs).mean())

    def _called(self, metric: Metric, outputs: list[np.ndarray]) -> float:
        """Returns the result of the caller's function."""
        arguments = keras.tree.pack_sequence_as(self.structure, outputs)
        try:
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()  # It would average over all models that were judged so far.
            value = float(metric(np.asarray(self.labels), arguments))
        except Exception as error:
            received = f"one that raises {type(error).__name__}: {error}"
            expected = "a function of labels and outputs that returns a number"
            raise ValueError(invalid_part("metric", expected, received)) from error
        if not math.isfinite(value):
            raise ValueError(invalid("metric", "a function that returns a finite number", value))
        return value

    def _scores(self, outputs: list[np.ndarray]) -> np.ndarray:
        """Returns 1 where a decision equals the label or the float model's, or the float model's probability of it."""
        decisions = _decisions(outputs[0])
        assert decisions is not None  # Checked for the float model's outputs.
        if self.metric == "expected_accuracy":
            return np.take_along_axis(self.expected[0].astype(np.float64), decisions[:, None], axis=1)[:, 0]
        wanted = self.labels if self.metric == "accuracy" else _decisions(self.expected[0])
        return np.asarray(decisions == wanted).astype(np.float64)

    def _noise(self, outputs: list[np.ndarray]) -> float | None:
        """Returns the standard error of the drop: samples are judged in pairs."""
        if callable(self.metric) or self.metric == "output_error":
            return None
        changes = self._scores(self.expected) - self._scores(outputs)
        return float(changes.std() / math.sqrt(len(changes)))


def _decisions(output: np.ndarray) -> np.ndarray | None:
    """Returns the decision on each sample: the largest class, or the side of the threshold of a single unit."""
    if output.ndim != 2:
        return None
    if output.shape[1] > 1:
        return np.asarray(output.argmax(axis=1))
    return np.asarray(output[:, 0] > (0.5 if _is_in_unit_range(output) else 0.0)).astype(np.int64)


def _is_in_unit_range(output: np.ndarray) -> bool:
    """Whether outputs can be those of a sigmoid."""
    return bool(output.min(initial=0) >= 0 and output.max(initial=0) <= 1)


def has_regression_loss(model: keras.Model) -> bool:
    """Whether a model is compiled with a loss of numbers, not of classes.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> model.compile(loss="mse")
    >>> has_regression_loss(model)
    True
    """
    loss = getattr(model, "loss", None)
    try:
        found = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return False
    name = str(getattr(found, "name", None) or getattr(found, "__name__", ""))
    return name.removesuffix("_loss") in REGRESSION_LOSSES
