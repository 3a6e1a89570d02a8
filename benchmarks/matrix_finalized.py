"""Finalized models of the matrix against their records, their recipes, and the models that they come from."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np

from benchmarks.matrix_models import Case
from benchmarks.matrix_recipes import Job
from benchmarks.matrix_rounding import one_code_off, tied_samples
from benchmarks.matrix_runtimes import Outputs
from benchmarks.matrix_verdicts import EXACT, TOLERANCE, WRONG, same_floats, same_integers
from r2keras.record import CompressionRecord, PalettizedTensor

RECURRENT = {"lstm", "gru", "simple_rnn", "bidirectional"}
# Correlation with the float model that 7 bits and more must keep without training.
NEAR = 0.9


@dataclasses.dataclass
class Finalized:
    """A compressed model.

    Args:
        case: the float model and the inputs.
        job: the recipe.
        student: the trained model; None after `calibrate`.
        model: the finalized model.
        record: its record.
    """

    case: Case
    job: Job
    student: keras.Model | None
    model: keras.Model
    record: CompressionRecord

    @property
    def has_states(self) -> bool:
        """Whether recurrent states may be rounded."""
        return bool(self.record.activations) and not RECURRENT.isdisjoint(self.case.kinds)

    def ties(self) -> np.ndarray:
        """Returns a mask of the samples with a tie."""
        return tied_samples(self.model, self.case.testing, TOLERANCE)

    def noise(self, every_layer: bool = False) -> list[float]:
        """Returns how far each output moves when activations are one code off.

        Args:
            every_layer: whether layers that Keras does not round are rounded, too.
        """
        return one_code_off(self.model, self.case.testing, 1.0, every_layer)

    def same_floats(self, expected: list[np.ndarray], found: Outputs) -> tuple[str, str, float]:
        """Returns the verdict on outputs that should be Keras' up to float rounding."""
        return same_floats(expected, found, self.ties if self.record.activations else None, self.has_states)


def predicted(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns Keras' outputs as a list."""
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def compare(done: Finalized) -> tuple[str, str, float | None]:
    """Compares a finalized model with its record, its recipe, and the student or the float model."""
    problem = _unlike_record(done) or _unlike_recipe(done)
    if problem:
        return WRONG, problem, None
    return _as_float(done) if done.student is None else _as_student(done, done.student)


def _unlike_record(done: Finalized) -> str:
    """Returns a weight of the record that the model does not hold, or that saving changes; or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        done.record.save(Path(folder) / "record.npz")
        again = CompressionRecord.load(Path(folder) / "record.npz")
    left = [np.asarray(weight) for weight in done.model.weights]
    for name, tensor in done.record.tensors.items():
        values = tensor.values()
        place = next((i for i, w in enumerate(left) if w.shape == values.shape and np.array_equal(w, values)), None)
        if place is None:
            return f"no weight of the model equals the record's {name!r}"
        del left[place]
        if not np.array_equal(again.tensors[name].values(), values):
            return f"the saved record differs in {name!r}"
    return ""


def _unlike_recipe(done: Finalized) -> str:
    """Returns a weight that does not follow the recipe, or nothing."""
    for name, tensor in done.record.tensors.items():
        spec = _spec(done.job, name)
        used = tensor.used if isinstance(tensor, PalettizedTensor) else len(np.unique(tensor.codes))
        if spec is None or used > 2**spec.num_bits or tensor.spec.num_bits != spec.num_bits:
            return f"{name!r} has {used} codes under {spec}"
    floats = [name for name, why in done.record.kept_float.items() if why.startswith("no rule")]
    forgotten = [name for name in floats if _spec(done.job, name) is not None]
    return f"{forgotten[0]!r} stays float although a rule matches it" if forgotten else ""


def _spec(job: Job, name: str):
    """Returns the spec that the recipe has for a weight."""
    return job.recipe.match(name.rpartition("/")[0], name)


def _as_student(done: Finalized, student: keras.Model) -> tuple[str, str, float]:
    """Compares the finalized model with the student."""
    expected, found = (predicted(model, done.case.testing) for model in (student, done.model))
    bits = {grid.num_bits for grid in done.record.activations.values()}
    if bits == {8}:  # Biases were rounded to the steps of integer accumulators.
        return same_integers(expected, Outputs(found, [None] * len(found)), done.noise)
    return done.same_floats(expected, Outputs(found, [None] * len(found)))


def _as_float(done: Finalized) -> tuple[str, str, float | None]:
    """Compares the calibrated model with the float one where many bits leave little room for a difference."""
    job = done.job
    specs = [spec for _, spec in job.recipe.rules if spec is not None]
    fine = all(s.num_bits >= 7 and (s.activation_bits or 8) == 8 and getattr(s, "method", "") == "ste" for s in specs)
    if not fine or {job.input_bits, job.output_bits} - {None, 8}:
        return EXACT, "", None
    pairs = zip(*(predicted(model, done.case.testing) for model in (done.case.model, done.model)), strict=True)
    near = min(_correlation(a, b) for a, b in pairs)
    if not near >= NEAR:
        return WRONG, f"correlation {near:.3f} with the float model", 1 - near
    return EXACT, "", 1 - near


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the correlation of two outputs; 1 for a constant one."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if np.ptp(a) > 1e-6 and np.ptp(b) > 1e-6 else 1.0
