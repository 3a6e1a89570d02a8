"""Batch normalisation after quantization: its statistics measured again."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from r2keras import _model
from r2keras._errors import DataNeededError, invalid
from r2keras.calibration.data import batches

Statistics = list[tuple[np.ndarray, np.ndarray]]


def reestimate_batch_norm(
    model: keras.Model, data, *, reference: keras.Model | None = None, batch_size: int = 128
) -> int:
    """Measures the statistics of every batch normalisation again, in place; nothing else changes.

    The data go through the model once, each batch normalisation normalising with the batch's own statistics; their
    averages over the batches, each weighted by its samples, are `mean` and `var`. Dropout stays off. Without
    `reference` they replace the moving statistics: best where `data` are like the training data. With it, the same is
    measured on the float model (`mean_f`, `var_f`), and only what quantization changed is carried over, so that data
    of another mixture do no harm: `moving_mean += mean - mean_f`, `moving_variance *= var / var_f`.

    Args:
        model: a built Functional or Sequential model; its `BatchNormalization` layers are changed, those of nested
            models too, but not those inside a composite custom layer.
        data: unlabelled inputs: an array, a list of arrays (one an input), a dict by name, or an iterable of batches.
            Batches of at least 64 samples give good variances.
        reference: the float model that `model` was made from; None replaces the statistics outright.
        batch_size: samples a batch where `data` is an array.

    Returns:
        How many batch normalisations were measured.

    Raises:
        TypeError: a subclassed model.
        ValueError: no data for a model with batch normalisation; data that are empty, not finite or of another shape.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    >>> reestimate_batch_norm(model, np.array([[1.0], [3.0]], "float32"))
    1
    >>> float(model.get_layer("norm").moving_mean[0])
    2.0

    Source: Sun et al., arXiv 1902.09024; Nagel et al., arXiv 2106.08295, section 4. The form with `reference` is ours.
    """
    norms = batch_norms(model)
    if norms:
        if data is None:
            raise DataNeededError(
                invalid(
                    "data",
                    f"inputs to re-estimate {len(norms)} batch normalisations with",
                    None,
                    "Pass a few hundred training inputs, or batch_norm='keep'",
                )
            )
        kept = list(batches(model, data, batch_size))
        after = measure(model, kept)
        set_statistics(model, after if reference is None else shifted(model, measure(reference, kept), after))
    return len(norms)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalisations of a model, in the order of its layers."""
    return [layer for _, layer in _model.leaf_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def measure(model: keras.Model, data: Iterable[list[np.ndarray]]) -> Statistics:
    """Returns mean and variance at each batch normalisation, averaged over the samples; the model stays as it is.

    Args:
        model: a built Functional or Sequential model.
        data: checked batches (`calibration.data.batches`).

    Returns:
        Pairs `(mean, variance)` in the order of `batch_norms`.
    """
    probe = _model.rebuild(model, _measuring)
    measured = batch_norms(probe)
    for layer in measured:
        layer.seen = 0
    for batch in data:
        for layer in measured:
            layer.samples = len(batch[0])
        probe(_model.packed(probe, batch), training=False)
    return statistics(probe)


def shifted(model: keras.Model, before: Statistics, after: Statistics) -> Statistics:
    """Returns a model's moving statistics, moved by the change from `before` to `after`."""
    moved = []
    for (mean, variance), (mean_f, var_f), (mean_q, var_q) in zip(statistics(model), before, after, strict=True):
        # A channel that is dead in float has nothing to compare with: it keeps its variance.
        ratio = np.divide(var_q, var_f, out=np.ones_like(var_q), where=var_f > 0)
        moved.append((mean + mean_q - mean_f, variance * ratio))
    return moved


def statistics(model: keras.Model) -> Statistics:
    """Returns the moving means and variances of a model's batch normalisations."""
    return [
        (_model.to_numpy(layer.moving_mean), _model.to_numpy(layer.moving_variance)) for layer in batch_norms(model)
    ]


def set_statistics(model: keras.Model, values: Statistics) -> None:
    """Assigns moving means and variances to the batch normalisations of a model."""
    for layer, (mean, variance) in zip(batch_norms(model), values, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


class MeasuredNormalization(keras.layers.BatchNormalization):
    """A batch normalisation that measures in inference too, so that the layers around it stay in inference.

    Attributes:
        samples: how many samples the next call has.
        seen: how many it has measured; a layer that a model uses twice averages over both uses.
    """

    samples, seen = 1, 0

    def call(self, inputs, training=None, mask=None):
        """Normalises with the batch's statistics and updates the moving ones."""
        # Running averages with this momentum are the average over all samples so far.
        self.momentum = self.seen / (self.seen + self.samples)
        self.seen += self.samples
        return super().call(inputs, training=True, mask=mask)


def _measuring(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Replaces a batch normalisation by one that measures."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    return MeasuredNormalization.from_config({**layer.get_config(), "trainable": True})
