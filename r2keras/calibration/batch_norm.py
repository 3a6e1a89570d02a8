"""Re-estimation of batch-norm statistics after quantization."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import keras
import numpy as np

from r2keras._models import layer_by_layer, rebuild
from r2keras._models.layer_copies import recreate
from r2keras._models.values import to_numpy
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid
from r2keras.calibration.data import Data, kept_batches
from r2keras.calibration.data_checks import Batch

Statistics = list[tuple[np.ndarray, np.ndarray]]
# Largest change of a statistic between two runs, in standard deviations, at which it counts as settled.
TOLERANCE = 1e-3
# Bytes of the tensors that are in memory while a layer normalizes, and their number in sizes of the largest.
MAX_BYTES = 2**31
LIVE = 6


def reestimate_batch_norm(
    model: keras.Model,
    data: Data,
    *,
    reference: keras.Model | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
) -> int:
    """Re-measures the statistics of every batch-norm layer, in place; nothing else changes.

    `mean` and `var` are those of a layer's inputs over all data, when the batch-norm layers before it normalize with
    theirs. All data run through the model at once, layer by layer. If that needs more than about 2 GiB, they run in
    parts, each normalized by its own statistics, and the statistics of the parts are joined. The order of the data and
    their batches have no effect. Dropout stays off.

    Without `reference`, `mean` and `var` replace the moving statistics, which is best if `data` are distributed like
    the training data. With `reference`, the same is measured on the float model (`mean_f`, `var_f`) and only the change
    through quantization is applied: `moving_mean += mean - mean_f`, `moving_variance *= var / var_f`. Data of another
    distribution then do no harm.

    Args:
        model: a built Functional or Sequential model; its `BatchNormalization` layers are changed, including those of
            nested models, but not those inside a composite custom layer.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
        reference: the float model that `model` was made from; None replaces the statistics.
        batch_size: the least number of samples per part; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but of an iterable that does not say how many batches it has 16,384, and of one kept in memory 1 GiB.

    Returns:
        The number of batch-norm layers that were measured.

    Raises:
        TypeError: `model` is subclassed.
        ValueError: there are no data for a model with batch normalization, or they are empty, not finite or of another
            shape.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    >>> reestimate_batch_norm(model, np.array([[1.0], [3.0]], "float32"))
    1
    >>> float(model.get_layer("norm").moving_mean[0])
    2.0

    Source: Sun et al., arXiv 1902.09024; Nagel et al., arXiv 2106.08295, section 4. The form with `reference` is ours.
    """
    view = view_of(model)
    norms = batch_norms(view)
    if not norms:
        return 0
    if data is None:
        fix = "Pass a few hundred training inputs, or batch_norm='keep'"
        raise DataNeededError(invalid("data", f"inputs to re-estimate {len(norms)} batch-norm layers", None, fix))
    checked = kept_batches(view, data, batch_size, max_samples)
    statistics_after = measure(view, checked)
    if reference is not None:
        statistics_after = shifted(view, measure(view_of(reference, "reference"), checked), statistics_after)
    set_statistics(view, statistics_after)
    return len(norms)


def batch_norms(view: ModelView) -> list[keras.layers.BatchNormalization]:
    """Returns the batch-norm layers of a model, in the order of its layers."""
    return [layer for _, layer in view.instances(keras.layers.BatchNormalization)]


def measure(view: ModelView, data: list[Batch]) -> Statistics:
    """Returns the mean and variance of the inputs of each batch-norm layer over all data; the model does not change.

    Args:
        view: the model.
        data: checked batches (`calibration.data.kept_batches`).

    Returns:
        Pairs `(mean, variance)` in the order of `batch_norms`.
    """
    measured = {id(norm): _measuring(norm) for norm in batch_norms(view)}
    calls: collections.Counter[int] = collections.Counter()

    def call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        calls[id(layer)] += 1
        return measured.get(id(layer), layer)(*args, **kwargs)

    parts = joined(view, data)
    # A layer that is used twice normalizes with the statistics of both uses, which are known after the run.
    for _ in range(len(measured) + 1):
        calls.clear()
        for part in parts:
            layer_by_layer.run(view.model, part, call)
        changes = [layer.settle() for layer in measured.values()]
        is_shared = any(calls[key] > len(parts) for key in measured)
        if not is_shared or max(changes) < TOLERANCE:
            break
    return [layer.settled for layer in measured.values() if layer.settled is not None]


def joined(view: ModelView, data: list[Batch]) -> list[Batch]:
    """Returns the data in as few parts as memory allows, each of samples of one shape."""
    if len(data) == 1:
        return data
    most = max(1, MAX_BYTES // (LIVE * _largest_bytes(view, [array[:1] for array in data[0]])))
    parts: list[list[Batch]] = []
    for batch in data:
        fits = bool(parts) and [x.shape[1:] for x in batch] == [x.shape[1:] for x in parts[-1][0]]
        if fits and len(batch[0]) + sum(len(other[0]) for other in parts[-1]) <= most:
            parts[-1].append(batch)
        else:
            parts.append([batch])
    return [[np.concatenate(arrays) for arrays in zip(*part, strict=True)] for part in parts]


def _largest_bytes(view: ModelView, sample: Batch) -> int:
    """Returns the size of the largest result of a layer for one sample."""
    sizes = [1]

    def call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        sizes.append(4 * sum(math.prod(tensor.shape) for tensor in keras.tree.flatten(outputs)))
        return outputs

    layer_by_layer.run(view.model, sample, call)
    return max(sizes)


def shifted(view: ModelView, before: Statistics, after: Statistics) -> Statistics:
    """Returns a model's moving statistics, shifted by the change from `before` to `after`."""
    shifted_statistics = []
    for (mean, variance), (mean_f, var_f), (mean_q, var_q) in zip(statistics(view), before, after, strict=True):
        # A channel that is constant in the float model has no ratio; it keeps its variance.
        ratio = np.divide(var_q, var_f, out=np.ones_like(var_q), where=var_f > 0)
        shifted_statistics.append((mean + mean_q - mean_f, variance * ratio))
    return shifted_statistics


def statistics(view: ModelView) -> Statistics:
    """Returns the moving means and variances of a model's batch-norm layers."""
    return [_statistics_of(norm) for norm in batch_norms(view)]


def _statistics_of(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns the moving mean and variance of a batch-norm layer."""
    return to_numpy(norm.moving_mean), to_numpy(norm.moving_variance)


def set_statistics(view: ModelView, values: Statistics) -> None:
    """Assigns moving means and variances to the batch-norm layers of a model."""
    for layer, (mean, variance) in zip(batch_norms(view), values, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


class MeasuredNormalization(keras.layers.BatchNormalization):
    """A batch-norm layer that measures its inputs in inference, so that the other layers stay in inference mode.

    Attributes:
        settled: the mean and variance of all data in the last run; None in the first one. A layer that a model uses
            twice has those of both uses together.
    """

    settled: tuple[np.ndarray, np.ndarray] | None = None
    _measured: Moments | None = None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes with the settled statistics, or else the batch's own, and adds those of the batch."""
        # With no momentum, the moving statistics become those of the batch.
        self.momentum = 0.0
        outputs = super().call(inputs, training=True, mask=mask)
        mean, variance = (to_numpy(v).astype(np.float64) for v in (self.moving_mean, self.moving_variance))
        values = math.prod(inputs.shape) // mean.size if mask is None else int(np.sum(keras.ops.convert_to_numpy(mask)))
        self._measured = Moments(values, mean, variance).joined(self._measured)
        if self.settled is None:
            return outputs
        self._set(*self.settled)
        return super().call(inputs, training=False, mask=mask)

    def settle(self) -> float:
        """Ends a run; returns the largest change since the last one, in standard deviations."""
        assert self._measured is not None
        mean, variance = self._measured.mean, self._measured.variance
        old_mean, old_variance = (np.inf, 0.0) if self.settled is None else self.settled
        deviation = np.sqrt(np.maximum(variance, self.epsilon))
        changes = [np.abs(mean - old_mean), np.abs(np.sqrt(variance) - np.sqrt(old_variance))]
        self.settled = mean.astype(np.float32), variance.astype(np.float32)
        self._measured = None
        return float(np.max(changes / deviation))

    def _set(self, mean: np.ndarray, variance: np.ndarray) -> None:
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)


@dataclasses.dataclass
class Moments:
    """Number, mean and population variance of values, float64."""

    count: int
    mean: np.ndarray
    variance: np.ndarray

    def joined(self, other: Moments | None) -> Moments:
        """Returns the moments of these values and others together.

        >>> one = Moments(1, np.array(1.0), np.array(0.0)).joined(Moments(1, np.array(3.0), np.array(0.0)))
        >>> float(one.mean), float(one.variance)
        (2.0, 1.0)
        """
        if other is None or not self.count:
            return other or self
        count = self.count + other.count
        share = self.count / count
        mean = other.mean + share * (self.mean - other.mean)
        within = other.variance + share * (self.variance - other.variance)
        return Moments(count, mean, within + share * (1 - share) * np.square(self.mean - other.mean))


def _measuring(norm: keras.layers.BatchNormalization) -> MeasuredNormalization:
    """Returns a copy of a batch-norm layer that measures."""
    copy = recreate(norm, {**norm.get_config(), "trainable": True}, MeasuredNormalization)
    copy.build_from_config(norm.get_build_config())
    rebuild.transfer(norm.name, norm, copy)
    return copy
