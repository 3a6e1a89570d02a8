"""Cells of the matrix: one model and recipe through every form, each compared with Keras."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

import r2keras
from benchmarks.common import Row
from benchmarks.matrix_files import Files
from benchmarks.matrix_finalized import Finalized, compare
from benchmarks.matrix_models import Case, build
from benchmarks.matrix_recipes import Job, draw
from benchmarks.matrix_verdicts import KERAS, VERSION, refusal
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions

Verdict = tuple[str, str, float | None]


def run_seed(seed: int, skip: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Yields the rows of a seed, one per form.

    Args:
        seed: decides the model, the recipe and the data.
        skip: forms that are left out.
    """
    case = build(seed)
    job = draw(seed, case.model)
    common = {"version": VERSION, "kinds": case.kinds, "recipe": str(job)}

    def row(form: str, verdict: str, reason: str, difference: float | None) -> Row:
        finite = difference is not None and np.isfinite(difference)
        shown = float(f"{difference:.3g}") if finite else None
        return {"cell": f"{seed}-{form}", "verdict": verdict, "reason": reason, "difference": shown, **common}

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        stages: list[str] = []
        try:
            done = _compressed(case, job, stages)
        except Exception as error:  # noqa: BLE001 - any error is the cell's result.
            yield row(KERAS, *refusal(error, stages[-1]), None)
            return
        if KERAS not in skip:
            yield row(KERAS, *_guarded(KERAS, lambda: compare(done)))
        files = Files(done, Path(folder))
        for form in files.forms():
            if form not in skip and files.can_write(form):
                yield row(form, *_guarded(form, lambda form=form: files.compare(form)))


def _guarded(form: str, judge: Callable[[], Verdict]) -> Verdict:
    """Returns a verdict, or that on the error that the form ends with."""
    try:
        return judge()
    except Exception as error:  # noqa: BLE001 - any error is the cell's result.
        return *refusal(error, form), None


def _compressed(case: Case, job: Job, stages: list[str]) -> Finalized:
    """Returns the finalized model and its record; `stages` gets the name of each stage as it starts."""
    one = case.fitting if len(case.fitting) > 1 else case.fitting[0]
    if not job.trains:
        stages.append("calibrate")
        options = AdaRoundOptions(iterations=20, rounds=1)
        found = r2keras.calibrate(case.model, job.recipe, one, options=options, progress=False, **job.options)
        return Finalized(case, job, None, *found)
    stages.append("prepare")
    student = r2keras.prepare(case.model, job.recipe, **job.options)
    stages.append("train")
    rng = np.random.default_rng(0)
    targets = [rng.normal(size=(len(case.fitting[0]), *y.shape[1:])).astype(np.float32) for y in student.outputs]
    student.compile(keras.optimizers.SGD(1e-3), ["mse"] * len(targets), jit_compile=False)
    student.fit(one, targets if len(targets) > 1 else targets[0], batch_size=len(targets[0]), verbose=0)
    stages.append("finalize")
    return Finalized(case, job, student, *r2keras.finalize(student))
