"""How much each weight matters to the outputs: what k-means weighs its errors by."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from r2keras import _model
from r2keras.calibration.data import batches


def sensitivity(model: keras.Model, data, *, batch_size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Measures how the outputs react to each weight: the diagonal of the Gauss-Newton matrix, without labels.

    `s_i = mean over batches of (v^T dy/dw_i)^2` with random signs `v`, one for every output of every sample; its
    expectation is the sum of `(dy/dw_i)^2` over samples and outputs. A small change `d` of the weights moves the
    outputs by about `sum_i s_i d_i^2` (off-diagonal terms left out), so k-means weighted by `s` spends its centroids
    where they count. More batches make a better estimate.

    Args:
        model: a built Functional or Sequential model with float outputs. It is left untouched.
        data: unlabelled inputs as the model takes them (`calibrate`).
        batch_size: samples a batch where `data` is arrays.
        seed: of the signs.

    Returns:
        Arrays of the kernels' shapes by their names, float32, not negative; the mean of each is 1 (or all are 0).

    Raises:
        TypeError: a subclassed model.
        ValueError: data that are empty, not finite or of another shape; outputs that are not finite.

    Example:

    >>> layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="head")
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> [round(float(s), 2) for s in sensitivity(model, np.array([[3.0, 1.0]], "float32"))["head/kernel"].ravel()]
    [1.8, 0.2]

    Source: Martens, arXiv 1412.1193, section 9; Kim et al., SqueezeLLM, arXiv 2306.07629, section 4.1, weighs k-means
    by squared gradients of a loss with labels.
    """
    copy = _model.rebuild(model, lambda path, layer: None)
    _drop_regularizers(copy)
    optimizer, run = _SquaredGradients(), _Inference(copy)
    run.compile(optimizer=optimizer, loss=_signed_sum, jit_compile=False)
    signs = np.random.default_rng(seed)
    for batch in batches(model, data, batch_size):
        inputs = _model.packed(copy, batch)
        outputs = keras.tree.flatten(run.predict_on_batch(inputs))
        targets = [signs.choice([-1.0, 1.0], np.shape(output)).astype(np.float32) for output in outputs]
        run.train_on_batch(inputs, targets if len(targets) > 1 else targets[0])
    return {name: _normalized(optimizer.of(variable)) for name, variable in _kernels(copy)}


class _Inference(keras.Model):
    """A model that runs another as in inference, whatever is asked: batch norm and dropout stand still."""

    def __init__(self, model: keras.Model):
        super().__init__(name="inference")
        self.model = model

    def call(self, inputs):
        return keras.tree.flatten(self.model(inputs, training=False))


class _SquaredGradients(keras.optimizers.Optimizer):
    """Sums up squared gradients and moves nothing: the way to gradients that every backend shares."""

    def __init__(self):
        super().__init__(learning_rate=1.0, name="squares")
        self.sums: list[keras.Variable] = []

    def build(self, variables):
        """Makes a sum a variable."""
        if not self.built:
            super().build(variables)
            self.sums = [self.add_variable_from_reference(variable, name="squares") for variable in variables]
            self.places = {variable.path: place for place, variable in enumerate(variables)}

    def update_step(self, gradient, variable, learning_rate):
        """Adds the square of one gradient."""
        total = self.sums[self._get_variable_index(variable)]
        self.assign_add(total, ops.square(ops.cast(gradient, total.dtype)))

    def of(self, variable: keras.Variable) -> np.ndarray | None:
        """Returns the sum of a variable, or None for one that is not trained."""
        place = getattr(self, "places", {}).get(variable.path)
        return np.zeros(variable.shape, np.float32) if place is None else _model.to_numpy(self.sums[place])


def _signed_sum(signs, outputs):
    """Returns `v^T y` of each sample, whose gradient is what is squared."""
    return ops.sum(ops.reshape(ops.cast(signs, outputs.dtype) * outputs, (ops.shape(outputs)[0], -1)), axis=1)


def _normalized(sums: np.ndarray) -> np.ndarray:
    """Returns sums divided by their mean."""
    if not np.isfinite(sums).all():
        raise ValueError("The gradients of the outputs are not finite. Expected a model with finite outputs on `data`.")
    mean = float(sums.mean(dtype=np.float64))
    return (sums / mean if mean > 0 else sums).astype(np.float32)


def _drop_regularizers(model: keras.Model) -> None:
    """Takes the losses of weights and activations away: they are not what outputs react to."""
    for _, layer in _model.leaf_layers(model):
        for part in layer._flatten_layers():
            part.trainable = True
            part.activity_regularizer = None
        for variable in layer.weights:
            variable.regularizer = None


def _kernels(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    """Returns the kernels of a model with their full names."""
    return [(f"{path}/{name}", v) for path, layer in _model.leaf_layers(model) for name, v in _model.kernels(layer)]
