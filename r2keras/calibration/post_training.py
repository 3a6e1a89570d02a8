"""`calibrate`: post-training quantization of a whole model."""

from __future__ import annotations

import dataclasses
import os

import keras
import numpy as np

from r2keras._models.float32 import in_float32
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid, invalid_choice, invalid_part
from r2keras._util.hints import log_once
from r2keras.calibration import batch_norm as norms
from r2keras.calibration.activations import measured_grids
from r2keras.calibration.bias import corrected
from r2keras.calibration.data import Data, kept_batches, split
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.data_fit import warned_statistics
from r2keras.calibration.equalization import equalized
from r2keras.calibration.expected_means import expected_inputs_of
from r2keras.calibration.folding import folded
from r2keras.calibration.hints import log_cost
from r2keras.calibration.reconstruction.options import ReconstructOptions
from r2keras.calibration.reconstruction.reconstruct import checked as checked_options
from r2keras.calibration.reconstruction.reconstruct import reconstructed
from r2keras.calibration.repairs import Reference, repaired
from r2keras.calibration.rounding.adaround import rounded
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions
from r2keras.calibration.squared_gradients import sensitivity_of
from r2keras.calibration.step_choice import choice_text, is_chosen, is_exact, steps_of
from r2keras.compression import finalize, integer_forms, prepare, students, weight_plan
from r2keras.compression.activation_plan import integer_ends, planned, warned_plan, with_layers_to_round
from r2keras.compression.dynamic_plan import settled
from r2keras.compression.dynamic_twin import with_rounding
from r2keras.compression.edges import with_edges
from r2keras.compression.integer_biases import round_biases
from r2keras.compression.storage_hints import log_storage_hints
from r2keras.layers.wrappers.palettize import Palettize
from r2keras.record import CompressionRecord
from r2keras.record.with_record import remember
from r2keras.specs import AUTO, QuantSpec, Recipe

BATCH_NORM = ("auto", "shift", "replace", "keep")


def calibrate(
    model: keras.Model,
    recipe: Recipe,
    data: Data | None = None,
    *,
    batch_norm: str = "auto",
    input_bits: int | None = None,
    output_bits: int | None = None,
    integer: bool = False,
    batch_size: int = 128,
    max_samples: int | None = None,
    options: AdaRoundOptions | None = None,
    reconstruct_options: ReconstructOptions | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[keras.Model, CompressionRecord]:
    """Quantizes a trained model without labels and without training.

    Each kernel that the recipe matches moves to the grid or palette of its spec. Then the steps of the recipe are done
    in their order. Each step is also a function of `r2keras.calibration`. Quantized activations get their ranges from
    the data at the end, before `"reconstruct"`. docs/how_to/post_training.md explains the steps and when to use them.

    A recipe without `steps` does what takes seconds: it re-estimates batch norm and, below 8 bits, corrects the biases
    of the layers that no batch normalization follows, if this brings the outputs on `data` closer to the float model's.
    With `steps="auto"`, palettes are searched with `"sensitivity"`, and grids of at most 4 bits get `"adaround"`; then
    that repair or, after AdaRound, `"correct_bias"` alone is chosen by the same error, and a log line names the choice.
    Without data, `"auto"` corrects the biases by the statistics of the batch-norm layers.

    Args:
        model: a built, trained Functional or Sequential model; left untouched.
        recipe: the specs of the kernels, and the steps.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches (a
            `tf.data.Dataset`, a generator). A few hundred to a few thousand samples, which are kept in memory; neither
            their order nor their batches have an effect. None is allowed if nothing has to be measured;
            `"correct_bias"` then uses the statistics of the batch-norm layers.
        batch_norm: how `"reestimate_batch_norm"` sets the moving statistics: `"replace"` uses the measured ones,
            `"shift"` adds only the change through quantization, `"keep"` leaves them, `"auto"` picks whichever of the
            three gives outputs on `data` closest to the float model's, by mean squared error. Recipes without steps or
            with `"auto"` follow it, too.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of the other tensors that an integer file rounds, 2 to 8: results of global average pooling,
            and the model's outputs. An output is rounded before a last softmax, sigmoid or tanh, which becomes a layer
            of its own, `"<layer>_softmax"`. None leaves all of these float.
        integer: whether the model is for a fully integer file: sets `input_bits` and `output_bits` to 8. The recipe
            needs `activation_bits=8`, as in `Recipe.int8()`.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but of an iterable that does not say how many batches it has 16,384, and of one kept in memory 1 GiB.
        options: settings of the step `"adaround"`; None uses the defaults.
        reconstruct_options: settings of the step `"reconstruct"`; None uses the defaults.
        folder: a folder in which the step `"adaround"` stores finished layers, so that an interrupted run continues.
        progress: whether the steps `"adaround"` and `"reconstruct"` show their progress, in terminals and notebooks.

    Returns:
        `(model, record)`, as from `r2keras.finalize`; the model computes in float32. `record.notes` has the results of
        `"adaround"` and `"reconstruct"` for each kernel. Hints are logged, once: on bits that a file stores in wider
        containers, on palettes larger than grids, and on what AdaRound would cost and bring at fewer than 8 bits
        without steps.

    Raises:
        TypeError: `model` is subclassed, `recipe` is not a Recipe, or the data are not numbers.
        ValueError: `prepare` or a step rejects the model or the recipe; the data are empty, not finite, without end or
            of another shape; a step needs data and there are none; `batch_norm` is unknown.

    Warns:
        UserWarning: samples were left out (`max_samples`); features of the model's input are too small for its grid;
            the data do not fit the statistics of the model's batch-norm layers; a rule never applies, or names a layer
            and takes others whose names continue it.

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
    # Both plans come first: the steps would raise their errors only after minutes of work.
    view = in_float32(view_of(model))
    recipe = with_edges(recipe, view)
    input_bits, output_bits = integer_ends(integer, recipe, input_bits, output_bits)
    plan = settled(weight_plan.plan_of(view, recipe), view, recipe)
    view = with_layers_to_round(view, recipe, output_bits)
    plan = integer_forms.translated(plan, view)
    warned_plan(view, recipe, input_bits, output_bits)
    log_storage_hints(view, plan)
    steps = steps_of(recipe, view, plan, data is not None)
    if "reconstruct" in steps:
        _check_reconstruction(plan, reconstruct_options)
    checked = None if data is None else kept_batches(view, data, batch_size, max_samples)
    for step in ("adaround", "sensitivity", "reconstruct"):
        if checked is None and step in steps:
            raise DataNeededError(invalid("data", f"inputs for the step {step}", None, "Pass unlabeled inputs"))
    log_cost(view, recipe, plan, checked)
    measured = warned_statistics(view, checked, steps, batch_norm)
    view, means = _before_quantization(view, steps, with_means=checked is None and "correct_bias" in steps)
    small, record = quantized_kernels(view, plan, checked, steps)
    if "adaround" in steps:
        assert checked is not None  # Checked above, before any work.
        small, record = rounded(view, small, record, checked, options, folder, progress)
    if "correct_bias" in steps:
        small = corrected(view, small, checked, means)
    repair = "none"
    if is_chosen(recipe) and checked is not None:
        reference = Reference(view, checked, measured)
        small, repair = repaired(
            reference, small, batch_norm, biases=not is_exact(plan), all_biases="adaround" in steps
        )
    elif "reestimate_batch_norm" in steps and batch_norm != "keep" and norms.batch_norms(small):
        if checked is None:
            raise DataNeededError(
                invalid("data", "inputs to re-estimate batch norm", None, "Pass inputs, or batch_norm='keep'")
            )
        Reference(view, checked, measured).reestimate(small, batch_norm)
    if recipe.steps == (AUTO,):
        log_once(choice_text(steps, repair))
    record = dataclasses.replace(record, num_values=small.model.count_params())
    small, record = _with_activations(small, record, recipe, checked, input_bits, output_bits)
    if "reconstruct" in steps:
        assert checked is not None  # Checked above, before any work.
        small, record = reconstructed(view, small, record, checked, reconstruct_options, progress)
    if record.dynamic_kernels:
        small = with_rounding(small, record)
    remember(small.model)
    return small.model, record


def _check_reconstruction(plan: weight_plan.WeightPlan, options: ReconstructOptions | None) -> None:
    """Raises unless the step `"reconstruct"` has a kernel to learn, and options of its type."""
    checked_options(options)
    if not any(isinstance(spec, QuantSpec) for specs in plan.values() for spec in specs.values()):
        received = "a recipe of palettes with the step reconstruct, which learns codes of uniform grids"
        raise ValueError(invalid_part("recipe", "a QuantSpec for some kernel", received, "Leave this step out"))


def quantized_kernels(
    view: ModelView, plan: weight_plan.WeightPlan, data: list[Batch] | None, steps: tuple[str, ...]
) -> tuple[ModelView, CompressionRecord]:
    """Returns the model with quantized kernels, and its record; `"sensitivity"` weights the search of palettes."""
    wrapped = prepare.wrappers_around(view, plan)
    student = view
    if wrapped is None:
        student = prepare.prepare_weights(view, plan)
        wrapped = students.wrappers(student)
    palettes = [(path, wrapper) for path, wrapper in wrapped if isinstance(wrapper, Palettize)]
    if "sensitivity" in steps and palettes:
        assert data is not None  # `calibrate` has checked that this step has data.
        # Small batches, because each gives one sample of every squared gradient.
        importance = sensitivity_of(view, split(data, 8))
        for path, wrapper in palettes:
            wrapper.initialize({kernel.name: importance[kernel.full_name] for kernel in view.kernels_in(path)})
    return finalize.finalized(student, wrapped)


def _with_activations(
    small: ModelView,
    record: CompressionRecord,
    recipe: Recipe,
    data: list[Batch] | None,
    input_bits: int | None,
    output_bits: int | None,
) -> tuple[ModelView, CompressionRecord]:
    """Adds the quantized activations of the recipe, with ranges measured under quantized weights."""
    plan, _ = planned(small, recipe, input_bits, output_bits)
    if not plan:
        return small, record
    small, grids = finalize.with_grids(small, measured_grids(small, plan, data))
    record = dataclasses.replace(record, activations=grids)
    round_biases(small, record)
    return small, record


def _before_quantization(
    view: ModelView, steps: tuple[str, ...], with_means: bool
) -> tuple[ModelView, dict[str, np.ndarray] | None]:
    """Does the steps before quantization; also returns the expected inputs of the layers if `with_means` is set."""
    means = expected_inputs_of(view) if with_means else None
    if "fold_batch_norm" in steps:
        view = folded(view)
    if "equalize" in steps:
        view, factors = equalized(view)
        if means is not None:
            for path in means.keys() & factors.keys():
                means[path] = means[path] / factors[path]
    return view, means
