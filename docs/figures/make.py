"""Draws the figures of the concepts pages, from calls of the library.

    python docs/figures/make.py                # all of them
    python docs/figures/make.py grids exact    # some

The same library gives the same bytes, so a changed figure shows in a diff.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt

import r2keras
from r2keras import ops
from r2keras.calibration import reestimate_batch_norm
from r2keras.workloads import data, nets

FOLDER = Path(__file__).parent
BLUE, ORANGE, GRAY = "#2456a6", "#d9730d", "#888888"
STYLE = {
    "svg.hashsalt": "r2keras",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
}


def main() -> None:
    """Writes the figures that the command line names, or all."""
    with plt.rc_context(STYLE):
        for draw in (grids, range_losses, palettes, batch_norm, exact):
            if sys.argv[1:] and draw.__name__ not in sys.argv[1:]:
                continue
            figure = draw()
            figure.savefig(FOLDER / f"{draw.__name__}.svg", metadata={"Date": None})
            plt.close(figure)


def kernel(size: int = 4096) -> np.ndarray:
    """Returns normally distributed weights with a few outliers."""
    rng = np.random.default_rng(0)
    weights = rng.normal(scale=0.1, size=size).astype("float32")
    weights[:4] = (0.62, -0.58, 0.55, -0.6)
    return weights


def compressed(weights: np.ndarray, spec: r2keras.QuantSpec | r2keras.PaletteSpec) -> r2keras.record.Tensor:
    """Returns the recorded kernel of a dense layer after calibration by a spec."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, use_bias=False, name="head")])
    model.get_layer("head").set_weights([weights.reshape(64, 64)])
    _, record = r2keras.calibrate(model, r2keras.Recipe([("head", spec)]))
    return record.tensors["head/kernel"]


def grids() -> plt.Figure:
    """A kernel and its levels at 2 and 3 bits, under the range of all weights and under least squares."""
    weights = kernel()
    figure, axes = plt.subplots(2, 2, figsize=(8, 4), sharex=True, sharey=True)
    for row, bits in zip(axes, (2, 3), strict=True):
        for axis, chosen in zip(row, ("min_max", "mse"), strict=True):
            spec = r2keras.QuantSpec(num_bits=bits, range=chosen, granularity="per_tensor")
            values = compressed(weights, spec).values()
            error = np.sqrt(np.square(values.ravel() - weights).mean()) / weights.std()
            axis.hist(weights, bins=80, color=GRAY, alpha=0.5)
            for level in np.unique(values):
                axis.axvline(level, color=BLUE, linewidth=1.2)
            axis.set_title(f'{bits} bits, range="{chosen}": error {error:.2f} std')
            axis.set_yticks([])
    figure.supxlabel("weight; lines are the levels in use")
    return figure


def range_losses() -> plt.Figure:
    """R2 losses of one kernel at several scales, in the form of the paper and in the scale-free form."""
    scales = np.linspace(0.25, 4, 16)
    weights = kernel()
    # This sharpness is hard enough to measure the range of a kernel of standard deviation 0.1.
    forms = {
        "L-infinity": lambda free: r2keras.R2Linf(1.0, scale_free=free),
        "margin": lambda free: r2keras.R2Margin(1.0, scale_free=free),
        "soft-min-max": lambda free: r2keras.R2SoftMinMax(1.0, scale_free=free, sharpness=5.0 if free else 50.0),
    }
    markers = dict(zip(forms, "os^", strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for axis, free in zip(axes, (False, True), strict=True):
        for (label, form), color in zip(forms.items(), (BLUE, ORANGE, GRAY), strict=True):
            unscaled = penalty(form(free), weights)
            losses = [penalty(form(free), weights * scale) / unscaled for scale in scales]
            axis.plot(scales, losses, color=color, label=label, marker=markers[label], markersize=4)
        axis.set_xlabel("all weights times")
        axis.set_title("scale-free" if free else "as in the paper")
        axis.set_ylim(0, 5)
    axes[0].set_ylabel("loss, relative")
    axes[0].legend(frameon=False)
    return figure


def penalty(regularizer: keras.regularizers.Regularizer, weights: np.ndarray) -> float:
    """Returns the loss of a variable with these weights."""
    layer = keras.layers.Dense(64, use_bias=False, kernel_regularizer=regularizer)
    layer.build((None, 64))
    layer.kernel.assign(weights.reshape(64, 64))
    return float(sum(layer.losses))


def palettes() -> plt.Figure:
    """Pairs of weights with the 16 rows of their table, and a soft look-up at several temperatures."""
    rng = np.random.default_rng(1)
    pairs = (rng.normal(size=(2048, 2)) @ np.array([[0.1, 0.06], [0.0, 0.05]])).astype("float32")
    table = compressed(pairs, r2keras.PaletteSpec(num_bits=4, dim=2, min_size=0)).codebook[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    left.scatter(*pairs[::4].T, s=4, color=GRAY, alpha=0.5, label="a quarter of the pairs of weights")
    left.scatter(*table.T, s=28, color=BLUE, marker="x", label="16 rows of the table")
    left.set_title("4 bits for two weights")
    left.legend(frameon=False, fontsize=8)
    line = np.linspace(-1, 1, 201, dtype="float32").reshape(1, -1, 1)
    book = np.array([-0.75, -0.25, 0.25, 0.75], "float32").reshape(1, 4, 1)
    for temperature, color in ((0.5, ORANGE), (0.1, BLUE), (0.005, "black")):
        used, _ = ops.dkm.soft_palette(line, book, temperature=temperature, steps=0)
        used = keras.ops.convert_to_numpy(used)
        right.plot(line.ravel(), used.ravel(), color=color, label=f"temperature {temperature}")
    right.set_title("soft look-up: the weight that the layer uses")
    right.set_xlabel("latent weight")
    right.legend(frameon=False, fontsize=8)
    return figure


def batch_norm() -> plt.Figure:
    """Accuracy of a small net by bits, with kept and with re-estimated batch-norm statistics."""
    keras.utils.set_random_seed(0)
    digits = data.load("digits")
    model = nets.build("cnn", (8, 8, 1), 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(digits.x_train, digits.y_train, epochs=10, batch_size=32, verbose=0)
    widths = (1, 2, 3, 4, 8)
    figure, axis = plt.subplots(figsize=(5, 3))
    for batch, color in (("keep", ORANGE), ("replace", BLUE)):
        accuracies = []
        for bits in widths:
            spec = r2keras.QuantSpec(num_bits=bits, granularity="per_tensor")
            small, _ = r2keras.calibrate(model, r2keras.Recipe([(".*", spec)]), digits.x_train[:512], batch_norm=batch)
            decisions = small.predict(digits.x_test, verbose=0).argmax(1)
            accuracies.append(100 * np.mean(decisions == digits.y_test))
        axis.plot(range(len(widths)), accuracies, marker="o", color=color, label=f'batch_norm="{batch}"')
    axis.set_xticks(range(len(widths)), widths)
    axis.set_xlabel("bits per weight, one scale per tensor")
    axis.set_ylabel("accuracy, %")
    axis.legend(frameon=False)
    return figure


def exact() -> plt.Figure:
    """Differences between a model and its file: exact operators, and operators on integers."""
    keras.utils.set_random_seed(0)
    digits = data.load("digits")
    model = nets.build("cnn", (8, 8, 1), 10)
    reestimate_batch_norm(model, digits.x_train)
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, activation_bits=8))])
    small, record = r2keras.calibrate(model, recipe, digits.x_train[:256], input_bits=8, output_bits=8)
    expected = small.predict(digits.x_test, verbose=0)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for axis, form in zip(axes, ("float", "int8"), strict=True):
        path = FOLDER / f"{form}.tflite"
        try:
            r2keras.export.to_litert(small, path, record, activations=form)
            outputs = r2keras.export.LiteRTModel(path).predict(digits.x_test)
        finally:
            path.unlink(missing_ok=True)
        step = record.activations[next(reversed(record.activations))].scale
        axis.hist((np.ravel(outputs) - expected.ravel()) / step, bins=np.arange(-3.25, 3.5, 0.5), color=BLUE)
        axis.set_yscale("log")
        axis.set_title("operators in float" if form == "float" else "operators on integers")
        axis.set_xlabel("file minus Keras, steps of the output's grid")
    axes[0].set_ylabel("outputs")
    return figure


if __name__ == "__main__":
    main()
