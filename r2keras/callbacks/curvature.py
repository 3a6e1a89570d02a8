"""Curvature of the loss around quantized kernels: gradients, and the trace of the Hessian."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
from keras import ops

from r2keras._models import walk
from r2keras.callbacks.gradients import gradient_function
from r2keras.layers.wrappers.fake_quantize import FakeQuantize
from r2keras.ops import affine
from r2keras.quantizers.ewgs import EWGSQuantizer

# Step of the finite difference, as a share of the span from the lowest level to the highest. Rounding errors, which
# delta compensates for, are mostly larger; smaller steps measure the kinks of the activations.
STEP = 2.0**-7
# The size of a gradient in standard deviations, as in the authors' own code.
GRADIENT_SIZE = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class EWGSKernel:
    """A kernel that EWGS quantizes.

    Args:
        full_name: its name in the record.
        layer: the wrapper around its layer.
        name: its name in that layer.
    """

    full_name: str
    layer: FakeQuantize
    name: str


def ewgs_kernels(student: keras.Model) -> list[EWGSKernel]:
    """Returns every kernel that EWGS quantizes and that is trained."""
    return [
        EWGSKernel(walk.full_name(path, name), layer, name)
        for path, layer in walk.view_of(student).instances(FakeQuantize)
        for name, quantizer in layer.quantizers.items()
        if isinstance(quantizer, EWGSQuantizer) and layer.trainable
    ]


def ewgs_deltas(student: keras.Model, batches: Iterable, loss: Callable, samples: int, rng) -> dict[str, float]:
    """Returns the mean over batches of `delta = (Tr(H) / N) / (3 std(g))` of every trained EWGS kernel, by name.

    `g` and `H` are the gradient and the Hessian of the loss in the normalized, rounded weights `x_q` in `[0, 1]`, with
    `dw_q / dx_q = span = (quant_max - quant_min) scale`. By Hutchinson, `Tr(H) = E v' H v` over vectors `v` of random
    signs; `v' H v` is the central difference of `v' g`. All kernels are moved at once, each by its own vector: the
    contribution of the others to a kernel's `v' g` has mean 0. Deltas are not clipped; they are 0 without a gradient.

    Args:
        student: the model.
        batches: pairs `(x, y)` of arrays, in the structures of the model's inputs and of the loss.
        loss: takes `(y, prediction)`.
        samples: vectors per batch.
        rng: a NumPy generator.

    Returns:
        Deltas by the full names of the kernels.

    Raises:
        ValueError: the loss has NaN or infinite gradients.

    Source: Lee et al., arXiv 2104.00903, section 3.3; Hutchinson, Communications in Statistics 19, 1990.
    """
    kernels = ewgs_kernels(student)
    spans = [_span(kernel) for kernel in kernels]
    slopes = _slopes(student, kernels, spans, loss)
    deltas = [_batch_deltas(functools.partial(slopes, batch), spans, samples, rng) for batch in batches]
    names = [kernel.full_name for kernel in kernels]
    bad = [name for name, column in zip(names, np.transpose(deltas), strict=True) if not np.isfinite(column).all()]
    if bad:
        raise ValueError(
            f"The loss of EWGSDelta has NaN or infinite gradients for {', '.join(bad)}. Expected finite gradients. "
            "Check the loss and the data, or train with a smaller learning rate."
        )
    return dict(zip(names, np.mean(deltas, axis=0).tolist(), strict=True))


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
    """Returns `v' H v / N` of every kernel, each for one vector of signs."""
    signs = [rng.choice([-1.0, 1.0], span.shape) for span in spans]
    above = slopes([STEP * vector for vector in signs])
    below = slopes([-STEP * vector for vector in signs])
    differences = [high - low for high, low in zip(above, below, strict=True)]
    return [(difference * v).mean() / (2 * STEP) for difference, v in zip(differences, signs, strict=True)]


def _span(kernel: EWGSKernel) -> np.ndarray:
    """Returns the distance between the outermost levels for every weight of a kernel."""
    quantizer = kernel.layer.quantizers[kernel.name]
    weight = dict(walk.kernels(kernel.layer.layer))[kernel.name]
    scale = affine.expand(quantizer.grid(weight.value)[0], weight.shape)
    span = quantizer.num_steps * np.asarray(ops.convert_to_numpy(scale), np.float64)
    return np.broadcast_to(span, tuple(weight.shape))


def _slopes(student: keras.Model, kernels: list[EWGSKernel], spans: list[np.ndarray], loss: Callable) -> Callable:
    """Returns a function of a batch and offsets of `x_q` that gives the gradients of the loss in `x_q` there.

    The model runs as in training, but on copies of its variables' values: statistics and seeds do not change, and every
    call draws the same random numbers.
    """
    state = [[v.value for v in group] for group in (student.trainable_variables, student.non_trainable_variables)]

    def value(offsets: list, state: list, x, y):
        for kernel, offset in zip(kernels, offsets, strict=True):
            kernel.layer.offsets[kernel.name] = offset
        try:
            prediction, _ = student.stateless_call(*state, x, training=True)
        finally:
            for kernel in kernels:
                kernel.layer.offsets.clear()
        return ops.mean(loss(y, prediction))

    compute = gradient_function(value)

    def slopes(batch: tuple, moves: list[np.ndarray]) -> list[np.ndarray]:
        offsets = [(span * move).astype("float32") for span, move in zip(spans, moves, strict=True)]
        gradients = compute(offsets, state, *batch)
        return [span * gradient.astype(np.float64) for span, gradient in zip(spans, gradients, strict=True)]

    return slopes
