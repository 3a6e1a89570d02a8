"""Re-estimation of batch-norm statistics after quantization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from r2keras._models import rebuild
from r2keras._models.values import packed, to_numpy
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid
from r2keras.calibration.data import Batch, Data, batches

Statistics = list[tuple[np.ndarray, np.ndarray]]


def reestimate_batch_norm(
    model: keras.Model, data: Data, *, reference: keras.Model | None = None, batch_size: int = 128
) -> int:
    """Re-measures the statistics of every batch-norm layer, in place; nothing else changes.

    Runs the data through the model once, where each batch-norm layer normalizes with the batch's own statistics. Their
    averages over the batches, weighted by the number of samples, are `mean` and `var`. Dropout stays off. Without
    `reference`, `mean` and `var` replace the moving statistics, which is best if `data` are distributed like the
    training data. With `reference`, the same is measured on the float model (`mean_f`, `var_f`) and only the change
    through quantization is applied: `moving_mean += mean - mean_f`, `moving_variance *= var / var_f`. Data of another
    distribution then do no harm.

    Args:
        model: a built Functional or Sequential model; its `BatchNormalization` layers are changed, including those of
            nested models, but not those inside a composite custom layer.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
            Batches of at least 64 samples give good variances.
        reference: the float model that `model` was made from; None replaces the statistics.
        batch_size: samples per batch if `data` is an array.

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
    checked = list(batches(view, data, batch_size))
    statistics_after = measure(view, checked)
    if reference is not None:
        statistics_after = shifted(view, measure(view_of(reference, "reference"), checked), statistics_after)
    set_statistics(view, statistics_after)
    return len(norms)


def batch_norms(view: ModelView) -> list[keras.layers.BatchNormalization]:
    """Returns the batch-norm layers of a model, in the order of its layers."""
    return [layer for _, layer in view.instances(keras.layers.BatchNormalization)]


def measure(view: ModelView, data: Iterable[Batch]) -> Statistics:
    """Returns the mean and variance at each batch-norm layer, averaged over the samples; the model does not change.

    Args:
        view: the model.
        data: checked batches (`calibration.data.batches`).

    Returns:
        Pairs `(mean, variance)` in the order of `batch_norms`.
    """
    copy = view_of(rebuild.rebuild(view, _measuring))
    probe = copy.model
    norms = batch_norms(copy)
    for batch in data:
        for layer in norms:
            layer.samples = len(batch[0])
        probe(packed(probe, batch), training=False)
    return statistics(copy)


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
    return [(to_numpy(layer.moving_mean), to_numpy(layer.moving_variance)) for layer in batch_norms(view)]


def set_statistics(view: ModelView, values: Statistics) -> None:
    """Assigns moving means and variances to the batch-norm layers of a model."""
    for layer, (mean, variance) in zip(batch_norms(view), values, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


class MeasuredNormalization(keras.layers.BatchNormalization):
    """A batch-norm layer that measures its statistics in inference, so that the other layers stay in inference mode.

    Attributes:
        samples: the number of samples in the next call.
        num_measured: the number of samples measured so far; a layer that a model uses twice averages over both uses.
    """

    samples = 1
    num_measured = 0

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes with the batch's statistics and updates the moving statistics."""
        # With this momentum, the moving average is the average over all samples so far.
        self.momentum = self.num_measured / (self.num_measured + self.samples)
        self.num_measured += self.samples
        return super().call(inputs, training=True, mask=mask)


def _measuring(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Replaces a batch-norm layer by one that measures."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    return MeasuredNormalization.from_config({**layer.get_config(), "trainable": True})
