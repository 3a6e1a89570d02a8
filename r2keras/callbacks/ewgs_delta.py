"""Callback that estimates the gradient scaling of EWGS from the curvature of the loss."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from r2keras._util.errors import check_int, invalid, invalid_part
from r2keras.callbacks import curvature


class EWGSDelta(keras.callbacks.Callback):
    """Sets the strength of EWGS's gradient scaling for each kernel, from the curvature of the loss around it.

    At the start of the first epoch and of every n-th after it, `delta = max(0, mean_batch (Tr(H) / N) / (3 std(g)))`
    for each of the model's kernels with `method="ewgs"`; `g` and `H` are the gradient and the Hessian of the loss in
    the `N` normalized, rounded weights `x_q` in `[0, 1]` (`dw_q / dx_q = (quant_max - quant_min) scale`). The trace is
    Hutchinson's, over vectors of random signs, with `H v` as the central difference of two gradients: one estimate
    takes `2 samples + 1` gradients per batch. The model runs as in training, and none of its states change. Kernels
    without a gradient get 0; activations keep the `delta` of their spec.

    Between estimates the gradient is `g (1 + delta sign(g) (x_n - x_q))`, as always (`quantizers.EWGSQuantizer`).

    Args:
        x: inputs of a few training batches: an array, or a list or dict of arrays as the model takes them.
        y: targets, in the structure that the loss takes.
        loss: the training loss: a name, a `keras.losses.Loss`, or a function of `(y, prediction)`; what it returns is
            averaged.
        every: epochs from one estimate to the next, at least 1. Defaults to the paper's 10.
        samples: random vectors per batch, at least 1.
        batch_size: samples per batch, at least 1. `std(g)` depends on it: use that of the training.
        seed: seed of the random vectors.

    Attributes:
        deltas: the last estimates by the full names of the kernels, as in a record.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument out of its range; data that are empty, not finite or of different lengths; not a loss;
            at the start of training, a model without a trained EWGS kernel; at an estimate, a gradient that is not
            finite.

    Example:

    >>> import numpy as np, r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=2, method="ewgs"))])
    >>> student = r2keras.prepare(model, recipe)
    >>> student.compile("sgd", "mse")
    >>> x = np.eye(4, dtype="float32")
    >>> estimate = EWGSDelta(x, x[:, :3], "mse", every=5, samples=2)
    >>> _ = student.fit(x, x[:, :3], verbose=0, callbacks=[estimate])
    >>> estimate.deltas["head/kernel"] > 0
    True

    Source: Lee et al., arXiv 2104.00903, section 3.3. The authors' code estimates one kernel at a time by automatic
    differentiation, starts after the first n epochs, and uses 3 batches.
    """

    def __init__(
        self,
        x,
        y,
        loss: str | keras.losses.Loss | Callable,
        *,
        every: int = 10,
        samples: int = 16,
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        self.every = check_int("every", every, 1, None)
        self.samples = check_int("samples", samples, 1, None)
        self.batch_size = check_int("batch_size", batch_size, 1, None)
        self.seed = check_int("seed", seed, 0, None)
        self.data = _checked_data(x, y)
        self.loss = _loss_of(loss)
        self.deltas: dict[str, float] = {}

    def on_train_begin(self, logs=None):
        """Raises for a model without a trained EWGS kernel."""
        self._rng = np.random.default_rng(self.seed)
        if not curvature.ewgs_kernels(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no trained kernel that EWGS quantizes. Expected a model of "
                "r2keras.prepare with QuantSpec(method='ewgs') in its recipe. Leave out EWGSDelta."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Repeats the estimate every `every` epochs."""
        if epoch % self.every:
            return
        batches = curvature.split(*self.data, self.batch_size)
        deltas = curvature.ewgs_deltas(self.model, batches, self.loss, self.samples, self._rng)
        self.deltas = {name: max(delta, 0.0) for name, delta in deltas.items()}
        for kernel in curvature.ewgs_kernels(self.model):
            kernel.layer.quantizers[kernel.name].delta.assign(self.deltas[kernel.full_name])


def _loss_of(loss) -> Callable:
    """Returns the function of a loss, or raises ValueError."""
    message = invalid("loss", "a loss: a name, a keras.losses.Loss or a function", loss)
    try:
        function = keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(message) from error
    if not callable(function):
        raise ValueError(message)
    return function


def _as_array(values) -> np.ndarray:
    """Returns values as `fit` feeds them: floats in Keras' float type."""
    array = np.asarray(values)
    return array.astype(keras.config.floatx()) if np.issubdtype(array.dtype, np.floating) else array


def _checked_data(x, y) -> tuple:
    """Returns inputs and targets as structures of NumPy arrays, or raises ValueError."""
    x, y = (keras.tree.map_structure(_as_array, part) for part in (x, y))
    for name, part in (("x", x), ("y", y)):
        arrays = keras.tree.flatten(part)
        if not arrays or any(array.ndim == 0 or not len(array) or array.dtype == object for array in arrays):
            raise ValueError(invalid(name, "arrays of at least one sample", [array.shape for array in arrays]))
        if not all(np.isfinite(array).all() for array in arrays if np.issubdtype(array.dtype, np.floating)):
            raise ValueError(invalid_part(name, "finite values", "NaN or infinite values", "Clean the data first"))
    counts = [len(array) for array in keras.tree.flatten((x, y))]
    if len(set(counts)) > 1:
        raise ValueError(invalid("y", f"as many samples as in x ({counts[0]})", counts))
    return x, y
