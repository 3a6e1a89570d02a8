"""Candidates of a compression: each is quantized by a recipe, written as a file, and judged by the file's outputs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from r2keras._models.walk import ModelView
from r2keras._util.errors import invalid_part
from r2keras._util.files import atomic_write_text
from r2keras._util.json_text import parse_json
from r2keras.automatic.fingerprint import fingerprint
from r2keras.automatic.judge import Judge, outputs_of
from r2keras.automatic.options import Choice
from r2keras.automatic.settings import INTEGER_BITS, Settings, is_palette
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.post_training import calibrate
from r2keras.compression.activation_plan import planned
from r2keras.compression.distill import distill
from r2keras.compression.finalize import finalize
from r2keras.compression.prepare import prepare
from r2keras.export import LiteRTModel, to_litert
from r2keras.record import CompressionRecord
from r2keras.specs import Recipe

Row = dict[str, Any]
# The steps that are tried, the cheapest first, and what they are called in tables.
QUICK, ADAROUND, TRAINED = "bias correction", "AdaRound", "distillation"
STEPS = {QUICK: ("fold_batch_norm", "correct_bias"), ADAROUND: ("fold_batch_norm", "adaround", "correct_bias")}
FLOAT = "float"
ROWS, STATE = "candidates.json", "settings.json"


def recipe_of(
    choices: Sequence[Choice], picked: Sequence[int], settings: Settings, steps: str, *, has_others: bool
) -> Recipe:
    """Returns the recipe of an assignment: one rule per spec, and one for other layers whose outputs are rounded."""
    by_spec: dict[Any, list[str]] = {}
    for choice, index in zip(choices, picked, strict=True):
        by_spec.setdefault(choice.options[index].spec, []).append(choice.pattern)
    rules: list[tuple[str, Any]] = [
        (f"^({'|'.join(patterns)})$", settings.with_activations(spec)) for spec, patterns in by_spec.items()
    ]
    if settings.other_layers is not None and has_others:
        rules.append((".*", settings.other_layers))
    needed = STEPS.get(steps, STEPS[ADAROUND])
    if any(is_palette(spec) for spec in by_spec):
        needed = (needed[0], "sensitivity", *needed[1:])
    if all(is_palette(spec) for spec in by_spec):
        needed = tuple(step for step in needed if step != "adaround")
    return Recipe(rules, needed)


class Candidates:
    """Makes candidates and keeps what was made: in a folder, from which an interrupted run continues.

    Args:
        model: the float model.
        view: its view, with folded batch normalizations.
        settings: what is asked for.
        calibration: batches to quantize with.
        judge: the samples that judge.
        folder: the folder; created if it does not exist.
        progress: whether to show the progress of long steps.

    Raises:
        ValueError: the folder has another run.
    """

    def __init__(
        self,
        model: keras.Model,
        view: ModelView,
        settings: Settings,
        calibration: list[Batch],
        judge: Judge,
        folder: str | os.PathLike,
        progress: bool,
    ) -> None:
        self.model = model
        self.view = view
        self.settings = settings
        self.calibration = calibration
        self.judge = judge
        self.folder = Path(folder)
        self.progress = progress
        self._stored: list[Row] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open(fingerprint({"metric": judge.name}, self._inputs()))

    def has_others(self, choices: Sequence[Choice]) -> bool:
        """Whether an integer file rounds outputs of layers without kernels."""
        spec = self.settings.other_layers
        if spec is None:
            return False
        kernels = f"^({'|'.join(choice.pattern for choice in choices)})$"
        _, idle = planned(self.view, Recipe([(kernels, spec), (".*", spec)]), INTEGER_BITS, INTEGER_BITS)
        return ".*" not in idle

    @property
    def rows(self) -> list[Row]:
        """All candidates of the folder, those of earlier calls with other limits included."""
        return [row for row in self._stored if row["integer"] == self.settings.integer]

    def float_row(self) -> Row:
        """Returns the row of the float model, whose file is written first."""
        return self._known(FLOAT) or self._added(FLOAT, FLOAT, None, self._float_file)

    def row(self, name: str, steps: str, recipe: Recipe) -> Row:
        """Returns the row of a recipe; makes the candidate unless it was made before.

        Args:
            name: its name in tables.
            steps: `QUICK`, `ADAROUND` or `TRAINED`.
            recipe: its recipe.
        """
        key = f"{steps} {fingerprint(recipe.to_dict(), ())[:16]}"
        return self._known(key) or self._added(key, name, recipe, lambda path: self._file(steps, recipe, path), steps)

    def made(self, row: Row) -> tuple[keras.Model, CompressionRecord]:
        """Returns the model and the record of a candidate."""
        base = self.folder / row["file"]
        model = keras.models.load_model(base.with_suffix(".keras"), compile=False)
        return model, CompressionRecord.load(base.with_suffix(".record.npz"))

    def _inputs(self) -> list[np.ndarray]:
        """Returns all arrays that results depend on."""
        arrays = [np.asarray(array) for array in self.model.get_weights()]
        arrays += [array for batch in [*self.calibration, *self.judge.data] for array in batch]
        return arrays + ([] if self.judge.labels is None else [np.asarray(self.judge.labels)])

    def _open(self, mark: str) -> None:
        """Reads the rows of an earlier run of the same model and data, or starts the folder."""
        path = self.folder / STATE
        settings = {**self.settings.to_dict(), "bits": list(self.settings.bits), "fingerprint": mark}
        if path.exists():
            stored = parse_json(path.read_bytes())
            if stored.get("fingerprint") != mark or stored.get("target") != self.settings.target:
                received = f"{self.folder}, which has the candidates of another model, other data or another target"
                raise ValueError(invalid_part("folder", "a new folder, or that of the same run", received))
            if (self.folder / ROWS).exists():
                self._stored = parse_json((self.folder / ROWS).read_bytes())
        atomic_write_text(path, json.dumps(settings, indent=1) + "\n")

    def _known(self, key: str) -> Row | None:
        """Returns the row of an earlier candidate, if its file is still there."""
        found = [row for row in self.rows if row["key"] == key]
        return next((row for row in found if (self.folder / row["file"]).exists()), None)

    def _added(
        self, key: str, name: str, recipe: Recipe | None, write: Callable[[Path], keras.Model], steps: str = FLOAT
    ) -> Row:
        """Writes a candidate's file, judges it, and stores the row."""
        start = time.perf_counter()
        file = f"{len(self._stored):03d}_{'_'.join(name.replace(',', '').split())}.tflite"
        model = write(self.folder / file)
        found = self.judge.of_outputs(self._outputs(model, self.folder / file))
        row: Row = {
            "key": key,
            "name": name,
            "steps": steps,
            "bytes": (self.folder / file).stat().st_size,
            "quality": found.quality,
            "drop": found.drop,
            "noise": found.noise,
            "error": found.error,
            "seconds": round(time.perf_counter() - start, 2),
            "file": file,
            "integer": self.settings.integer,
            "recipe": None if recipe is None else recipe.to_dict(),
        }
        self._stored.append(row)
        atomic_write_text(self.folder / ROWS, json.dumps(self._stored, indent=1) + "\n")
        return row

    def _float_file(self, path: Path) -> keras.Model:
        """Writes the float file."""
        target = "any" if self.settings.target == "mcu" else self.settings.target
        to_litert(self.model, path, target=target)
        return self.model

    def _file(self, steps: str, recipe: Recipe, path: Path) -> keras.Model:
        """Quantizes the model and writes its file, the model and the record."""
        small, record = self._trained(recipe) if steps == TRAINED else self._calibrated(recipe)
        small.save(path.with_suffix(".keras"))
        record.save(path.with_suffix(".record.npz"))
        recipe.save(path.with_suffix(".yaml"))
        to_litert(small, path, record, target=self.settings.target)
        return small

    def _calibrated(self, recipe: Recipe) -> tuple[keras.Model, CompressionRecord]:
        """Quantizes without training."""
        data = [list(batch) for batch in self.calibration]
        integer = self.settings.integer
        return calibrate(self.model, recipe, data, integer=integer, progress=self.progress)

    def _trained(self, recipe: Recipe) -> tuple[keras.Model, CompressionRecord]:
        """Trains the quantized model towards the float model's outputs, without labels."""
        student = prepare(self.view.model, recipe, integer=self.settings.integer)
        columns = [np.concatenate(column) for column in zip(*self.calibration, strict=True)]
        data = columns[0] if len(columns) == 1 else columns
        verbose = "auto" if self.progress else 0
        distill(student, self.view.model, data, epochs=self.settings.train or 1, verbose=verbose)
        return finalize(student)

    def _outputs(self, model: keras.Model, path: Path) -> list[np.ndarray]:
        """Returns the outputs of a file on the samples that judge; for microcontrollers, those of its model."""
        if self.settings.target == "mcu":
            return outputs_of(model, self.judge.data)
        runner = LiteRTModel(path)
        parts = [runner.dequantized(runner.predict_named("data", list(batch))) for batch in self.judge.data]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
