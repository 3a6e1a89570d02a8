"""Post-training quantization of a whole model."""

from __future__ import annotations

import dataclasses
import os

import keras
import numpy as np

from r2keras import _model, compress
from r2keras._accumulators import round_biases
from r2keras._errors import DataNeededError, invalid, invalid_choice
from r2keras.calibration import batch_norm as norms
from r2keras.calibration.activations import set_activation_ranges
from r2keras.calibration.adaround import adaround
from r2keras.calibration.bias import correct_bias
from r2keras.calibration.data import batches
from r2keras.calibration.equalization import equalize_with_factors
from r2keras.calibration.expected import expected_inputs
from r2keras.calibration.folding import fold_batch_norm
from r2keras.calibration.rounding import AdaRoundOptions
from r2keras.calibration.sensitivity import sensitivity
from r2keras.placement import activation_plan, planned, with_bare_ends
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
    output_bits: int | None = None,
    batch_size: int = 128,
    options: AdaRoundOptions | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[keras.Model, CompressionRecord]:
    """Quantizes a trained model without labels and without training.

    Each kernel that the recipe names goes to the grid, or the palette, of its spec. A recipe without steps then
    measures the statistics of the batch normalisations again on `data`, since the quantized layers before them give
    other means and variances: worth up to 48 points of accuracy at 2-3 bits. A recipe with `steps` does those instead,
    in their order:

    | step | what it does |
    |---|---|
    | `fold_batch_norm` | makes batch normalisations part of the layers before them |
    | `equalize` | evens out channel ranges between neighbouring layers |
    | `sensitivity` | weighs, in the search of palettes, each weight's error by what it does to the outputs |
    | `adaround` | learns which weights of uniform grids to round up, layer by layer |
    | `correct_bias` | takes back what quantization moved in the channels' means |
    | `reestimate_batch_norm` | measures the statistics of the batch normalisations that are left again |

    Args:
        model: a built, trained Functional or Sequential model. It is left untouched.
        recipe: what becomes what, and by which steps.
        data: unlabelled inputs as the model takes them: an array, a list of arrays (one an input), a dict by name, or
            an iterable of batches (a tf.data.Dataset, a generator). A few hundred to a few thousand samples, kept in
            memory. May be None where nothing has to be measured; bias correction then goes by the batch normalisations'
            statistics.
        batch_norm: what re-estimation makes of the moving statistics: `"replace"` takes the measured ones, `"shift"`
            adds only what quantization changed (`reestimate_batch_norm`), `"keep"` leaves them, `"auto"` takes
            whichever of the three brings the outputs on `data` nearest to the float model's, in the mean square.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of what else a file on integers from end to end rounds: the model's outputs, before a last
            softmax, sigmoid or tanh (which becomes a layer of its own, `"<layer>_softmax"`), and averages over all of
            an image; 2 to 8; None leaves them float.
        batch_size: samples a batch where `data` is an array.
        options: of the step `adaround`; None takes the defaults.
        folder: where the step `adaround` keeps finished layers, so that a run that was cut off goes on.
        progress: whether the step `adaround` shows a progress bar, if the output is a terminal.

    Returns:
        `(model, record)`, as `r2keras.finalize`. `record.notes` says how AdaRound fared with each kernel.

    Raises:
        TypeError: a subclassed model, or `recipe` is no Recipe.
        ValueError: what `prepare` and the steps refuse; data that are empty, not finite or of another shape; no data
            where a step needs them; an unknown `batch_norm`.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> small, record = calibrate(model, Recipe([("head", QuantSpec(num_bits=8))]), np.ones((8, 4), "float32"))
    >>> record.tensors["head/kernel"].codes.dtype
    dtype('int8')
    >>> steps = Recipe([("head", QuantSpec(num_bits=4))], steps=["fold_batch_norm", "adaround", "correct_bias"])
    >>> small, record = calibrate(model, steps, np.ones((8, 4), "float32"))
    >>> list(record.notes)
    ['head/kernel']

    Source: Nagel et al., arXiv 2106.08295, sections 3.1 to 3.6.
    """
    if batch_norm not in BATCH_NORM:
        raise ValueError(invalid_choice("batch_norm", BATCH_NORM, batch_norm))
    # What the steps would refuse only after minutes of work.
    compress.plan_of(model, recipe)
    activation_plan(model, recipe, input_bits=input_bits, output_bits=output_bits)
    model = model if output_bits is None else with_bare_ends(model)
    steps = recipe.steps or ("reestimate_batch_norm",)
    kept = None if data is None else list(batches(model, data, batch_size))
    for step in ("adaround", "sensitivity"):
        if kept is None and step in steps:
            raise DataNeededError(invalid("data", f"inputs for the step {step}", None, "Pass unlabelled inputs"))
    model, means = _even(model, steps, wanted=kept is None and "correct_bias" in steps)
    small, record = compress.finalize(_prepared(model, recipe, kept, steps))
    if "adaround" in steps:
        small, record = adaround(model, small, record, kept, options=options, folder=folder, progress=progress)
    if "correct_bias" in steps:
        small = correct_bias(model, small, kept, means=means)
    if "reestimate_batch_norm" in steps and batch_norm != "keep" and norms.batch_norms(small):
        if kept is None:
            raise DataNeededError(
                invalid("data", "inputs to re-estimate batch norm with", None, "Pass inputs, or batch_norm='keep'")
            )
        _repair(model, small, kept, batch_norm)
    record = dataclasses.replace(record, num_values=small.count_params())
    return _with_activations(small, record, recipe, kept, (input_bits, output_bits))


def _prepared(model: keras.Model, recipe: Recipe, data, steps: tuple[str, ...]) -> keras.Model:
    """Returns the model with its kernels compressed; palettes by the weights' sensitivity, if that is a step."""
    student = compress.prepare_weights(model, recipe)
    palettes = compress.palettes_of(student)
    if "sensitivity" in steps and palettes:
        # Small batches, drawn anew: each gives one more sample of every squared gradient.
        importance = sensitivity(model, [np.concatenate(parts) for parts in zip(*data, strict=True)])
        for path, layer in palettes:
            names = (name for name in importance if name.startswith(f"{path}/"))
            layer.initialize({name.removeprefix(f"{path}/"): importance[name] for name in names})
    return student


def _with_activations(small, record, recipe, data, bits):
    """Adds the quantized activations that the recipe asks for, their ranges found on the quantized weights."""
    plan, _ = planned(small, recipe, *bits)
    if not plan:
        return small, record
    student = compress.prepare_activations(small, plan)
    set_activation_ranges(student, data)
    small, grids = compress.freeze_activations(student)
    record = dataclasses.replace(record, activations=grids)
    round_biases(small, record)
    return small, record


def _even(model: keras.Model, steps: tuple[str, ...], wanted: bool) -> tuple[keras.Model, dict | None]:
    """Does the steps before quantization; returns the means of the layers' inputs too, if they are wanted."""
    means = expected_inputs(model) if wanted else None
    if "fold_batch_norm" in steps:
        model = fold_batch_norm(model)
    if "equalize" in steps:
        model, factors = equalize_with_factors(model)
        for path in (means or {}).keys() & factors.keys():
            means[path] = means[path] / factors[path]
    return model, means


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
