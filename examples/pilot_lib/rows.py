"""One row of the table: a float model, compressed by one method, exported, and the FILE measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

import r2keras
from pilot_lib.progress import ProgressDisplay
from pilot_lib.settings import OWN_BITS, PALETTES, Settings
from pilot_lib.store import Store
from pilot_lib.training import fine_tune
from r2keras.record import RangeFigures
from r2keras.workloads.data import Dataset
from r2keras.workloads.training import accuracy, kernel_layers, scores

CALIBRATION_IMAGES = 2048
# Below this many bits, the first and last kernels get --edge_bits.
EDGE_BELOW = 4
# The arguments of QuantSpec for each name of --methods.
RANGES = {name: {"range": "mse"} for name in ("ptq_mse", "ptq_equalize", "ptq_adaround")}
POST_TRAINING = {"ptq_min_max": {"range": "min_max"}, **RANGES}
METHODS = {method: {"method": method} for method in ("lsq", "ewgs", "dorefa", "wrpn", *OWN_BITS)}
PACT = {"method": "dorefa", "activation_method": "pact"}
TRAINED = {"qat": {"range": "min_max"}, "pact": PACT, **METHODS}
# Weights per table row of a vector palette, by bits per weight: 4-bit indices at 1 and 2 bits, 6- and 8-bit above.
VECTORS = {1: 4, 2: 2, 3: 2, 4: 2}
EQUALIZE = ["fold_batch_norm", "equalize", "correct_bias"]
STEPS = {"ptq_adaround": ["adaround", "reestimate_batch_norm"], "ptq_equalize": EQUALIZE}


@dataclasses.dataclass(frozen=True)
class FloatModel:
    """A trained float model and its measurements."""

    model: keras.Model
    regularizer: str
    seed: int
    accuracy: float
    validation_accuracy: float
    max_over_std: float

    @classmethod
    def of(cls, model: keras.Model, regularizer: str, seed: int, data: Dataset) -> FloatModel:
        """Measures a model: its accuracy on test and validation images, and the mean of `max|w| / std(w)`."""
        kernels = [np.asarray(variable) for variable in model.trainable_variables if len(variable.shape) > 1]
        max_over_std = float(np.mean([RangeFigures.of(kernel).max_over_std for kernel in kernels]))
        on_test = accuracy(scores(model, data.x_test), data.y_test)
        on_validation = accuracy(scores(model, data.x_validation), data.y_validation)
        return cls(model, regularizer, seed, on_test, on_validation, max_over_std)


def measure(
    trained: FloatModel,
    method: str,
    num_bits: int,
    settings: Settings,
    data: Dataset,
    store: Store,
    progress: ProgressDisplay,
) -> dict[str, Any]:
    """Compresses, exports and measures; returns the finished row.

    The choice among rows reads the validation accuracies, so that the test accuracies of the chosen one are not the
    luckiest of many.
    """
    path = store.file_path(trained.regularizer, trained.seed, method, num_bits)
    path.parent.mkdir(parents=True, exist_ok=True)
    model, record = _compress(trained, method, num_bits, settings, data, progress)
    size = export(model, path, record, settings)
    if record is not None:
        record.save(path.with_suffix(".npz"))
        store.write(path.with_suffix(".keras"), model.save)
    on_tflm = settings.target == "mcu" and not settings.integer
    file = r2keras.export.TFLMModel(path) if on_tflm else r2keras.export.LiteRTModel(path)
    model_accuracy = trained.accuracy if record is None else accuracy(scores(model, data.x_test), data.y_test)
    return {
        "regularizer": trained.regularizer,
        "method": method,
        "num_bits": num_bits,
        "seed": trained.seed,
        "float_accuracy": trained.accuracy,
        "accuracy": model_accuracy,
        "file_accuracy": accuracy(file.predict(data.x_test), data.y_test),
        "float_validation_accuracy": trained.validation_accuracy,
        "validation_accuracy": accuracy(file.predict(data.x_validation), data.y_validation),
        "test_samples": len(data.y_test),
        "validation_samples": len(data.y_validation),
        **size,
        "max_over_std": trained.max_over_std,
        "path": str(path),
        "dataset": settings.dataset,
        "model": Path(settings.model).name,
        "epochs": settings.epochs,
    }


def export(
    model: keras.Model, path: Path, record: r2keras.CompressionRecord | None, settings: Settings
) -> dict[str, Any]:
    """Writes the file for the target; returns its bytes, and milliseconds where the target has them.

    The float model stays a LiteRT file of this CPU for targets that compute on integers.
    """
    target = settings.target
    if target == "mcu" and not settings.integer:
        tables = r2keras.export.to_tflm(model, path, record)
        figures = {"file_bytes": tables.file_bytes, "latency_ms": None, "arena_bytes": tables.arena_bytes}
        return {**figures, "ideal_bytes": tables.ideal_bytes}
    on_cpu = record is None and settings.integer
    sizes = r2keras.export.to_litert(model, path, record, target="cpu" if on_cpu else target)
    figures = {"file_bytes": sizes.file_bytes, "ideal_bytes": sizes.ideal_bytes}
    if on_cpu or target == "mcu":
        return {**figures, "latency_ms": None}
    if target == "ethos-u":
        report = r2keras.export.ethos_u(path, settings.accelerator)
        device = f"{settings.accelerator} (Vela's estimate)"
        return {**figures, "file_bytes": report.file_bytes, "latency_ms": report.milliseconds, "device": device}
    return {**figures, "latency_ms": r2keras.export.LiteRTModel(path).latency().median_ms}


def _compress(trained, method, num_bits, settings, data, progress):
    """Returns the compressed model and its record; for the method `float`, the float model and None."""
    if method == "float":
        return trained.model, None
    recipe = make_recipe(trained.model, num_bits, method, settings)
    if method in TRAINED or method.startswith("dkm"):
        return fine_tune(trained.model, recipe, settings, data, trained.seed, progress.epochs(settings.qat_epochs))
    images = data.x_train[:CALIBRATION_IMAGES]
    ends = {"input_bits": settings.input_bits, "integer": settings.integer}
    return r2keras.calibrate(trained.model, recipe, images, **ends, progress=False)


def make_recipe(model: keras.Model, num_bits: int, method: str, settings: Settings) -> r2keras.Recipe:
    """Returns every kernel at `num_bits`; if these are fewer than 4, the first and last kernels at `--edge_bits`."""
    rules = [(".*", make_spec(num_bits, method, settings))]
    if settings.edge_bits and num_bits < EDGE_BELOW:
        at_edges = {**dict.fromkeys(PALETTES, "ptq_mse"), **dict.fromkeys(OWN_BITS, "qat")}
        edge = make_spec(settings.edge_bits, at_edges.get(method, method), settings)
        names = kernel_layers(model)
        rules.insert(0, (f"^({re.escape(names[0])}|{re.escape(names[-1])})$", edge))
    return r2keras.Recipe(rules, steps=STEPS.get(method, ["reestimate_batch_norm"]))


def make_spec(num_bits: int, method: str, settings: Settings) -> r2keras.QuantSpec | r2keras.PaletteSpec:
    """Returns the spec of a kernel for a name of --methods; palettes have one table per kernel, however small."""
    if method not in PALETTES:
        options = (POST_TRAINING | TRAINED)[method]
        common = {"granularity": settings.granularity, "activation_bits": settings.activation_bits}
        return r2keras.QuantSpec(num_bits=num_bits, **common, **options)
    dim = VECTORS.get(num_bits, 1) if method == "dkm_vector" else 1
    options = {"activation_bits": 8, "table_dtype": "int8"} if settings.integer else {}
    return r2keras.PaletteSpec(num_bits=num_bits * dim, dim=dim, min_size=0, **options)
