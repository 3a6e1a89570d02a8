"""`reconstruct`: trains a quantized model block by block, then as a whole, towards its float model."""

from __future__ import annotations

import keras
import numpy as np

from r2keras._models.row_products import rounding_layers, without_rounding
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.progress import progress_bar
from r2keras.calibration.data import Data, kept_batches
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.reconstruction.options import ReconstructOptions
from r2keras.calibration.reconstruction.run import Run
from r2keras.calibration.reconstruction.training import kept_random_states
from r2keras.calibration.rounding.adaround import FOLD_BOTH, check_pair
from r2keras.compression.dynamic_twin import with_rounding_at
from r2keras.record import CompressionRecord


def reconstruct(
    model: keras.Model,
    small: keras.Model,
    record: CompressionRecord,
    data: Data,
    *,
    options: ReconstructOptions | None = None,
    max_samples: int | None = None,
    progress: bool = True,
) -> tuple[keras.Model, CompressionRecord]:
    """Trains the codes, scales and biases of a quantized model towards the activations of its float model.

    The model is divided into blocks at the tensors that alone carry everything onwards (`blocks.blocks_of`): a residual
    block is one block, and a chain of layers falls into groups of `block_kernels` kernels. Blocks are trained in their
    order. A block gets the activations that come from the quantized blocks before it, and minimizes the squared
    difference of its output to that of the float model; the last one that of the model's outputs, or the
    Kullback-Leibler divergence if they are probabilities. Then the whole model is trained towards the float outputs.
    Activations are rounded to their grids meanwhile, and batch normalizations keep their statistics.

    Scales and biases learn at `learning_rate`. Codes are rounded from floats that learn at a smaller rate, with a
    gradient of 1 through the rounding; a code may move to any point of its grid. One sample in eight is held out: a
    block whose error on these does not fall stays as it is, and so does the whole model in the last part. The result
    lies on its grids, bit for bit, as after `adaround`.

    Args:
        model: the float model; left untouched.
        small: the quantized model that `finalize`, `calibrate` or `adaround` made from it; left untouched.
        record: the codes and scales of `small`.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches;
            500 to a few thousand samples.
        options: settings of the training; None uses the defaults.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but of an iterable that does not say how many batches it has 16,384, and of one kept in memory 1 GiB.
        progress: whether to show a progress bar, in terminals and notebooks.

    Returns:
        `(small, record)`, both new. `record.notes` has the error of the block of every kernel against that before, or
        the reason why it stays as it is: palettes, recurrent layers that quantize their state, layers that share
        weights or are called several times.

    Raises:
        TypeError: a model is subclassed, or an argument has another type.
        ValueError: the models do not belong together; the data are empty, not finite or of another shape; no kernel can
            be learned.

    Warns:
        UserWarning: a block trains on fewer samples, because 1 GiB does not hold its activations.

    Example:

    >>> import r2keras
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=2))])
    >>> x = np.random.default_rng(0).random((64, 4), "float32")
    >>> small, record = r2keras.calibrate(model, recipe, x)
    >>> small, record = reconstruct(model, small, record, x)
    >>> record.notes["head/kernel"]
    'Reconstruction: error of the block ... of that before'

    Source: Li et al., arXiv 2102.05426, section 3.2 (blocks); Wei et al., arXiv 2203.05740, section 3.3 (`drop`); Esser
    et al., arXiv 1902.08153 (learned scales). The papers learn to round up or down.
    """
    options = checked(options)
    view = view_of(model)
    quantized = view_of(small, "small")
    rounding = rounding_layers(quantized)
    check_pair(view, record)
    _check_layers(view, quantized)
    batches = kept_batches(view, data, options.batch_size, max_samples)
    result, record = reconstructed(view, without_rounding(quantized), record, batches, options, progress)
    return (with_rounding_at(result, rounding) if rounding else result).model, record


def checked(options: ReconstructOptions | None) -> ReconstructOptions:
    """Returns the options, the defaults for None."""
    options = options or ReconstructOptions()
    if not isinstance(options, ReconstructOptions):
        raise TypeError(invalid("options", "a ReconstructOptions", options))
    return options


def reconstructed(
    view: ModelView,
    small: ModelView,
    record: CompressionRecord,
    data: list[Batch],
    options: ReconstructOptions | None,
    progress: bool,
) -> tuple[ModelView, CompressionRecord]:
    """Returns the results of `reconstruct` for views and checked batches."""
    options = checked(options)
    arrays = [np.concatenate(parts) for parts in zip(*data, strict=True)]
    with kept_random_states():
        run = Run(view, small, record, arrays, options)
        with progress_bar(progress, len(run.blocks) + 1, "Reconstruction") as update:
            run.train(update)
        return run.result()


def _check_layers(view: ModelView, small: ModelView) -> None:
    """Raises unless the same layers of both models have weights."""
    first, second = ({path for path, layer in own.layers if layer.weights} for own in (view, small))
    if first != second:
        received = f"a model of which only one of the two has weights in {min(first ^ second)!r}"
        raise ValueError(
            invalid_part("model", "the float model of the record, with the same layers", received, FOLD_BOTH)
        )
