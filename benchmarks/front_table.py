"""The tables of `front.py`."""

from __future__ import annotations

import statistics

from benchmarks.common import Row, machine_line, markdown
from benchmarks.front_models import MODELS, SMOKE
from benchmarks.front_tools import FLOAT, MLPERF, OURS, RIVAL, TFLITE, variants

EMPTY = "-"
# The variant of r2keras that stands for a bit width.
OWN = {8: "W8", 4: "W4 AdaRound", 2: "W2 AdaRound"}
TITLES = {**MODELS, SMOKE: "Digits, untrained"}


def tables(rows: list[Row]) -> str:
    """Returns the short table of the README, then all rows by model, then the machine."""
    if not rows:
        return "No rows yet."
    parts = [short_table(rows)]
    parts += [f"### {TITLES[name]}\n\n{long_table(grouped(rows, name))}" for name in models_in(rows)]
    days = sorted({row["machine"]["date"] for row in rows})
    loads = sorted(row["machine"]["load"] for row in rows)
    about = machine_line(rows[-1]["machine"] | {"date": " to ".join(dict.fromkeys((days[0], days[-1])))})
    return "\n\n".join([*parts, f"{about.rpartition('; load')[0]}; load {loads[0]} to {loads[-1]} before a row."])


def models_in(rows: list[Row]) -> list[str]:
    """Returns the models that have rows, in the order of the tables."""
    return [name for name in TITLES if any(row["model"] == name for row in rows)]


def grouped(rows: list[Row], model: str) -> list[list[Row]]:
    """Returns the rows of a model by tool and variant, the seeds of each in order."""
    own = [row for row in rows if row["model"] == model]
    keys = [(variant.tool, variant.name) for variant in variants()]
    groups = [[row for row in own if (row["tool"], row["variant"]) == key] for key in keys]
    return [sorted(group, key=lambda row: row["seed"]) for group in groups if group]


def mean(group: list[Row]) -> float:
    """Returns the mean accuracy over the seeds."""
    return statistics.fmean(row["accuracy"] for row in group)


def chosen(groups: list[list[Row]], tool: str, bits: int) -> list[Row] | None:
    """Returns the variant of a tool that stands for a bit width, or None.

    For r2keras it is always the same one. For litert-quantizer, of the variants with float activations, it is the most
    accurate one on the evaluation inputs, which favors it; of equal ones the smallest.
    """
    own = [group for group in groups if (group[0]["tool"], group[0]["bits"]) == (tool, bits)]
    if tool == OURS:
        own = [group for group in own if group[0]["variant"] == OWN[bits]]
    elif tool == RIVAL:
        own = [group for group in own if not group[0]["variant"].startswith("W8A8")]
    return max(own, key=lambda group: (mean(group), -group[0]["bytes"]), default=None)


def short_table(rows: list[Row]) -> str:
    """Returns a row per model: accuracy and kilobytes of float, r2keras, int8 files and litert-quantizer."""
    header = ["model", "float", "r2keras, 8 bits", "4 bits", "2 bits", "int8 of TFLite"]
    header += ["int8 of MLPerf", "litert-quantizer, 8 bits", "4 bits", "2 bits"]
    lines = []
    for name in models_in(rows):
        groups = grouped(rows, name)
        columns = [(FLOAT, 32), *((OURS, bits) for bits in (8, 4, 2)), (TFLITE, 8), (MLPERF, 8)]
        columns += [(RIVAL, bits) for bits in (8, 4, 2)]
        shown = [chosen(groups, tool, bits) for tool, bits in columns]
        lines.append([TITLES[name], *(EMPTY if group is None else _cell(group) for group in shown)])
    return markdown(header, lines)


def _cell(group: list[Row]) -> str:
    """Returns accuracy and size in one cell; without an accuracy if outputs are not numbers."""
    is_broken = any(row["not_finite"] for row in group)
    return f"NaN in {size(group)}" if is_broken else f"{score(group)} % in {size(group)}"


def long_table(groups: list[list[Row]]) -> str:
    """Returns a row per variant of one model."""
    header = ["tool", "variant", "bytes", "accuracy, %", "processor, s", "operators left float", "notes"]
    lines = []
    for group in groups:
        first = group[0]
        seconds = statistics.fmean(row["processor_seconds"] for row in group)
        lines.append(
            [
                first["tool"],
                first["variant"],
                f"{round(statistics.fmean(row['bytes'] for row in group)):,}",
                score(group),
                EMPTY if first["tool"] == MLPERF else f"{seconds:.1f}",
                left_float(first) or EMPTY,
                notes(group),
            ]
        )
    return markdown(header, lines)


def score(group: list[Row]) -> str:
    """Returns the accuracy in percent, with the sample standard deviation if there are several seeds."""
    values = [100 * row["accuracy"] for row in group]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def size(group: list[Row]) -> str:
    """Returns the mean size in kilobytes.

    >>> size([{"bytes": 47344}])
    '47 kB'
    """
    return f"{statistics.fmean(row['bytes'] for row in group) / 1000:,.0f} kB"


def left_float(row: Row) -> str:
    """Returns the operators whose weights are float.

    >>> left_float({"tool": "r2keras", "weights": {"CONV_2D INT4": 9, "DEPTHWISE_CONV_2D FLOAT32": 4}})
    '4 DEPTHWISE_CONV_2D'
    """
    if row["tool"] == FLOAT:
        return "all"
    found = {name.removesuffix(" FLOAT32"): n for name, n in row["weights"].items() if name.endswith(" FLOAT32")}
    return ", ".join(f"{count} {name}" for name, count in found.items())


def notes(group: list[Row]) -> str:
    """Returns what else is to be said of a variant: seeds, AdaRound's iterations, outputs that are not numbers."""
    first = group[0]
    parts = [f"{len(group)} seeds"] if len(group) > 1 else []
    if first["iterations"] is not None:
        parts.append(f"{first['iterations']} iterations")
    broken = statistics.fmean(row["not_finite"] for row in group)
    if broken:
        parts.append(f"{100 * broken:.0f} % of the outputs are NaN")
    return "; ".join(parts)
