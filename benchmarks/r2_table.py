"""The tables of `r2_accuracy.py`: mean accuracy of each cell by regularizer, with its spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from common import Row, markdown
from r2_plan import COLUMNS, NETS, PALETTES, PHASES, Cell

EMPTY = "-"
TITLES = {
    "none": "none",
    "l2": "L2",
    "kurtosis": "KURE",
    "linf": "L-inf",
    "linf_scale_free": "L-inf scale-free",
    "margin": "margin",
    "margin_scale_free": "margin scale-free",
    "soft_min_max": "soft-min-max",
    "soft_min_max_scale_free": "soft-min-max scale-free",
}


def table(rows: list[Row]) -> str:
    """Returns the rows as Markdown: test figures by net, then the ablations on validation images."""
    parts = [_net_table(name, [row for row in rows if row["net"] == name and row["split"] == "test"]) for name in NETS]
    parts += [_ablation(name, [r for r in rows if r["net"] == name and r["split"] == "validation"]) for name in NETS]
    return "\n\n".join(part for part in parts if part) or "No rows yet."


def _net_table(net: str, rows: list[Row]) -> str:
    """Returns one net's table, with a row per cell and a column per regularizer; "-" marks what is not measured yet.

    Below it are the names of the rows and columns without any figure.
    """
    rows = [row for row in rows if row["factor"] == COLUMNS[_name(row)].factor]
    if not rows:
        return ""
    names = [name for name in TITLES if any(_name(row) == name for row in rows)]
    header = ["", *(TITLES[name] for name in names)]
    lines = [_figures("float %", rows, names, lambda row: 100 * row["float_accuracy"])]
    for key in ("max_over_std", "kurtosis"):
        lines.append(_figures(key.replace("max_over_std", "max/std"), rows, names, lambda row, key=key: row[key]))
    cells = [cell for phase in PHASES for cell in phase]
    for cell in cells:
        own = [row for row in rows if _cell(row) == cell]
        if own:
            lines.append(_figures(_cell_text(cell), own, names, lambda row: 100 * row["accuracy"], best=True))
    columns = [TITLES[name] for name in TITLES if name in COLUMNS and name not in names]
    empty = [cell for cell in cells if cell not in map(_cell, rows)]
    return f"### {NETS[net].title}\n\n{markdown(header, lines)}\n\n{_not_measured(columns, empty)}".rstrip()


def _not_measured(columns: list[str], cells: list[Cell]) -> str:
    """Returns one sentence with the regularizers and the cells of the plan that a table lacks."""
    methods_by_width: dict[str, list[str]] = {}
    for cell in cells:
        width = _bits(cell) if cell.method in PALETTES else f"W{cell.weight_bits}A{cell.activation_bits}"
        methods = methods_by_width.setdefault(width, [])
        method = cell.method.replace("_", "-")
        if cell.granularity == "per_channel" and not cell.trains:
            method += " per channel"
        if method not in methods:
            methods.append(method)
    rows = [f"{width} ({', '.join(methods)})" for width, methods in methods_by_width.items()]
    parts = [f"{kind} {', '.join(names)}" for kind, names in (("the columns", columns), ("the rows", rows)) if names]
    return f"Not measured: {'; '.join(parts)}." if parts else ""


def _figures(title: str, rows: list[Row], names: list[str], read: Callable[[Row], float], best: bool = False):
    """Returns one line: mean and sample standard deviation over the seeds, with their number if it is not 3."""
    values = {name: {row["seed"]: read(row) for row in rows if _name(row) == name} for name in names}
    means = {name: statistics.mean(by_seed.values()) for name, by_seed in values.items() if by_seed}
    top = max(means.values()) if best else None
    return [title, *(_spread(list(values[name].values()), means.get(name), top) for name in names)]


def _spread(values: list[float], mean: float | None, top: float | None) -> str:
    """Returns the mean, bold if it is the best, the standard deviation, and the number of values if it is not 3."""
    if mean is None:
        return EMPTY
    text = f"**{mean:.1f}**" if mean == top else f"{mean:.1f}"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return text + spread + (f" (n={len(values)})" if len(values) != 3 else "")


def _ablation(net: str, rows: list[Row]) -> str:
    """Returns the accuracy by the strength of each regularizer, on validation images; 0 means without it."""
    if not rows:
        return ""
    factors = sorted({row["factor"] for row in rows})
    lines = []
    for name in (name for name in TITLES if name != "none" and any(_name(row) == name for row in rows)):
        regularizer_rows = [row for row in rows if _name(row) in (name, "none")]
        lines.append([TITLES[name], "float", *_by_factor(regularizer_rows, factors, "float_accuracy")])
        for cell in dict.fromkeys(map(_cell, regularizer_rows)):
            own = [row for row in regularizer_rows if _cell(row) == cell]
            lines.append([TITLES[name], _cell_text(cell), *_by_factor(own, factors, "accuracy")])
    header = ["", "", *(f"{factor:g}" for factor in factors)]
    return f"### {NETS[net].title}: strengths, evaluated on validation images\n\n{markdown(header, lines)}"


def _by_factor(rows: list[Row], factors: list[float], key: str) -> list[str]:
    """Returns one line of an ablation: mean and spread over the seeds at each strength."""
    values = [{row["seed"]: 100 * row[key] for row in rows if row["factor"] == factor} for factor in factors]
    means = [statistics.mean(by_seed.values()) if by_seed else None for by_seed in values]
    top = max(mean for mean in means if mean is not None)
    return [_spread(list(by_seed.values()), mean, top) for by_seed, mean in zip(values, means, strict=True)]


def _cell_text(cell: Cell) -> str:
    """Returns the name of a cell in the table."""
    granularity = cell.granularity.replace("_", " ")
    if cell.method in PALETTES:
        rows = f"{2 ** (cell.weight_bits * cell.dim)} rows of {cell.dim}"
        temperature = ", constant temperature" if cell.method == "dkm_constant" else ""
        return f"{_bits(cell)} per weight: DKM, {rows}{temperature}, {granularity}, trained"
    if cell.trains:
        details = "trained, first and last kernels 8 bits"
    elif cell.method == "equalize":
        details = "batch norm folded, bias corrected"
    else:
        details = "batch norm " + ("re-estimated" if cell.batch_norm == "replace" else "kept")
    return f"W{cell.weight_bits}A{cell.activation_bits} {cell.method.replace('_', '-')}, {granularity}, {details}"


def _bits(cell: Cell) -> str:
    return f"{cell.weight_bits} bit{'s' * (cell.weight_bits > 1)}"


def _cell(row: Row) -> Cell:
    names = ("method", "weight_bits", "activation_bits", "batch_norm", "granularity", "dim")
    return Cell(*(row[name] for name in names))


def _name(row: Row) -> str:
    return row["regularizer"] + ("_scale_free" if row["form"] == "scale_free" else "")
