"""The table that `print` shows of a record."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from r2keras._util.tables import add_row, new_table, shape_text, text_cell
from r2keras._util.text import bits, count
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor
from r2keras.specs.dynamic import is_dynamic

if TYPE_CHECKING:
    from rich.table import Table


def record_table(
    model_name: str,
    tensors: Mapping[str, QuantizedTensor | PalettizedTensor],
    kept_float: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation],
    notes: Mapping[str, str],
) -> Table:
    """Returns one line per kernel, and the bits of the activations as the caption."""
    columns = [("kernel", False), ("shape", False), ("weights", True), ("bytes", True), ("method", False)]
    with_notes = bool(notes or kept_float)
    table = new_table(f"Record of {model_name}", [*columns, ("note", False)] if with_notes else columns)
    for name, tensor in tensors.items():
        method = "palette" if isinstance(tensor, PalettizedTensor) else tensor.spec.method
        num_bytes = count(math.ceil(tensor.ideal_bits / 8))
        cells = [name, shape_text(tensor.shape), bits(tensor.spec.num_bits), num_bytes, method, notes.get(name, "")]
        add_row(table, cells[: len(table.columns)])
    for name, reason in kept_float.items():
        add_row(table, [name, "", "float", "", "", notes.get(name, reason)])
    others = {name: note for name, note in notes.items() if name not in tensors and name not in kept_float}
    dynamic = [name for name, tensor in tensors.items() if is_dynamic(tensor.spec)]
    rows = [f"Rounded rows (dynamic, 8 bits) in front of: {', '.join(dynamic)}."] if dynamic else []
    lines = [_activation_text(activations), *rows, *(f"{name}: {note}" for name, note in others.items())]
    table.caption = text_cell("\n".join(lines))
    return table


def _activation_text(activations: Mapping[str, QuantizedActivation]) -> str:
    """Returns the number of quantized activations by their bits."""
    counts = sorted(collections.Counter(grid.num_bits for grid in activations.values()).items())
    return f"Quantized activations: {', '.join(f'{number} at {bits(width)}' for width, number in counts) or 'none'}."
