"""Post-training quantization of a whole model."""

from __future__ import annotations

import keras
import numpy as np

from r2keras import _model, compress
from r2keras._errors import invalid, invalid_choice
from r2keras.calibration import batch_norm as norms
from r2keras.calibration.activations import set_activation_ranges
from r2keras.calibration.data import batches
from r2keras.recipe import Recipe
from r2keras.record import CompressionRecord

BATCH_NORM = ("auto", "shift", "replace", "keep")


def calibrate(
    model: keras.Model,
    recipe: Recipe,
    data=None,
    *,
    batch_norm: str = "auto",
    input_bits: int | None = None,
    batch_size: int = 128,
) -> tuple[keras.Model, CompressionRecord]:
    """Quantizes a trained model without labels and without training.

    Each kernel that the recipe names goes to the grid of its spec (`range="min_max"` or `"mse"`). Then the statistics
    of the batch normalisations are measured again on `data`, since the quantized layers before them give other means
    and variances: worth up to 48 points of accuracy at 2-3 bits. Last, where the recipe has `activation_bits`, the
    ranges of activations are found on `data`, by each spec's method.

    Args:
        model: a built, trained Functional or Sequential model. It is left untouched.
        recipe: what becomes what.
        data: unlabelled inputs as the model takes them: an array, a list of arrays (one an input), or an iterable of
            batches (a tf.data.Dataset, a generator). A few hundred to a few thousand samples, kept in memory. May be
            None for a model without batch normalisation, or with `batch_norm="keep"`, if activations stay float.
        batch_norm: what becomes of the moving statistics: `"replace"` takes the measured ones, `"shift"` adds only what
            quantization changed (`reestimate_batch_norm`), `"keep"` leaves them, `"auto"` takes whichever of the three
            brings the outputs on `data` nearest to the float model's, in the mean square.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        batch_size: samples a batch where `data` is an array.

    Returns:
        `(model, record)`, as `r2keras.finalize`.

    Raises:
        TypeError: a subclassed model, or `recipe` is no Recipe.
        ValueError: what `prepare` refuses; data that is empty, not finite or of another shape; no data for a model
            with batch normalisation; an unknown `batch_norm`.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> small, record = calibrate(model, Recipe([("head", QuantSpec(num_bits=8))]), np.ones((8, 4), "float32"))
    >>> record.tensors["head/kernel"].codes.dtype
    dtype('int8')

    Source: Nagel et al., arXiv 2106.08295, sections 3.1 and 3.2.
    """
    if batch_norm not in BATCH_NORM:
        raise ValueError(invalid_choice("batch_norm", BATCH_NORM, batch_norm))
    student = compress.prepare(model, recipe, input_bits=input_bits)
    data = None if data is None else list(batches(model, data, batch_size))
    if batch_norm != "keep" and norms.batch_norms(student):
        if data is None:
            raise ValueError(
                invalid("data", "inputs to re-estimate batch norm with", None, "Pass inputs, or batch_norm='keep'")
            )
        small, _ = compress.unwrapped(student, activations=False)
        _repair(model, small, data, batch_norm)
        norms.set_statistics(student, norms.statistics(small))
    set_activation_ranges(student, data)
    return compress.finalize(student)


def _repair(model: keras.Model, small: keras.Model, data: list[list[np.ndarray]], how: str) -> None:
    """Gives the quantized model the statistics of its choice."""
    replaced = norms.measure(small, data)
    candidates = {"replace": replaced}
    if how != "replace":
        candidates["shift"] = norms.shifted(small, norms.measure(model, data), replaced)
    if how == "auto":
        candidates["keep"] = norms.statistics(small)
        how = _nearest(model, small, data, candidates)
    norms.set_statistics(small, candidates[how])


def _nearest(model: keras.Model, small: keras.Model, data: list[list[np.ndarray]], candidates: dict) -> str:
    """Returns the name of the statistics under which the outputs are nearest to the float model's."""
    wanted = _outputs(model, data)
    errors = {}
    for name, statistics in candidates.items():
        norms.set_statistics(small, statistics)
        pairs = zip(wanted, _outputs(small, data), strict=True)
        errors[name] = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    return min(errors, key=errors.get)


def _outputs(model: keras.Model, data: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Returns the outputs of a model on all batches, flattened."""
    found = []
    for batch in data:
        outputs = model.predict_on_batch(_model.packed(model, batch))
        found += [np.asarray(output, np.float32) for output in keras.tree.flatten(outputs)]
    return found
