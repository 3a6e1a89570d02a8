"""The tables of `r2_accuracy.py`: mean accuracy of each cell by regularizer, with its spread over seeds."""

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
    """Returns the rows as markdown: test figures by net, then the ablations on validation images."""
    parts = [_net_table(name, [row for row in rows if row["net"] == name and row["split"] == "test"]) for name in NETS]
    parts += [_ablation(name, [r for r in rows if r["net"] == name and r["split"] == "validation"]) for name in NETS]
    return "\n\n".join(part for part in parts if part) or "No rows yet."


def _net_table(net: str, rows: list[Row]) -> str:
    """Returns one net's table: cells down, regularizers across, empty where nothing is measured yet.

    What has no figure at all stands below it by name.
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
            lines.append(_figures(_words(cell), own, names, lambda row: 100 * row["accuracy"], best=True))
    columns = [TITLES[name] for name in TITLES if name in COLUMNS and name not in names]
    empty = [cell for cell in cells if cell not in map(_cell, rows)]
    return f"### {NETS[net].title}\n\n{markdown(header, lines)}\n\n{_not_measured(columns, empty)}".rstrip()


def _not_measured(columns: list[str], cells: list[Cell]) -> str:
    """Returns one sentence: the regularizers and the cells of the plan that a table lacks."""
    kinds: dict[str, list[str]] = {}
    for cell in cells:
        width = f"{cell.weight_bits} bit" if cell.method in PALETTES else f"W{cell.weight_bits}A{cell.activation_bits}"
        methods = kinds.setdefault(width, [])
        method = cell.method.replace("_", "-") + " a channel" * (cell.granularity == "per_channel" and not cell.trains)
        methods += [method] * (method not in methods)
    rows = [f"{width} ({', '.join(methods)})" for width, methods in kinds.items()]
    parts = [f"{kind} {', '.join(names)}" for kind, names in (("the columns", columns), ("the rows", rows)) if names]
    return f"Not measured: {'; '.join(parts)}." if parts else ""


def _figures(title: str, rows: list[Row], names: list[str], read: Callable[[Row], float], best: bool = False):
    """Returns one line: mean and sample standard deviation over the seeds, and how many if not 3."""
    values = {name: {row["seed"]: read(row) for row in rows if _name(row) == name} for name in names}
    means = {name: statistics.mean(found.values()) for name, found in values.items() if found}
    top = max(means.values()) if best else None
    return [title, *(_spread(list(values[name].values()), means.get(name), top) for name in names)]


def _spread(found: list[float], mean: float | None, top: float | None) -> str:
    if mean is None:
        return EMPTY
    text = f"**{mean:.1f}**" if mean == top else f"{mean:.1f}"
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return text + spread + (f" (n={len(found)})" if len(found) != 3 else "")


def _ablation(net: str, rows: list[Row]) -> str:
    """Returns accuracy against the strength of each regularizer, on validation images; 0 is none."""
    if not rows:
        return ""
    factors = sorted({row["factor"] for row in rows})
    lines = []
    for name in (name for name in TITLES if name != "none" and any(_name(row) == name for row in rows)):
        of = [row for row in rows if _name(row) in (name, "none")]
        lines.append([TITLES[name], "float", *_by_factor(of, factors, "float_accuracy")])
        for cell in dict.fromkeys(map(_cell, of)):
            own = [row for row in of if _cell(row) == cell]
            lines.append([TITLES[name], _words(cell), *_by_factor(own, factors, "accuracy")])
    header = ["", "", *(f"{factor:g}" for factor in factors)]
    return f"### {NETS[net].title}: strengths, judged on validation images\n\n{markdown(header, lines)}"


def _by_factor(rows: list[Row], factors: list[float], key: str) -> list[str]:
    """Returns one line of an ablation: mean and spread over the seeds at each strength."""
    values = [{row["seed"]: 100 * row[key] for row in rows if row["factor"] == factor} for factor in factors]
    means = [statistics.mean(found.values()) if found else None for found in values]
    top = max(mean for mean in means if mean is not None)
    return [_spread(list(found.values()), mean, top) for found, mean in zip(values, means, strict=True)]


def _words(cell: Cell) -> str:
    """Returns a cell in words."""
    fit = ", batch norm " + ("measured again" if cell.batch_norm == "replace" else "kept")
    if cell.trains:
        fit = ", trained" + ", first and last kernel 8 bits" * (cell.method not in PALETTES)
    elif cell.method == "equalize":
        fit = ", batch norm folded, bias corrected"
    who = cell.granularity.replace("_", " ")
    if cell.method in PALETTES:
        rows = f"{2 ** (cell.weight_bits * cell.dim)} rows of {cell.dim}"
        rows += ", constant temperature" if cell.method == "dkm_constant" else ""
        return f"{cell.weight_bits} bit a weight: DKM, {rows}, {who}{fit}"
    return f"W{cell.weight_bits}A{cell.activation_bits} {cell.method.replace('_', '-')}, {who}{fit}"


def _cell(row: Row) -> Cell:
    names = ("method", "weight_bits", "activation_bits", "batch_norm", "granularity", "dim")
    return Cell(*(row[name] for name in names))


def _name(row: Row) -> str:
    return row["regularizer"] + ("_scale_free" if row["form"] == "scale_free" else "")
