"""Whether calibration data fit a model: its batch-norm statistics against those of the data."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from r2keras._models.walk import ModelView
from r2keras.calibration import batch_norm as norms
from r2keras.calibration.data_checks import Batch

# Steps that take so long that measuring the statistics first does not matter.
SLOW = {"adaround", "sensitivity"}
# Steps that change the layers whose statistics are measured.
CHANGING = {"fold_batch_norm", "equalize"}
# Largest divergence, in nats. ResNet-8, DS-CNN, ResNet-20 and MobileNetV1-0.25 have at most 0.05 with 250 inputs as in
# training, and at least 0.4 with inputs scaled to 0 to 1 (`benchmarks/calibration_defaults.py --fit`).
LIMIT = 0.3


def warned_statistics(
    view: ModelView, data: list[Batch] | None, steps: tuple[str, ...], batch_norm: str
) -> norms.Statistics | None:
    """Measures the batch-norm statistics of the float model if the steps allow, and warns if the data do not fit.

    Args:
        view: the float model.
        data: checked batches; None for none.
        steps: the steps of `calibrate`.
        batch_norm: see `calibrate`.

    Returns:
        The statistics, which re-estimation needs, too; None if they were not measured, or the steps change the layers.
    """
    is_changed = bool(CHANGING & set(steps))
    is_needed = "reestimate_batch_norm" in steps and batch_norm in ("auto", "shift") and not is_changed
    if data is None or not norms.batch_norms(view) or not (is_needed or SLOW & set(steps)):
        return None
    measured = norms.measure(view, data)
    _warn(view, measured)
    return None if is_changed else measured


def divergences(view: ModelView, measured: norms.Statistics) -> dict[str, float]:
    """Returns by layer path how far measured statistics are from the moving ones.

    This is the divergence of normal distributions with these means and variances, in nats, averaged over the channels.
    Layers that were never trained, with means of 0 and variances of 1, are left out.
    """
    found: dict[str, float] = {}
    layers = view.instances(keras.layers.BatchNormalization)
    for (path, layer), (mean, variance), (old_mean, old_variance) in zip(
        layers, measured, norms.statistics(view), strict=True
    ):
        if not old_mean.any() and (old_variance == 1).all():
            continue
        ratio = (variance.astype(np.float64) + layer.epsilon) / (old_variance + layer.epsilon)
        shift = np.square(mean - old_mean, dtype=np.float64) / (old_variance + layer.epsilon)
        found[path] = float(np.mean(ratio + shift - 1 - np.log(ratio)) / 2)
    return found


def _warn(view: ModelView, measured: norms.Statistics) -> None:
    """Warns of the layer whose statistics differ most, if they differ clearly."""
    found = divergences(view, measured)
    worst = max(found, key=found.__getitem__, default=None)
    if worst is not None and found[worst] > LIMIT:
        warnings.warn(
            f"The calibration data do not look like the model's training data: the batch-norm layer {worst!r} sees "
            f"means and variances that are {found[worst]:.1f} nats from its moving ones (more than {LIMIT:g} is far). "
            "Scale the data as in training, or train longer if the moving statistics have not settled.",
            UserWarning,
            stacklevel=4,
        )
