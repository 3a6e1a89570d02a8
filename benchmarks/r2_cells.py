"""Training and quantization of the float models of `r2_accuracy.py`, one cell at a time."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import keras
import numpy as np
from common import Row, revision
from r2_plan import FLOAT, PALETTES, Cell, Column, Job, Net

import r2keras
from r2keras import workloads
from r2keras._util.files import replacing
from r2keras.record import RangeFigures
from r2keras.workloads.data import Dataset
from r2keras.workloads.training import accuracy, kernel_layers, regularized, scores, without_regularizers

CALIBRATION_IMAGES = 1024
# Few, because the interpreter for microcontrollers has no fast kernels on this platform.
MICRO_IMAGES = 100
FINE_TUNING_EPOCHS = 1
FINE_TUNING_RATE = 1 / 3
MAKE = {
    "l2": keras.regularizers.L2,
    "kurtosis": r2keras.Kurtosis,
    "linf": r2keras.R2Linf,
    "margin": r2keras.R2Margin,
    "soft_min_max": r2keras.R2SoftMinMax,
}


def make_regularizer(column: Column) -> keras.regularizers.Regularizer | None:
    """Returns the regularizer of a column; None for none."""
    if column.regularizer == "none":
        return None
    options = {"scale_free": True} if column.form == "scale_free" else {}
    return MAKE[column.regularizer](column.factor, **options)


def float_model(net: Net, column: Column, seed: int, data: Dataset, data_dir: str, path: Path, watch) -> keras.Model:
    """Returns the model stored at `path`, or trains one and stores it there."""
    if path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(seed)
    if net.weights:
        model = workloads.nets.load_resnet20(Path(data_dir) / net.weights)
    else:
        model = workloads.nets.build(net.build, data.input_shape, data.num_classes)
    model = regularized(model, make_regularizer(column))
    keras.utils.set_random_seed(seed)
    fit(model, net, data, net.epochs, net.learning_rate, seed, [watch])
    model = without_regularizers(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        model.save(temporary)
    return model


def fit(model: keras.Model, net: Net, data: Dataset, epochs: int, rate: float, seed: int, callbacks) -> None:
    """Trains on shuffled images; those of CIFAR-10 are shifted by up to 4 pixels and mirrored at random."""
    steps = epochs * -(-min(net.images, len(data.x_train)) // net.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    if net.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-4)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "margin", "sharpness", "scale", "high"])
    else:
        optimizer = keras.optimizers.Adam(schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    generator = np.random.default_rng(seed)
    x, y = data.x_train[: net.images], data.y_train[: net.images]
    for _ in range(epochs):
        model.fit(augmented(x, generator), y, net.batch_size, epochs=1, verbose=0, callbacks=callbacks)


def augmented(x: np.ndarray, generator: np.random.Generator, pad: int = 4) -> np.ndarray:
    """Returns images with three channels, shifted and mirrored at random; other images are returned unchanged."""
    if x.shape[-1] != 3:
        return x
    size = x.shape[1]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = generator.integers(0, 2 * pad + 1, (2, len(x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    shifted = np.moveaxis(windows[np.arange(len(x)), rows, columns], 1, -1)
    mirrored = generator.random(len(x)) < 0.5
    return np.where(mirrored[:, None, None, None], shifted[:, :, ::-1], shifted).astype(np.float32)


def make_recipe(cell: Cell, model: keras.Model) -> r2keras.Recipe:
    """Returns the recipe of a cell; trained uniform grids keep the first and last kernels at 8 bits."""
    # The default of `calibrate` also corrects biases; the rows of results/ are without.
    alone = ["reestimate_batch_norm"]
    if cell.method in PALETTES:
        palette = r2keras.PaletteSpec(num_bits=cell.weight_bits * cell.dim, dim=cell.dim, min_size=0)
        return r2keras.Recipe([(".*", palette)], steps=alone)
    options = {"num_bits": cell.weight_bits, "granularity": cell.granularity, "activation_bits": cell.activation_bits}
    if cell.trains:
        weights, activations = ("dorefa", "pact") if cell.method == "pact_dorefa" else (cell.method, cell.method)
        spec = r2keras.QuantSpec(**options, method=weights, activation_method=activations)
        first, last = kernel_layers(model)[0], kernel_layers(model)[-1]
        edge = r2keras.QuantSpec(num_bits=8, activation_bits=cell.activation_bits, activation_method=activations)
        return r2keras.Recipe([(f"^({first}|{last})$", edge), (".*", spec)])
    spec = r2keras.QuantSpec(**options, range="min_max" if cell.method == "min_max" else "mse")
    reestimate = ["reestimate_batch_norm"] if cell.batch_norm == "replace" else []
    steps = {"adaround": ["adaround", *reestimate], "equalize": ["fold_batch_norm", "equalize", "correct_bias"]}
    return r2keras.Recipe([(".*", spec)], steps=steps.get(cell.method, alone))


def quantize(
    model: keras.Model, cell: Cell, net: Net, data: Dataset, seed: int, watch
) -> tuple[keras.Model, r2keras.CompressionRecord, keras.Model | None]:
    """Returns the model of one cell, its record, and the student if the cell trains one, else None."""
    recipe = make_recipe(cell, model)
    if not cell.trains:
        images = data.x_train[:CALIBRATION_IMAGES]
        options = {"batch_norm": cell.batch_norm, "input_bits": 8, "progress": False}
        return *r2keras.calibrate(model, recipe, images, **options), None
    keras.utils.set_random_seed(seed)
    student = r2keras.prepare(model, recipe, input_bits=8 if cell.activation_bits < FLOAT else None)
    callbacks = [watch]
    if cell.method == "dkm":
        callbacks.append(r2keras.callbacks.AnnealPalettes())
    fit(student, net, data, FINE_TUNING_EPOCHS, net.learning_rate * FINE_TUNING_RATE, seed, callbacks)
    return *r2keras.finalize(student), student


def palette_figures(
    small: keras.Model, record: r2keras.CompressionRecord, student: keras.Model, data: Dataset, split: str, path: Path
) -> dict[str, float]:
    """Returns the accuracy of a palette's student, and the bytes and accuracy of its file on ai-edge-litert.

    If tflite-micro is installed, also the bytes of the file for microcontrollers, and the share of `MICRO_IMAGES`
    images on which its decision is that of Keras.
    """
    x, y = (data.x_test, data.y_test) if split == "test" else (data.x_validation, data.y_validation)
    sizes = r2keras.export.to_litert(small, path.with_suffix(".tflite"), record)
    file_accuracy = accuracy(r2keras.export.LiteRTModel(path.with_suffix(".tflite")).predict(x), y)
    figures = {"student_accuracy": round(evaluate(student, data, split), 5)}
    figures |= {"file_bytes": sizes.file_bytes, "file_accuracy": round(file_accuracy, 5)}
    if importlib.util.find_spec("tflite_micro") is None:
        return figures
    micro_path, images = path.with_suffix(".tflm.tflite"), x[:MICRO_IMAGES]
    sizes = r2keras.export.to_tflm(small, micro_path, record)
    same = r2keras.export.TFLMModel(micro_path).predict(images).argmax(-1) == scores(small, images).argmax(-1)
    return figures | {"tflm_bytes": sizes.file_bytes, "tflm_agreement": float(same.mean())}


def row_of(job: Job, cell: Cell, net: Net, figures: dict, cell_accuracy: float, split: str) -> Row:
    """Returns the finished row."""
    float_model_columns = {"net": job.net, "dataset": net.dataset, **dataclasses.asdict(job.column)}
    cell_columns = {**dataclasses.asdict(cell), "seed": job.seed, "split": split, "epochs": net.epochs}
    return float_model_columns | cell_columns | figures | {"accuracy": round(cell_accuracy, 5), "revision": revision()}


def evaluate(model: keras.Model, data: Dataset, split: str) -> float:
    """Returns the accuracy on the test images, or on the tenth of the training images held out for validation."""
    if split == "test":
        return accuracy(scores(model, data.x_test), data.y_test)
    return accuracy(scores(model, data.x_validation), data.y_validation)


def float_figures(model: keras.Model, data: Dataset, split: str) -> dict[str, float]:
    """Returns the float accuracy, and the mean of max|w| / std(w) and of the kurtosis over the kernels."""
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    ranges = [RangeFigures.of(np.asarray(kernel)) for kernel in kernels]
    return {
        "float_accuracy": round(evaluate(model, data, split), 5),
        "max_over_std": round(float(np.mean([figures.max_over_std for figures in ranges])), 4),
        "kurtosis": round(float(np.mean([figures.kurtosis for figures in ranges])), 4),
    }
