"""Candidates of a compression: each is quantized by a recipe, written as a file, and judged by the file's outputs."""

from __future__ import annotations

import inspect
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from r2keras._models.keras_internals import parts_of
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras._util.files import atomic_write_text
from r2keras.automatic.fingerprint import fingerprint
from r2keras.automatic.judge import Judge, outputs_of
from r2keras.automatic.kept_json import read_json, unreadable
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
from r2keras.specs import QuantSpec, Recipe

Row = dict[str, Any]
# The steps that are tried, the cheapest first, and what they are called in tables.
QUICK, ADAROUND, TRAINED = "bias correction", "AdaRound", "distillation"
STEPS = {QUICK: ("fold_batch_norm", "correct_bias"), ADAROUND: ("fold_batch_norm", "adaround", "correct_bias")}
FLOAT = "float"
ROWS, STATE = "candidates.json", "settings.json"
# The pattern of layers without kernels.
OTHERS = ".*"
# The files of a candidate.
SUFFIXES = (".tflite", ".keras", ".record.npz", ".yaml")
# What every row has; files of other versions or of editors may lack it.
_FIGURES = ("bytes", "quality", "drop", "noise", "error", "seconds")
ROW_KEYS = {"key", "name", "steps", *_FIGURES, "file", "integer", "recipe"}


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
        rules.append((OTHERS, settings.other_layers))
    needed = STEPS.get(steps, STEPS[ADAROUND])
    if any(is_palette(spec) for spec in by_spec):
        needed = (needed[0], "sensitivity", *needed[1:])
    if all(is_palette(spec) for spec in by_spec):
        needed = tuple(step for step in needed if step != "adaround")
    return Recipe(rules, needed)


def _own_objects(model: keras.Model) -> dict[str, Any]:
    """Returns the classes of a model's layers, and the functions and objects that they hold, by name."""
    found: dict[str, Any] = {}
    for part in parts_of(model):
        for one in (part, *vars(part).values()):
            own = one if inspect.isfunction(one) else type(one)
            if not own.__module__.startswith(("keras.", "builtins", "tensorflow.")):
                found[own.__name__] = own
    return found


def _structure(model: keras.Model) -> str:
    """Returns a model's layers and their connections as text.

    A model that is built again has other automatic names: only those of layers with kernels count, as in recipes.
    """
    view = view_of(model)
    config = json.loads(model.to_json())["config"]
    text = json.dumps({key: value for key, value in config.items() if key != "name"})
    names = re.findall(r'"class_name": "InputLayer", "config": {[^{}]*"name": "([^"]*)"', text)
    names += [layer.name for path, layer in view.layers if not view.kernels_in(path)]
    for index, name in enumerate(names):
        text = text.replace(json.dumps(name), f'"#{index}"')
    return text


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
        self._made: list[Row] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open()

    @property
    def rows(self) -> list[Row]:
        """The candidates that this call may choose from: those of earlier calls with the same kinds of files, too."""
        return [row for row in self._made if self._may_choose(row)]

    def has_others(self, choices: Sequence[Choice]) -> bool:
        """Whether an integer file rounds outputs of layers without kernels."""
        spec = self.settings.other_layers
        if spec is None:
            return False
        kernels = f"^({'|'.join(choice.pattern for choice in choices)})$"
        _, idle = planned(self.view, Recipe([(kernels, spec), (".*", spec)]), INTEGER_BITS, INTEGER_BITS)
        return ".*" not in idle

    def float_row(self) -> Row:
        """Returns the row of the float model, whose file is written first."""
        return self._known(FLOAT) or self._added(FLOAT, FLOAT, None, self._float_file)

    def check_target(self) -> None:
        """Raises ValueError for a model that an integer file cannot hold, before any long work.

        One batch and 8 bits everywhere decide it; rows of an earlier run have done so already.
        """
        if not self.settings.integer or any(row["recipe"] is not None for row in self._made):
            return
        spec = self.settings.with_activations(QuantSpec(INTEGER_BITS))
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # The candidates warn again.
            data = [list(self.calibration[0])]
            small, record = calibrate(self.model, Recipe([(".*", spec)]), data, integer=True, progress=False)
            to_litert(small, Path(folder, "trial.tflite"), record, target=self.settings.target)

    def row(self, name: str, steps: str, recipe: Recipe) -> Row:
        """Returns the row of a recipe; makes the candidate unless it was made before.

        Args:
            name: its name in tables.
            steps: `QUICK`, `ADAROUND` or `TRAINED`.
            recipe: its recipe.
        """
        key = f"{self._kind(steps)} {fingerprint(recipe.to_dict(), ())[:16]}"
        return self._known(key) or self._added(key, name, recipe, lambda path: self._file(steps, recipe, path), steps)

    def made(self, row: Row) -> tuple[keras.Model, CompressionRecord]:
        """Returns the model and the record of a candidate."""
        base = self.folder / row["file"]
        # The float model has the caller's classes and functions, which need not be registered.
        has_lambda = any(isinstance(part, keras.layers.Lambda) for part in parts_of(self.model))
        with keras.saving.custom_object_scope(_own_objects(self.model)):
            path = base.with_suffix(".keras")
            model = keras.models.load_model(path, compile=False, safe_mode=not has_lambda)
        return model, CompressionRecord.load(base.with_suffix(".record.npz"))

    def _mark(self) -> str:
        """Returns a hash of everything that results depend on, but for the settings."""
        arrays = [np.asarray(array) for array in self.model.get_weights()]
        arrays += [array for batch in [*self.calibration, *self.judge.data] for array in batch]
        arrays += [] if self.judge.labels is None else [np.asarray(self.judge.labels)]
        return fingerprint({"metric": self.judge.mark, "model": _structure(self.model)}, arrays)

    def _open(self) -> None:
        """Reads the rows of an earlier run of the same model and data, or starts the folder."""
        path, mark = self.folder / STATE, self._mark()
        settings = {**self.settings.to_dict(), "bits": list(self.settings.bits), "fingerprint": mark}
        if path.exists():
            stored = read_json(path, dict)
            if stored.get("fingerprint") != mark or stored.get("target") != self.settings.target:
                received = f"{self.folder}, which has the candidates of another model, other data or another target"
                raise ValueError(invalid_part("folder", "a new folder, or that of the same run", received))
            if (self.folder / ROWS).exists():
                self._made = read_json(self.folder / ROWS, list)
                if not all(isinstance(row, dict) and set(row) >= ROW_KEYS for row in self._made):
                    raise ValueError(unreadable(self.folder / ROWS, "it does not hold candidates"))
        atomic_write_text(path, json.dumps(settings, indent=1) + "\n")

    def _kind(self, steps: str) -> str:
        """Returns the name of steps with everything besides the recipe that they depend on."""
        return f"{steps}, {self.settings.train} epochs," if steps == TRAINED else steps

    def _may_choose(self, row: Row) -> bool:
        """Whether a row is of the kind that the settings allow, and all of its files are still there."""
        if row["integer"] != self.settings.integer or not row["key"].startswith(f"{self._kind(row['steps'])}"):
            return False
        path = self.folder / row["file"]
        if row["recipe"] is None:
            return path.exists()
        rules = Recipe.from_dict(row["recipe"]).rules
        specs = [spec for pattern, spec in rules if pattern != OTHERS and spec is not None]
        allowed = all(self.settings.has_option(spec) for spec in specs)
        return allowed and all(path.with_suffix(suffix).exists() for suffix in SUFFIXES)

    def _known(self, key: str) -> Row | None:
        """Returns the row of an earlier candidate, if its files are still there."""
        return next((row for row in self.rows if row["key"] == key), None)

    def _added(
        self, key: str, name: str, recipe: Recipe | None, write: Callable[[Path], keras.Model], steps: str = FLOAT
    ) -> Row:
        """Writes a candidate's file, judges it, and stores the row."""
        start = time.perf_counter()
        file = f"{len(self._made):03d}_{'_'.join(name.replace(',', '').split())}.tflite"
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
        self._made.append(row)
        atomic_write_text(self.folder / ROWS, json.dumps(self._made, indent=1) + "\n")
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
        runner = LiteRTModel(path, num_threads=os.cpu_count() or 1)
        parts = [runner.dequantized(runner.predict_named("data", list(batch))) for batch in self.judge.data]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
