"""How the loss of a student bends around its quantized kernels: gradients, and the trace of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
from keras import ops

from r2keras import _model
from r2keras._gradients import gradient_function
from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.ops import affine
from r2keras.quantizers.ewgs import EWGSQuantizer

# Of the span from the lowest level to the highest. Rounding errors, which delta is to bridge, are mostly larger;
# smaller steps measure the kinks of the activations.
STEP = 2.0**-7
# The authors' own code has this multiple of the standard deviation for the size of a gradient.
GRADIENT_SIZE = 3.0

Kernel = tuple[str, FakeQuantize, str]


def ewgs_kernels(student: keras.Model) -> list[Kernel]:
    """Returns `(full name, wrapper, name in it)` of every kernel that EWGS quantizes and that is trained."""
    wrapped = [(path, layer) for path, layer in _model.leaf_layers(student) if isinstance(layer, FakeQuantize)]
    return [
        (f"{path}/{name}", layer, name)
        for path, layer in wrapped
        for name, quantizer in layer.quantizers.items()
        if isinstance(quantizer, EWGSQuantizer) and layer.trainable
    ]


def ewgs_deltas(student: keras.Model, batches: Iterable, loss: Callable, samples: int, rng) -> dict[str, float]:
    """Returns the mean over batches of `delta = (Tr(H) / N) / (3 std(g))` of every trained EWGS kernel, by name.

    `g` and `H` are the gradient and the Hessian of the loss in the normalised, rounded weights `x_q` in `[0, 1]`, with
    `dw_q / dx_q = span = (quant_max - quant_min) scale`. By Hutchinson, `Tr(H) = E v' H v` over vectors `v` of random
    signs; `v' H v` is the central difference of `v' g`. All kernels are moved at once, each by a vector of its own:
    what the others contribute to a kernel's `v' g` has the mean 0. Deltas are not clipped; 0 without a gradient.

    Args:
        student: the model.
        batches: pairs `(x, y)` of arrays in the structure that model and loss take.
        loss: takes `(y, prediction)`.
        samples: vectors a batch.
        rng: a NumPy generator.

    Returns:
        Deltas by the full names of the kernels.

    Raises:
        ValueError: the loss has NaN or infinite gradients.

    Source: Lee et al., arXiv 2104.00903, section 3.3; Hutchinson, Communications in Statistics 19, 1990.
    """
    kernels = ewgs_kernels(student)
    spans = [_span(layer, name) for _, layer, name in kernels]
    slopes = _slopes(student, kernels, spans, loss)
    found = [_batch_deltas(lambda moves, b=batch: slopes(moves, b), spans, samples, rng) for batch in batches]
    names = [full for full, _, _ in kernels]
    bad = [name for name, deltas in zip(names, np.transpose(found), strict=True) if not np.isfinite(deltas).all()]
    if bad:
        raise ValueError(
            f"The loss of EWGSDelta has NaN or infinite gradients for {', '.join(bad)}. Expected finite ones. Check "
            "the loss and the data, or train with a smaller learning rate."
        )
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def split(x, y, batch_size: int) -> Iterator[tuple]:
    """Yields batches `(x, y)` of arrays or structures of arrays."""
    count = len(keras.tree.flatten(x)[0])
    for start in range(0, count, batch_size):
        yield keras.tree.map_structure(lambda a: a[start : start + batch_size], (x, y))  # noqa: B023


def _batch_deltas(slopes: Callable, spans: list[np.ndarray], samples: int, rng) -> list[float]:
    """Returns the ratio of mean curvature and gradient size of every kernel."""
    sizes = [GRADIENT_SIZE * slope.std() for slope in slopes([np.zeros(span.shape) for span in spans])]
    means = np.mean([_mean_curvatures(slopes, spans, rng) for _ in range(samples)], axis=0)
    return [0.0 if size == 0 else mean / size for mean, size in zip(means, sizes, strict=True)]


def _mean_curvatures(slopes: Callable, spans: list[np.ndarray], rng) -> list[float]:
    """Returns `v' H v / N` of every kernel for one vector of signs each."""
    signs = [rng.choice([-1.0, 1.0], span.shape) for span in spans]
    above, below = slopes([STEP * v for v in signs]), slopes([-STEP * v for v in signs])
    return [((a - b) * v).mean() / (2 * STEP) for a, b, v in zip(above, below, signs, strict=True)]


def _span(layer: FakeQuantize, name: str) -> np.ndarray:
    """Returns the distance of the outermost levels for every weight of a kernel."""
    quantizer, weight = layer.quantizers[name], dict(_model.kernels(layer.layer))[name]
    scale = affine.expand(quantizer.grid(weight.value)[0], weight.shape)
    span = quantizer.num_steps * np.asarray(ops.convert_to_numpy(scale), np.float64)
    return np.broadcast_to(span, tuple(weight.shape))


def _slopes(student: keras.Model, kernels: list[Kernel], spans: list[np.ndarray], loss: Callable) -> Callable:
    """Returns a function of moves in `x_q` and a batch that gives the loss's gradients in `x_q` there.

    The model runs as in training, but on values of its variables: statistics and seeds stay as they are, and every call
    draws the same random numbers.
    """
    state = [[v.value for v in group] for group in (student.trainable_variables, student.non_trainable_variables)]

    def value(offsets: list, state: list, x, y):
        for (_, layer, name), offset in zip(kernels, offsets, strict=True):
            layer.offsets[name] = offset
        try:
            prediction, _ = student.stateless_call(*state, x, training=True)
        finally:
            for _, layer, _ in kernels:
                layer.offsets.clear()
        return ops.mean(loss(y, prediction))

    compute = gradient_function(value)

    def slopes(moves: list[np.ndarray], batch: tuple) -> list[np.ndarray]:
        offsets = [(span * move).astype("float32") for span, move in zip(spans, moves, strict=True)]
        return [s * g.astype(np.float64) for s, g in zip(spans, compute(offsets, state, *batch), strict=True)]

    return slopes
