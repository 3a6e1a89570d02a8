"""The table that `print` shows of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras._util.tables import add_row, new_table, text_cell
from r2keras._util.text import bits
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import QuantSpec

if TYPE_CHECKING:
    from rich.table import Table

# The fields that have columns of their own.
MAIN = ("num_bits", "method", "activation_bits")


def recipe_table(rules: tuple[tuple[str, QuantSpec | PaletteSpec | None], ...], steps: tuple[str, ...]) -> Table:
    """Returns one line per rule: pattern, bits of weights and of activations, method, and the other settings."""
    columns = [("pattern", False), ("weights", True), ("activations", True), ("method", False)]
    settings = ["" if spec is None else _settings(spec) for _, spec in rules]
    table = new_table("Recipe", [*columns, ("settings", False)] if any(settings) else columns)
    for (pattern, spec), setting in zip(rules, settings, strict=True):
        if spec is None:
            cells = ["float", "float", ""]
        else:
            activations = "float" if spec.activation_bits is None else bits(spec.activation_bits)
            cells = [bits(spec.num_bits), activations, spec.method if isinstance(spec, QuantSpec) else "palette"]
        add_row(table, [pattern, *cells, setting][: len(table.columns)])
    if steps:
        table.caption = text_cell(f"Steps: {', '.join(steps)}")
    return table


def _settings(spec: QuantSpec | PaletteSpec) -> str:
    """Returns the fields that differ from those of a spec with the same bits and method alone."""
    values = spec.to_dict()
    plain = type(spec)(**{name: values[name] for name in MAIN if name in values}).to_dict()
    return ", ".join(f"{name}={value}" for name, value in values.items() if value != plain[name])
