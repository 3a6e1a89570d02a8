"""Sensitivity of the outputs to each weight, which weights the errors in k-means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._models import rebuild, values
from r2keras._models.keras_internals import parts_of, variable_index
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras.calibration.data import Data, batches
from r2keras.calibration.data_checks import Batch


def weight_sensitivity(
    model: keras.Model, data: Data, *, batch_size: int = 8, max_samples: int | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Estimates the sensitivity of the outputs to each weight: the diagonal of the Gauss-Newton matrix, without labels.

    `s_i = mean over batches of (v^T dy/dw_i)^2` with random signs `v`, one per output of each sample. Its expectation
    is the sum of `(dy/dw_i)^2` over samples and outputs. The squared change of the outputs under a small change `d` of
    the weights is about `sum_i s_i d_i^2` (without the off-diagonal terms), so k-means weighted by `s` places its
    centroids where they matter most. More batches give a better estimate.

    Args:
        model: a built Functional or Sequential model with float outputs; left untouched.
        data: unlabeled inputs in any form that `calibrate` takes.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but 16,384 of an iterable that does not say how many batches it has.
        seed: the seed of the signs.

    Returns:
        Non-negative float32 arrays of the kernels' shapes by the kernels' full names. The mean of each is 1, unless all
        its values are 0.

    Raises:
        TypeError: `model` is subclassed.
        ValueError: the data are empty, not finite or of another shape; the outputs are not finite.

    Example:

    >>> layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="head")
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> found = weight_sensitivity(model, np.array([[3.0, 1.0]], "float32"))
    >>> [round(float(s), 2) for s in found["head/kernel"].ravel()]
    [1.8, 0.2]

    Source: Martens, arXiv 1412.1193, section 9; Kim et al., SqueezeLLM, arXiv 2306.07629, section 4.1, weights
    k-means by squared gradients of a loss with labels.
    """
    view = view_of(model)
    return sensitivity_of(view, batches(view, data, batch_size, max_samples), seed=seed)


def sensitivity_of(view: ModelView, data: Iterable[Batch], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the result of `weight_sensitivity` for a view and checked batches."""
    copy = view_of(rebuild.rebuild(view))
    _drop_regularizers(copy)
    optimizer = _SquaredGradients()
    run = _Inference(copy.model)
    run.compile(optimizer=optimizer, loss=_signed_sum, jit_compile=False)
    signs = np.random.default_rng(seed)
    for batch in data:
        inputs = values.packed(copy.model, batch)
        outputs = keras.tree.flatten(run.predict_on_batch(inputs))
        targets = [signs.choice([-1.0, 1.0], np.shape(output)).astype(np.float32) for output in outputs]
        run.train_on_batch(inputs, targets if len(targets) > 1 else targets[0])
    return {kernel.full_name: _normalized(optimizer.of(kernel.variable)) for kernel in copy.kernels}


class _Inference(keras.Model):
    """Runs another model in inference mode, also in training steps, so that batch norm and dropout stay off."""

    def __init__(self, model: keras.Model):
        super().__init__(name="inference")
        self.model = model

    def call(self, inputs: Any) -> list:
        """Returns the model's outputs as a flat list."""
        return keras.tree.flatten(self.model(inputs, training=False))


class _SquaredGradients(keras.optimizers.Optimizer):
    """Sums squared gradients and changes no weight; as an optimizer, because training computes gradients everywhere."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0, name="squares")
        self.sums: list[keras.Variable] = []
        self.indices: dict[str, int] = {}

    def build(self, variables: list[keras.Variable]) -> None:
        """Adds one sum per variable."""
        if not self.built:
            super().build(variables)
            self.sums = [self.add_variable_from_reference(variable, name="squares") for variable in variables]
            self.indices = {variable.path: index for index, variable in enumerate(variables)}

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Adds the square of one gradient."""
        total = self.sums[variable_index(self, variable)]
        self.assign_add(total, ops.square(ops.cast(gradient, total.dtype)))

    def of(self, variable: keras.Variable) -> np.ndarray:
        """Returns the sum of a variable; zeros for a variable that is not trained."""
        index = self.indices.get(variable.path)
        return np.zeros(variable.shape, np.float32) if index is None else values.to_numpy(self.sums[index])


def _signed_sum(signs: Any, outputs: Any) -> Any:
    """Returns `v^T y` of each sample, the loss whose gradient is squared."""
    return ops.sum(ops.reshape(ops.cast(signs, outputs.dtype) * outputs, (ops.shape(outputs)[0], -1)), axis=1)


def _normalized(sums: np.ndarray) -> np.ndarray:
    """Returns the sums divided by their mean."""
    if not np.isfinite(sums).all():
        received = "gradients of the outputs that are not finite"
        raise ValueError(invalid_part("model", "a model with finite outputs on `data`", received))
    mean = float(sums.mean(dtype=np.float64))
    normalized = sums / mean if mean > 0 else sums
    return normalized.astype(np.float32)


def _drop_regularizers(view: ModelView) -> None:
    """Makes all weights trainable and removes regularizers, whose losses would add to the gradients of the outputs."""
    for _, layer in view.layers:
        for part in parts_of(layer):
            part.trainable = True
            part.activity_regularizer = None
        for variable in layer.weights:
            variable.regularizer = None
