"""Callbacks for training under compression."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from r2keras import _curvature
from r2keras._models import walk
from r2keras._util.errors import invalid
from r2keras.layers.palettize import Palettize
from r2keras.specs.palette import FINAL, START

__all__ = ["AnnealPalettes", "EWGSDelta", "FreezeBatchNorm"]


class FreezeBatchNorm(keras.callbacks.Callback):
    """Freezes the statistics of batch normalization from a chosen epoch on.

    From then on every batch normalization normalizes with its moving statistics, as it will on the device, and these no
    longer change; its scale and offset go on learning. Quantized weights that flip between two levels make batch
    statistics jump, so the last epochs of few-bit training are calmer without them. The layers stay frozen after
    training.

    Args:
        epoch: the first epoch with frozen statistics, counted from 0 as `fit` does.

    Raises:
        ValueError: `epoch` is not an integer of at least 0, or the model has no batch normalization.

    Example:

    >>> import numpy as np
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="norm")]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((8, 4), "float32")
    >>> _ = model.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[FreezeBatchNorm(epoch=1)])
    >>> model.get_layer("norm").trainable
    False

    Source: Krishnamoorthi, arXiv 1806.08342, section 3.2.2.
    """

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = check_integer("epoch", epoch, 0)

    def on_train_begin(self, logs=None):
        """Raises for a model without batch normalization."""
        if not norms_of(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no batch normalization to freeze. Leave out FreezeBatchNorm."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Freezes the statistics once `epoch` is reached, and compiles the training step again."""
        norms = [layer for layer in norms_of(self.model) if layer.trainable]
        if epoch < self.epoch or not norms:
            return
        for layer in norms:
            learned = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
            kept = [variable.trainable for variable in learned]
            layer.trainable = False
            # The layer's flag stops the statistics; the variables' own flags tell the optimizer what to train.
            for variable, trainable in zip(learned, kept, strict=True):
                variable.trainable = trainable
        self.model.make_train_function(force=True)


class EWGSDelta(keras.callbacks.Callback):
    """Sets how strongly EWGS scales gradients, per kernel from the curvature of the loss around it.

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
        self.every, self.samples = check_integer("every", every, 1), check_integer("samples", samples, 1)
        self.batch_size, self.seed = check_integer("batch_size", batch_size, 1), check_integer("seed", seed, 0)
        self.data = _checked_data(x, y)
        self.loss = _loss_of(loss)
        self.deltas: dict[str, float] = {}

    def on_train_begin(self, logs=None):
        """Raises for a model without a trained EWGS kernel."""
        self._rng = np.random.default_rng(self.seed)
        if not _curvature.ewgs_kernels(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no trained kernel that EWGS quantizes. Expected a model of "
                "r2keras.prepare with QuantSpec(method='ewgs') in its recipe. Leave out EWGSDelta."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Estimates anew every `every` epochs."""
        if epoch % self.every:
            return
        batches = _curvature.split(*self.data, self.batch_size)
        deltas = _curvature.ewgs_deltas(self.model, batches, self.loss, self.samples, self._rng)
        self.deltas = {name: max(delta, 0.0) for name, delta in deltas.items()}
        for kernel in _curvature.ewgs_kernels(self.model):
            kernel.layer.quantizers[kernel.name].delta.assign(self.deltas[kernel.full_name])


class AnnealPalettes(keras.callbacks.Callback):
    """Anneals palettes in training: soft at first, nearly hard at the end, as they are in the file.

    Over the first `until` of all training steps of `fit`, the temperature of each palette goes geometrically from
    `start` to `final` times its spec's, and stays there. Soft assignments let weights move from one centroid to
    another; hard ones let centroids and batch normalization settle on what inference computes. Replaces the schedules
    of the specs.

    Args:
        start: multiple of `PaletteSpec.temperature` at the first step, above 0.
        final: multiple at the end, above 0.
        until: share of the steps that the schedule takes, above 0, at most 1.

    Raises:
        ValueError: an argument out of its range; at the start of training, a model without palettes, or data whose
            number of batches is unknown.

    Example:

    >>> import numpy as np, r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> student = r2keras.prepare(model, r2keras.Recipe([("head", r2keras.PaletteSpec(num_bits=2, min_size=0))]))
    >>> student.compile("sgd", "mse")
    >>> x = np.eye(4, dtype="float32")
    >>> _ = student.fit(x, x[:, :3], batch_size=1, epochs=2, verbose=0, callbacks=[AnnealPalettes(final=0.5)])
    >>> palette = student.get_layer("head").palettes["kernel"]
    >>> round(float(palette.temperature) / palette.spec.temperature, 3)
    0.5

    Source: the temperature of Cho et al., arXiv 2108.12659, section 3, lowered as in Rose, Proc. IEEE 86 (1998).
    """

    def __init__(self, start: float = START, final: float = FINAL, until: float = 0.8):
        super().__init__()
        self.start, self.final = check_positive("start", start), check_positive("final", final)
        self.until = check_positive("until", until)
        if until > 1:
            raise ValueError(invalid("until", "a share of the steps, above 0, at most 1", until))

    def on_train_begin(self, logs=None):
        """Sets the schedule of every palette."""
        layers = walk.view_of(self.model).instances(Palettize)
        palettes = [palette for _, layer in layers for palette in layer.palettes.values()]
        if not palettes:
            raise ValueError(
                f"The model {self.model.name!r} has no palette. Expected a model of r2keras.prepare with a PaletteSpec "
                "in its recipe. Leave out AnnealPalettes."
            )
        if not self.params.get("steps"):
            raise ValueError(
                "The number of training batches is unknown. Expected data with a length, or fit(steps_per_epoch=...). "
                "Pass steps_per_epoch."
            )
        steps = max(1, round(self.until * self.params["epochs"] * self.params["steps"]))
        for palette in palettes:
            palette.anneal(self.start, self.final, steps)


def check_positive(name: str, value: object) -> float:
    """Returns a finite number above 0, or raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(invalid(name, "a finite number above 0", value))
    return float(value)


def check_integer(name: str, value: object, least: int) -> int:
    """Returns an integer of at least `least`, or raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(invalid(name, f"an integer of at least {least}", value))
    return value


def _loss_of(loss) -> Callable:
    """Returns the function of a loss, or raises ValueError."""
    problem = invalid("loss", "a loss: a name, a keras.losses.Loss or a function", loss)
    try:
        function = keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(problem) from error
    if not callable(function):
        raise ValueError(problem)
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
            raise ValueError(invalid(name, "finite values", "NaN or infinite values", "Clean the data first"))
    counts = [len(array) for array in keras.tree.flatten((x, y))]
    if len(set(counts)) > 1:
        raise ValueError(invalid("y", f"as many samples as in x ({counts[0]})", counts))
    return x, y


def norms_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalizations of a model, including those in nested models."""
    return [layer for _, layer in walk.view_of(model).instances(keras.layers.BatchNormalization)]
