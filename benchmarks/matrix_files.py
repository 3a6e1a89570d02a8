"""Files of the matrix: a finalized model in every form, written by r2keras and run without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import r2keras
from benchmarks.matrix_finalized import Finalized, predicted
from benchmarks.matrix_runtimes import Outputs, load_bundle, operators_off, run_litert, run_tflm
from benchmarks.matrix_verdicts import (
    BUNDLE,
    DYNAMIC,
    EXPAND,
    INTEGER,
    INTEGER_IO,
    PLAIN,
    ROUNDED,
    TFLM,
    WRONG,
    same_dynamic,
    same_integers,
)


class Files:
    """The files of one finalized model.

    Args:
        done: the model.
        folder: where files are written.
    """

    def __init__(self, done: Finalized, folder: Path):
        self.done, self.folder = done, folder
        self.expected = predicted(done.model, done.case.testing)

    def forms(self) -> list[str]:
        """Returns the forms that the record suits."""
        forms, job = [PLAIN, EXPAND, BUNDLE, TFLM, DYNAMIC], self.done.job
        if job.is_integer:
            forms.append(INTEGER)
            if job.output_bits or job.measures:
                forms.append(INTEGER_IO)
        return forms

    def can_write(self, form: str) -> bool:
        """Whether the file that a form is made of was written; what went wrong there is its own cell."""
        return form not in (EXPAND, BUNDLE) or (self.folder / PLAIN).exists()

    def compare(self, form: str) -> tuple[str, str, float | None]:
        """Returns the verdict on a form, its reason, and its difference: of the range, or in steps."""
        found = self.outputs(form)
        if form == DYNAMIC:
            twin = r2keras.dynamic_twin(self.done.model, self.done.record)
            return same_dynamic(predicted(twin, self.done.case.testing), found, self.expected)
        if form in (INTEGER, INTEGER_IO):
            # With `data=` a file rounds more tensors than Keras.
            verdict = same_integers(self.expected, found, lambda: self.done.noise(every_layer=self.done.job.measures))
            return self._by_operator(form, verdict) if verdict[0] == ROUNDED else verdict
        return self.done.same_floats(self.expected, found)

    def _by_operator(self, form: str, verdict: tuple[str, str, float]) -> tuple[str, str, float]:
        """Returns WRONG where an operator of a file is more than one code from exact arithmetic on its own inputs."""
        kinds = operators_off((self.folder / form).read_bytes(), self.done.case.testing)
        worst = {kind: row["largest"] for kind, row in kinds.items() if row.get("largest", 0) > 1}
        if worst:
            return WRONG, f"{verdict[1]}; operators off by more than one code: {worst}", verdict[2]
        return verdict

    def outputs(self, form: str) -> Outputs:
        """Writes a form, runs it on its runtime, and returns its outputs."""
        path, inputs = self.folder / form, self.done.case.testing
        if form == EXPAND:
            return run_litert(r2keras.export.expand(self.folder / PLAIN), inputs)
        if form == BUNDLE:
            return run_litert(load_bundle(r2keras.export.bundle(self.folder / PLAIN)), inputs)
        if form == TFLM:
            r2keras.export.to_tflm(self.done.model, path, self.done.record)
            return run_tflm(path.read_bytes(), inputs, len(self.expected))
        r2keras.export.to_litert(self.done.model, path, self.done.record, **self._options(form))
        return run_litert(path.read_bytes(), inputs, xnnpack=form == DYNAMIC)

    def _options(self, form: str) -> dict[str, Any]:
        """Returns the arguments of `to_litert` for a form."""
        job, case = self.done.job, self.done.case
        if form in (PLAIN, DYNAMIC):
            return {"optimize": job.optimize} | ({"activations": "dynamic"} if form == DYNAMIC else {})
        # Ranges that only the file has must hold the inputs of the comparison, too: Keras does not clip there.
        both = [np.concatenate(pair) for pair in zip(case.fitting, case.testing, strict=True)]
        optimize = "latency" if job.optimize == "latency" else "size"
        io = "int8" if form == INTEGER_IO else "float"
        return {"activations": "int8", "io": io, "data": both if job.measures else None, "optimize": optimize}
