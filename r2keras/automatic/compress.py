"""`compress`: the smallest file within limits, found by one call."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from r2keras._models.float32 import in_float32
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part, missing
from r2keras._util.files import atomic_write_text
from r2keras.automatic.assignment import pareto_assignments
from r2keras.automatic.candidates import Candidates
from r2keras.automatic.compressed import Compressed
from r2keras.automatic.judge import Judge, Metric, has_regression_loss
from r2keras.automatic.kept_json import read_json, unreadable
from r2keras.automatic.options import Choice, choices_of, specs_for
from r2keras.automatic.page import write_page
from r2keras.automatic.search import Search
from r2keras.automatic.sensitivity import (
    LayerSensitivity,
    Sensitivity,
    check_kernels,
    error_table,
    measured,
    without_labels,
)
from r2keras.automatic.settings import Settings, checked_settings
from r2keras.automatic.working_copy import WorkingCopy, with_biases
from r2keras.calibration.data import Data, labelled_samples
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.folding import folded
from r2keras.calibration.rounding.float_inputs import input_statistics
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions
from r2keras.compression.dynamic_twin import with_rounding
from r2keras.export.runtime.verification import Verification, verify
from r2keras.record import CompressionRecord
from r2keras.specs import Recipe
from r2keras.specs.targets import TARGETS

# Samples that quantize and samples that judge; half of the data each if there are fewer.
CALIBRATION_SAMPLES, JUDGING_SAMPLES = 512, 4096
# Samples that measure sensitivity.
SENSITIVITY_SAMPLES = 512
BATCH_SIZE = 64
FEWEST_SAMPLES = 16
# A quarter of the steps leaves 1.2 times the output error of all (ResNet-8 at 4 and 2 bits), which estimates need.
ESTIMATE = AdaRoundOptions(iterations=250)
SENSITIVITY_FILE = "sensitivity.json"


def compress(
    model: keras.Model,
    data: Data,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    labels: np.ndarray | None = None,
    metric: str | Metric | None = None,
    bits: Sequence[int] = (8, 4, 2),
    target: str = "cpu",
    palettes: bool | None = None,
    integer: bool | None = None,
    train: int | None = None,
    folder: str | os.PathLike | None = None,
    max_samples: int | None = None,
    progress: bool = True,
) -> Compressed:
    """Finds the bits of each layer that give the smallest file within limits.

    1. The sensitivity of the outputs to each layer at each number of bits is measured, with kernels after AdaRound.
    2. Among all assignments of bits to layers, those of least error for their bytes are computed exactly.
    3. The best ones become files, by ever more expensive steps: bias correction, AdaRound, and training without labels
       if `train` is set. The data are split: one part quantizes, the other judges the outputs of each file.

    With `max_drop`, the result is the smallest file within the limits that was found; with `max_bytes` alone, the one
    of the highest quality; with both, the first that fits if bias correction is enough.

    Args:
        model: a built, trained Functional or Sequential model on the TensorFlow backend; left untouched.
        data: inputs in any form that `calibrate` takes; a thousand or more are best, as half of them, up to 512,
            quantize and the others, at most 4,096, judge. Data without end need `max_samples`.
        max_bytes: the most bytes of the file.
        max_drop: the largest loss of quality, as a share: 0.01 is one point of accuracy.
        labels: class numbers or other targets, one per sample, if `data` are arrays.
        metric: `"accuracy"` (the default with labels); `"expected_accuracy"`, the mean probability that the float model
            gives to what the compressed one decides (the default without labels, for probabilities: its drop is what
            accuracy is expected to drop by if these probabilities are right); `"agreement"`, the share of decisions
            that equal the float model's (the default for other classifications; accuracy cannot drop by more);
            `"output_error"`, 1 minus the relative root mean square error of the outputs (the default for other outputs:
            single linear units, reconstructions of the input, models compiled with a regression loss, and whatever has
            no decisions); or a function of labels and outputs, larger for better outputs.
        bits: numbers of bits per weight to choose from, 1 to 8. Files store 3 bits in 4.
        target: what the file is for: `"any"`, `"cpu"`, `"browser"` or `"mcu"`, as in `export.to_litert`.
        palettes: whether palettes of at most 4 bits compete with grids; None means where the target takes them. A file
            looks their entries up at every call.
        integer: whether the file computes on integers, with activations of 8 bits; None means where the target must.
        train: epochs of label-free training (`distill`), for files smaller than AdaRound leads to; None for none.
        folder: where candidates are kept. The same call with the same folder continues an interrupted run. None makes
            a temporary folder.
        max_samples: the number of samples to use.
        progress: whether to show progress, in terminals and notebooks.

    Returns:
        The model, its record, its file, its recipe and all candidates. The folder has, besides the candidates,
        `model.tflite`, `model.keras`, `model.record.npz`, `recipe.yaml`, `results.json` and, with the extra `report`,
        `report.html`. `is_met` says whether the limits are met; if not, this is the candidate nearest to them.

    Raises:
        TypeError: a subclassed model, a metric that is not a function, a setting of another type.
        ValueError: no limit, or one that no bits can meet; data, labels or a metric that do not fit; a target that does
            not run the model; the folder of another run.
        RuntimeError: Keras runs on another backend than TensorFlow.
        OSError: the folder cannot be written.

    Warns:
        UserWarning: the float file is not larger than the chosen one.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> layers = [keras.layers.Dense(32, activation="relu", name="first"), keras.layers.Dense(4, name="second")]
    >>> model = keras.Sequential([keras.Input((16,)), *layers])
    >>> x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    >>> result = compress(model, x, max_bytes=2800, bits=(8, 4), progress=False)
    >>> result.is_met, result.chosen["bytes"] <= 2800
    (True, True)

    Source: one layer at a time and an integer program as in Hubara et al., arXiv 2006.10518, section 3.3.
    """
    settings = checked_settings(max_bytes, max_drop, bits, target, palettes, integer, train)
    plain = in_float32(view_of(model))
    check_kernels(plain)
    _check_bytes(plain, settings)
    view = folded(plain)
    batches = _batches(view, data, labels, max_samples)
    calibration, judging = _parts(batches)
    calibration, _ = without_labels(calibration, labels is not None)
    inputs, sorted_labels = without_labels(judging, labels is not None)
    judge = Judge(view.model, inputs, sorted_labels, metric, has_regression_loss(model))
    own = Path(tempfile.mkdtemp(prefix="r2keras-") if folder is None else folder)
    candidates = Candidates(plain.model, view, settings, calibration, judge, own, progress)
    candidates.float_row()
    candidates.check_target()
    copy = with_biases(view)
    statistics = input_statistics(copy, calibration)
    working = WorkingCopy(copy, statistics)
    specs = specs_for(settings.bits, settings.palettes)
    _say("Rounding the kernels")
    choices = choices_of(copy, specs, calibration, statistics, ESTIMATE, own / "rounding", progress)
    _say("Measuring the sensitivity of each layer")
    sensitivity = _sensitivity(working, choices, calibration, judge, own, progress)
    num_bytes = [[option.num_bytes for option in choice.options] for choice in choices]
    front = pareto_assignments(num_bytes, error_table(sensitivity.rows, choices))
    search = Search(choices, front, candidates, working, judge, _say)
    search.uniform_rows()
    chosen = search.run()
    return _written(candidates, chosen, sensitivity)


def _check_bytes(view: ModelView, settings: Settings) -> None:
    """Raises ValueError for a byte limit below what no bits change: biases and other float weights."""
    if settings.max_bytes is None:
        return
    kernels = sum(int(np.prod(kernel.variable.shape)) for kernel in view.kernels)
    norms = [layer for _, layer in view.layers if isinstance(layer, keras.layers.BatchNormalization)]
    others = view.model.count_params() - kernels - sum(layer.count_params() for layer in norms)
    least = 4 * max(others, 0) + kernels * min(settings.bits) // 8
    if settings.max_bytes < least:
        expected = f"at least the {least:,} bytes of kernels at {min(settings.bits)} bits and of biases in float"
        raise ValueError(invalid_part("max_bytes", expected, f"{settings.max_bytes:,}", "Raise it, or prune the model"))


def _batches(view: ModelView, data: Data, labels: np.ndarray | None, max_samples: int | None) -> list[Batch]:
    """Returns the samples in at least two batches."""
    samples = labelled_samples(view, data, labels, max_samples)
    if len(samples) < FEWEST_SAMPLES:
        expected = f"at least {FEWEST_SAMPLES} samples, some to quantize with and some to judge"
        raise ValueError(invalid_part("data", expected, f"{len(samples)}", "Pass a thousand inputs"))
    return list(samples.batches(min(BATCH_SIZE, len(samples) // 2)))


def _parts(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Returns the batches that quantize and those that judge."""
    total = sum(len(batch[0]) for batch in batches)
    most = min(CALIBRATION_SAMPLES, total // 2)
    calibration: list[Batch] = []
    judging: list[Batch] = []
    for index, batch in enumerate(batches):
        is_open = sum(len(part[0]) for part in calibration) + len(batch[0]) <= most
        (calibration if index % 2 == 0 and is_open else judging).append(batch)
    calibration = calibration or [judging.pop()]
    return calibration, judging[: max(JUDGING_SAMPLES // len(judging[0][0]), 1)]


def _sensitivity(
    working: WorkingCopy,
    choices: Sequence[Choice],
    calibration: list[Batch],
    judge: Judge,
    folder: Path,
    progress: bool,
) -> Sensitivity:
    """Returns the sensitivity on the samples that quantize; those that judge must not choose the bits."""
    path = folder / SENSITIVITY_FILE
    known = _measured_before(path) if path.exists() else []

    def keep(row: LayerSensitivity) -> None:
        known.append(row)
        atomic_write_text(path, json.dumps([vars(one) for one in known]) + "\n")

    count = max(SENSITIVITY_SAMPLES // len(calibration[0][0]), 1)
    measure = Judge(working.model, calibration[:count], None, None, judge.is_regression)
    rows = measured(working, choices, measure, known, keep, progress, predicts=True)
    return Sensitivity(tuple(rows), measure.name, measure.num_samples)


def _measured_before(path: Path) -> list[LayerSensitivity]:
    """Returns the rows of an earlier run."""
    try:
        return [LayerSensitivity(**row) for row in read_json(path, list)]
    except TypeError as error:
        raise ValueError(unreadable(path, "it does not hold sensitivities")) from error


def _verified(candidates: Candidates, model: keras.Model, record: CompressionRecord, path: Path) -> Verification:
    """Returns the comparison of the file with the model that computes the same, on samples of one shape."""
    batch = candidates.judge.data[0]
    settings = candidates.settings
    rounds_rows = (
        "dynamic" in TARGETS[settings.target].activations and settings.target != "any" and not settings.integer
    )
    twin = with_rounding(view_of(model), record).model if rounds_rows else model
    return verify(twin, path, batch[0] if len(batch) == 1 else list(batch))


def _say(text: str) -> None:
    """Logs what is being done."""
    logging.getLogger("r2keras.automatic").info(text)


def _written(candidates: Candidates, chosen: dict, sensitivity: Sensitivity) -> Compressed:
    """Copies the files of the chosen candidate to plain names, verifies them and writes the results."""
    folder = candidates.folder
    for suffix, name in ((".tflite", "model.tflite"), (".keras", "model.keras"), (".record.npz", "model.record.npz")):
        shutil.copyfile((folder / chosen["file"]).with_suffix(suffix), folder / name)
    shutil.copyfile((folder / chosen["file"]).with_suffix(".yaml"), folder / "recipe.yaml")
    model, record = candidates.made(chosen)
    least = candidates.float_row()["bytes"]
    if chosen["bytes"] >= least:
        warnings.warn(
            f"The float file takes {least:,} bytes, the chosen one {chosen['bytes']:,}: the model has too few weights "
            "to gain from fewer bits. Use the float file.",
            UserWarning,
            stacklevel=3,
        )
    result = Compressed(
        model=model,
        record=record,
        recipe=Recipe.from_dict(chosen["recipe"]),
        path=folder / "model.tflite",
        rows=tuple(candidates.rows),
        chosen=chosen,
        sensitivity=sensitivity,
        settings=candidates.settings,
        metric=candidates.judge.name,
        num_samples=candidates.judge.num_samples,
        verification=_verified(candidates, model, record, folder / "model.tflite"),
    )
    result.save(folder / "results.json")
    # Hours of work must not end in an ImportError.
    if all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib")):
        write_page(result, candidates.view.model, candidates.judge.data[0], folder / "report.html")
    else:
        _say(missing("jinja2 and matplotlib", "report.html", "report").rstrip("."))
    return result
