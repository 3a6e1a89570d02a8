"""When R2 pays: accuracy of ResNet-20 after quantization, with and without it, as results/r2_when_it_pays.svg.

It draws the rows that `r2_accuracy.py` has measured:

    python benchmarks/r2_figure.py
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row
from r2keras.report.figures.svg import FAINT, GRID, PLAIN, PLAIN_SERIES, plain_style

RESULTS = Path(__file__).with_name("results")
# Titles and the columns that select the rows of each line, from where R2 gains most to where it gains nothing.
MIN_MAX = {"method": "min_max", "weight_bits": 2, "activation_bits": 8, "granularity": "per_tensor"}
LINES: dict[str, dict[str, Any]] = {
    "W2A8, min-max ranges": {**MIN_MAX, "batch_norm": "replace"},
    "W2A8, MSE ranges": {**MIN_MAX, "method": "mse", "batch_norm": "replace"},
    "W2A8, AdaRound": {"method": "adaround", "weight_bits": 2, "activation_bits": 8},
    "W2A2, trained (PACT, DoReFa)": {"method": "pact_dorefa", "weight_bits": 2, "activation_bits": 2},
    "W2A2, trained (LSQ)": {"method": "lsq", "weight_bits": 2, "activation_bits": 2},
}
NAMES = {"none": "without", "soft_min_max": "with R2 (soft-min-max, scale-free)"}
Figures = dict[str, list[float]]


def main() -> None:
    """Draws the figure."""
    rows = [row for row in json.loads((RESULTS / "r2_accuracy.json").read_text()) if is_used(row)]
    found = {title: figures_of(rows, columns) for title, columns in LINES.items()}
    missing = [title for title, figures in found.items() if min(map(len, figures.values())) < 3]
    if missing:
        raise SystemExit(f"Not measured with three seeds: {', '.join(missing)}. Run python benchmarks/r2_accuracy.py.")
    floats = figures_of(rows, LINES["W2A8, min-max ranges"], "float_accuracy")
    found = {"float": floats} | found
    draw(found, RESULTS / "r2_when_it_pays.svg")
    for title, figures in found.items():
        print(title, *(f"{100 * statistics.mean(values):.1f}" for values in figures.values()))


def is_used(row: Row) -> bool:
    """Whether a row is of ResNet-20's test images, without R2 or with the scale-free form at the usual strength."""
    is_ours = row["form"] == "scale_free" and row["factor"] == 0.03
    return row["net"] == "resnet20" and row["split"] == "test" and (row["regularizer"] == "none" or is_ours)


def figures_of(rows: list[Row], columns: dict[str, Any], figure: str = "accuracy") -> Figures:
    """Returns one figure of the rows with some columns, by regularizer."""
    own = [row for row in rows if all(row[name] == value for name, value in columns.items())]
    return {name: [row[figure] for row in own if row["regularizer"] == name] for name in NAMES}


def draw(found: dict[str, Figures], path: Path) -> None:
    """Draws one line per way to quantize: two points, mean and spread over the seeds."""
    from matplotlib.figure import Figure

    with plain_style():
        figure = Figure(figsize=(7.2, 3.3), layout="constrained")
        axes = figure.add_subplot()
        for y, figures in enumerate(found.values()):
            means = [100 * statistics.mean(values) for values in figures.values()]
            spreads = [100 * statistics.stdev(values) for values in figures.values()]
            axes.plot(means, [y, y], color=PLAIN[GRID], linewidth=5, zorder=1, solid_capstyle="round")
            for x, spread, color, marker in zip(means, spreads, PLAIN_SERIES, "os", strict=False):
                axes.errorbar(x, y, xerr=spread, fmt=marker, color=color, markersize=7, capsize=3)
            gain = f"{means[1] - means[0]:+.1f}"
            axes.annotate(gain, (max(means), y), (12, -3), textcoords="offset points", color=PLAIN[FAINT])
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlim(right=100)
        axes.set_xlabel("accuracy on 5,000 test images, % (mean and spread of three seeds)")
        axes.set_title("When R2 pays: ResNet-20 on CIFAR-10, quantized to 2 bits")
        axes.grid(axis="x")
        for name, color, marker in zip(NAMES.values(), PLAIN_SERIES, "os", strict=False):
            axes.plot([], [], marker, color=color, label=name)
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
