"""Processor time of `prepare`, `finalize` and `calibrate` by the size of a net, for `calibration.py --scaling`.

Also a program of its own, which measures one net in this process: `python benchmarks/calibration_scaling.py chain-10`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, machine, machine_lines, markdown, revision

KEYS = ("net", "revision")
STEPS = ("prepare", "finalize", "calibrate")
CHAINS = tuple(f"chain-{count}" for count in (10, 50, 100, 200, 400))
# Nets of keras.applications with random weights, and the side of their images.
APPLICATIONS = {"MobileNetV2": 96, "EfficientNetB0": 64, "DenseNet121": 64, "NASNetMobile": 64}
NETS = (*CHAINS, *APPLICATIONS)
# Small, because this measures the work on the graph, not the arithmetic of the net.
SAMPLES = 32
# The least time of the runs is taken: other programs can only add to it.
REPEATS = 2
# Seconds per kernel.
GOALS = {"prepare": 0.03, "finalize": None, "calibrate": 0.1}
SIZE = (9.0, 3.4)


def run(rows: Rows, nets: tuple[str, ...] = NETS, measure: Callable[[str], Row] | None = None) -> None:
    """Measures the nets that have no row of this revision yet, each in a fresh process.

    Args:
        rows: the finished rows, by `KEYS`; each new row is written at once.
        nets: names of `NETS`.
        measure: measures a net.
    """
    finished = {tuple(row[name] for name in KEYS) for row in rows.rows}
    for number, net in enumerate(nets, 1):
        key = (net, revision())
        if key in finished:
            continue
        print(f"{number} of {len(nets)}: {net}", file=sys.stderr, flush=True)
        about = machine()
        figures = (measure or in_fresh_process)(net)
        rows.add([{**dict(zip(KEYS, key, strict=True)), **figures, "machine": about}])


def in_fresh_process(net: str) -> Row:
    """Measures a net in a fresh process."""
    done = subprocess.run([sys.executable, __file__, net], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{net} failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(net: str, repeats: int = REPEATS) -> Row:
    """Returns the sizes of a net and the least processor seconds of each step, measured in this process."""
    import keras
    import numpy as np

    import r2keras
    from r2keras._models.walk import view_of

    keras.utils.set_random_seed(0)
    model = built(net)
    images = np.random.default_rng(0).normal(size=(SAMPLES, *model.input_shape[1:])).astype("float32")
    weights = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=8))])
    all_8_bits = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=8, activation_bits=8))])
    # What TensorFlow and Keras do at the first call of anything is not timed.
    r2keras.calibrate(built("chain-2"), all_8_bits, images[:, :16, :16], input_bits=8, output_bits=8)
    seconds: dict[str, list[float]] = {step: [] for step in STEPS}

    def timed(step: str, function: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = function()
        seconds[step].append(time.process_time() - start)
        return result

    for _ in range(repeats):
        student = timed("prepare", lambda: r2keras.prepare(model, weights))
        timed("finalize", lambda student=student: r2keras.finalize(student))
        timed("calibrate", lambda: r2keras.calibrate(model, all_8_bits, images, input_bits=8, output_bits=8))
    view = view_of(model)
    counts = {"kernels": len(view.kernels), "layers": len(view.layers)}
    return counts | {f"{step}_s": min(seconds[step]) for step in STEPS}


def built(net: str) -> Any:
    """Returns a net by its name: an application, or a residual chain of as many kernels as its name says."""
    import keras
    from keras import layers

    if net in APPLICATIONS:
        side = APPLICATIONS[net]
        return getattr(keras.applications, net)(input_shape=(side, side, 3), weights=None, classes=10)
    count = int(net.removeprefix("chain-"))
    x = inputs = keras.Input((16, 16, 3))
    for number in range(count - 1):
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        x = layers.Add()([x, y]) if number % 2 else y
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name=f"chain_{count}")


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table, and the machines they come from."""
    header = ["net", "revision", "kernels", "layers"]
    for step in STEPS:
        header += [f"{step}, s", "per kernel"]
    cells = []
    for row in _ordered(rows):
        cells.append([row["net"], row["revision"] or "", str(row["kernels"]), str(row["layers"])])
        for step in STEPS:
            cells[-1] += [f"{row[f'{step}_s']:.1f}", f"{_per_kernel(row, step):.3f}"]
    return f"{markdown(header, cells)}\n\n{machine_lines(rows, lambda row: row['net'])}"


def write_plot(rows: list[Row], path: Path) -> None:
    """Draws the seconds per kernel of each step against the number of kernels: chains as a line, other nets as dots.

    Args:
        rows: at least one.
        path: an `.svg` or `.png` file, written whole or not at all.
    """
    from r2keras.report.figures.svg import FAINT, GRID, PLAIN, SERIES, new_figure, plain_style, write_plain

    with plain_style():
        figure = new_figure(*SIZE)
        panels = figure.subplots(1, len(STEPS), sharex=True)
        for axes, step in zip(panels, STEPS, strict=True):
            for color, name in zip(SERIES, dict.fromkeys(row["revision"] for row in rows), strict=False):
                own = [row for row in _ordered(rows) if row["revision"] == name]
                for group, style in (("chain", "-"), ("", "none")):
                    chosen = [row for row in own if row["net"].startswith("chain") == bool(group)]
                    points = [row["kernels"] for row in chosen], [_per_kernel(row, step) for row in chosen]
                    label = f"{name}, {'residual chains' if group else 'keras.applications'}"
                    marker = "." if group else "x"
                    axes.plot(*points, linestyle=style, marker=marker, color=PLAIN[color], label=label)
            if GOALS[step] is not None:
                axes.axhline(GOALS[step], color=PLAIN[FAINT], linestyle=(0, (4, 2)), linewidth=1, label="goal")
            axes.set_title(step)
            axes.set_xlabel("kernels")
            highest = max(_per_kernel(row, step) for row in rows)
            axes.set_ylim(0, 1.1 * max(highest, GOALS[step] or 0.0))
            axes.grid(True, axis="y", color=PLAIN[GRID])
            axes.tick_params(colors=PLAIN[FAINT])
        panels[0].set_ylabel("processor seconds per kernel")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
        write_plain(figure, path, title="Processor time per kernel of prepare, finalize and calibrate")


def _per_kernel(row: Row, step: str) -> float:
    """Returns the seconds of a step per kernel."""
    return row[f"{step}_s"] / row["kernels"]


def _ordered(rows: list[Row]) -> list[Row]:
    """Returns the rows in the order of `NETS`; those of one net in that of the file."""
    return sorted(rows, key=lambda row: NETS.index(row["net"]))


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(json.dumps(measured(sys.argv[1])))
