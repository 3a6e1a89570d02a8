"""Result of `compress`: the chosen model, its file, and all candidates."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from r2keras._util.display import Tabular
from r2keras._util.files import atomic_write_text
from r2keras._util.tables import add_row, new_table, text_cell
from r2keras._util.text import DASH, count, percent
from r2keras.automatic.judge import SHARES
from r2keras.automatic.plots import front_of, write_front
from r2keras.automatic.sensitivity import Sensitivity
from r2keras.automatic.settings import Settings
from r2keras.export.runtime.verification import Verification
from r2keras.record import CompressionRecord
from r2keras.specs import Recipe

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed(Tabular):
    """A compressed model and how it was found; `print` shows the candidates as a table.

    Args:
        model: the chosen model, whose kernels lie on their grids.
        record: its codes and scales.
        recipe: the recipe that `prepare` and `calibrate` take.
        path: the `.tflite` file.
        rows: all candidates, the float model first: `name`, `steps`, `bytes`, `quality`, `drop`, `noise` (the standard
            error of the drop, or None), `error`, `seconds`, `file`, `recipe`.
        chosen: the row of this model.
        sensitivity: what each layer costs at each number of bits.
        settings: the limits.
        metric: what `quality` is.
        num_samples: samples that judged.
        verification: the model against its file.

    Example:

    >>> import numpy as np
    >>> from r2keras.automatic.compress import compress
    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32), keras.layers.Dense(4)])
    >>> x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    >>> result = compress(model, x, max_drop=0.5, bits=(8,), palettes=False, progress=False)
    >>> [row["name"] for row in result.rows][:2], result.path.name
    (['float', 'uniform, 8 bits'], 'model.tflite')
    """

    model: keras.Model
    record: CompressionRecord
    recipe: Recipe
    path: Path
    rows: tuple[dict[str, Any], ...]
    chosen: dict[str, Any]
    sensitivity: Sensitivity
    settings: Settings
    metric: str
    num_samples: int
    verification: Verification

    @property
    def is_met(self) -> bool:
        """Whether the chosen model is within the limits."""
        return self.settings.allows(self.chosen["bytes"], self.chosen["drop"])

    @property
    def front(self) -> list[dict[str, Any]]:
        """The rows that no other one beats in bytes and quality, fewest bytes first."""
        return front_of(self.rows)

    @property
    def text(self) -> str:
        """The result in two sentences."""
        row, size = self.chosen, self.rows[0]["bytes"]
        noise = "" if row["noise"] is None else f" (standard error {percent(row['noise'])})"
        drop = f"{self.metric_text} {self.value_text(row['quality'])}, {self.drop_text(row['drop'])} below float{noise}"
        found = f"{count(row['bytes'])} bytes, {size / row['bytes']:.1f} times smaller than float; {drop}"
        if self.is_met:
            return f"{row['name']}, {row['steps']}: {found}. On {self.num_samples} samples."
        return f"Nothing meets {self.settings.goal}. The nearest is {row['name']}, {row['steps']}: {found}."

    @property
    def metric_text(self) -> str:
        """The name of the metric in words."""
        return self.metric.replace("_", " ")

    def value_text(self, value: float) -> str:
        """Returns a value of the metric as text."""
        return percent(value) if self.metric in SHARES else f"{value:.4g}"

    def drop_text(self, value: float) -> str:
        """Returns a drop of the metric as text."""
        return f"{100 * value:.2f} points" if self.metric in SHARES else f"{value:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Returns rows, settings and sensitivity as plain JSON."""
        return {
            "settings": self.settings.to_dict(),
            "metric": self.metric,
            "num_samples": self.num_samples,
            "is_met": self.is_met,
            "text": self.text,
            "rows": list(self.rows),
            "chosen": self.chosen["file"],
            "sensitivity": self.sensitivity.to_dict(),
            "verification": self.verification.to_dict(),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON, atomically.

        Raises:
            OSError: the file cannot be written.
        """
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def plot(self, path: str | os.PathLike) -> None:
        """Draws quality against bytes into an `.svg` or `.png` file.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        write_front(self.rows[1:], self.rows[0], self.settings, path)

    def __rich__(self) -> Table:
        columns = [("candidate", False), ("steps", False), ("bytes", True), (self.metric_text, True), ("drop", True)]
        table = new_table(f"Compression for {self.settings.goal}", [*columns, ("seconds", True), ("", False)])
        front = self.front
        for row in sorted(self.rows, key=lambda row: -row["bytes"]):
            mark = "chosen" if row is self.chosen else "front" if row in front else ""
            drop = DASH if row["recipe"] is None else self.drop_text(row["drop"])
            cells = [row["name"], row["steps"], count(row["bytes"]), self.value_text(row["quality"]), drop]
            add_row(table, [*cells, f"{row['seconds']:.1f}", mark])
        table.caption = text_cell(self.text)
        return table
