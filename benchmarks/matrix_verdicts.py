"""Verdicts of the matrix: exact, rounded, refused, wrong or fault, each with its reason."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable

import numpy as np

from benchmarks.matrix_runtimes import Outputs

# A change of what a seed gives, or of how it is judged, makes old rows void.
VERSION = 1
EXACT, ROUNDED, REFUSED, WRONG, FAULT = VERDICTS = ("exact", "rounded", "refused", "wrong", "fault")
GOOD = (EXACT, ROUNDED, REFUSED)
BAD = (WRONG, FAULT)
# The finalized model itself, then the forms of its file.
KERAS, PLAIN, EXPAND, BUNDLE, TFLM, INTEGER, INTEGER_IO, DYNAMIC = FORMS = (
    "keras",
    "exact",
    "expand",
    "bundle",
    "tflm",
    "integer",
    "integer_io",
    "dynamic",
)
# Of the range of an output: float kernels add in another order than Keras.
TOLERANCE = 5e-5
# The share of samples that may have a tie in a recurrent state, where ties are not searched.
TIED_STATES = 0.1
# The share of outputs that may be off by more than a step, and the least share of equal decisions.
STEPPED_OUTPUTS, DECISIONS = 0.01, 0.99
# An output step, and the rounding of its float product.
STEP = 1.01
ARGUMENT = re.compile(r"for argument `(\w+)`")
SENTENCE = re.compile(r"\bExpected .+\.", re.DOTALL)
# What only the choice of a form, after training, can show: operators that a runtime lacks.
LACKS = re.compile(
    r"cannot run|LiteRT has no loop of integer operators|no operator of the model can compute in integers"
    r"|without a matrix product"
)
# Of the range of an output: what is left of equal arithmetic in the median, and at most by ties in dynamic files; and
# the root mean square of those that round more than the twin does.
DYNAMIC_MEDIAN, DYNAMIC_TIES, DYNAMIC_ROUNDED = 1e-6, 0.01, 0.03


def refusal(error: Exception, stage: str) -> tuple[str, str]:
    """Returns the verdict on an error, and its reason.

    A refusal is a TypeError, ValueError or RuntimeError that says what was expected, of an argument that the caller
    passed. It comes before training or calibration; afterwards only what the chosen runtime lacks may be refused.

    Args:
        error: the error.
        stage: `"prepare"`, `"calibrate"`, `"train"`, `"finalize"`, or the form of a file.
    """
    text = " ".join(str(error).split())
    reason = f"{stage}: {type(error).__name__}: {text[:400]}"
    named = isinstance(error, (TypeError, ValueError, RuntimeError)) and SENTENCE.search(text)
    foreign = set(ARGUMENT.findall(text)) - _arguments()
    if not named or foreign or "defect of r2keras" in text or "Exception encountered" in text:
        return FAULT, reason
    early = stage in ("prepare", "calibrate")
    return (REFUSED if early or LACKS.search(text) else FAULT), reason


@functools.cache
def _arguments() -> set[str]:
    """Returns the names of the arguments that a caller passes, so that an error may be about them."""
    import r2keras

    callers = (r2keras.prepare, r2keras.calibrate, r2keras.export.to_litert, r2keras.export.to_tflm)
    specs = (r2keras.Recipe, r2keras.QuantSpec, r2keras.PaletteSpec)
    return {name for caller in (*callers, *specs) for name in inspect.signature(caller).parameters}


def same_floats(
    expected: list[np.ndarray], found: Outputs, ties: Callable[[], np.ndarray] | None, states: bool
) -> tuple[str, str, float]:
    """Compares the outputs of a float file with Keras; returns verdict, reason and relative difference.

    Args:
        expected: Keras' outputs.
        found: the file's.
        ties: returns a mask of the samples in which a value lies within float rounding of a tie, and may go to the
            other code; None for a model without quantized activations.
        states: whether recurrent states are rounded.
    """
    problem = _unlike(expected, found.arrays)
    if problem:
        return WRONG, problem, float("nan")
    differences = [np.abs(a - b) / spread(a) for a, b in zip(expected, found.arrays, strict=True)]
    by_sample = np.max([d.reshape(len(d), -1).max(axis=1) for d in differences], axis=0)
    worst, off = float(by_sample.max()), by_sample > TOLERANCE
    untied = off & ~ties() if ties is not None and off.any() else off
    if untied.mean() > (TIED_STATES if states else 0):
        share = f"{untied.mean():.0%} of samples without a tie"
        return WRONG, f"{share} are off by more than {TOLERANCE:g} of the range, at most {worst:.2g}", worst
    return EXACT, f"{off.mean():.0%} of samples have a tie" if off.any() else "", worst


def same_integers(
    expected: list[np.ndarray], found: Outputs, noise: Callable[[], list[float]]
) -> tuple[str, str, float]:
    """Compares the outputs of an integer file with Keras; returns verdict, reason and the largest number of steps.

    Args:
        expected: Keras' outputs.
        found: the file's.
        noise: returns how far each output moves (root mean square) if activations are one code off. Integer operators
            round some sums the other way, and those of 4-bit kernels round twice; this adds up over the layers.
    """
    problem = _unlike(expected, found.arrays)
    if problem:
        return WRONG, problem, float("nan")
    worst, verdicts, reasons = 0.0, {EXACT}, []
    for number, (a, b) in enumerate(zip(expected, found.arrays, strict=True)):
        # An output that the file computes in float is judged by 8 bits over its range.
        step = found.steps[number] or spread(a) / 255
        steps = np.abs(a - b) / step
        worst, off = max(worst, float(steps.max())), float((steps > STEP).mean())
        agreement = clear_decisions(a, b, step)
        if off <= STEPPED_OUTPUTS and agreement >= DECISIONS:
            continue
        own, allowed = float(np.sqrt(np.square(steps).mean())), max(noise()[number] / step, 1.0)
        is_wrong = own > allowed or clear_decisions(a, b, step * allowed) < DECISIONS
        verdicts.add(WRONG if is_wrong else ROUNDED)
        reasons.append(
            f"output {number}: {off:.0%} are off by more than a step, at most {steps.max():.1f}, "
            f"{own:.2f} in the mean where codes one off give {allowed:.2f}; {agreement:.0%} of clear decisions agree"
        )
    return max(verdicts, key=VERDICTS.index), "; ".join(reasons), worst


def same_dynamic(
    expected: list[np.ndarray], found: Outputs, without: list[np.ndarray] | None = None
) -> tuple[str, str, float]:
    """Compares the outputs of a dynamic file with those of `dynamic_twin`, where ties are not searched.

    Args:
        expected: the twin's outputs.
        found: the file's.
        without: those of the model that rounds no rows; where rounding moves them more than usual, the file may, too.
    """
    problem = _unlike(expected, found.arrays)
    if problem:
        return WRONG, problem, float("nan")
    differences = [np.abs(a - b) / spread(a) for a, b in zip(expected, found.arrays, strict=True)]
    worst = max(float(d.max()) for d in differences)
    if all(np.median(d) <= DYNAMIC_MEDIAN and d.max() <= DYNAMIC_TIES for d in differences):
        return EXACT, "", worst
    mean = max(_mean(a - b) / spread(a) for a, b in zip(expected, found.arrays, strict=True))
    allowed = DYNAMIC_ROUNDED
    if without is not None:
        allowed = max(allowed, *(_mean(a - b) / spread(a) for a, b in zip(expected, without, strict=True)))
    reason = f"off by {mean:.2g} of the range in the mean, at most {worst:.2g}, where {allowed:.2g} is allowed"
    return (ROUNDED if mean <= allowed else WRONG), reason, worst


def _mean(differences: np.ndarray) -> float:
    """Returns the root mean square."""
    return float(np.sqrt(np.square(differences).mean()))


def clear_decisions(expected: np.ndarray, actual: np.ndarray, step: float) -> float:
    """Returns the share of equal decisions among those where Keras' best class leads by more than two steps."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return 1.0
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * step
    return float((expected.argmax(axis=1) == actual.argmax(axis=1))[clear].mean()) if clear.any() else 1.0


def spread(values: np.ndarray) -> float:
    """Returns the range of an output; of a constant one its largest magnitude."""
    return float(np.ptp(values)) or float(np.abs(values).max()) or 1.0


def _unlike(expected: list[np.ndarray], actual: list[np.ndarray]) -> str:
    """Returns what cannot be compared, or nothing."""
    shapes = [a.shape for a in expected], [a.shape for a in actual]
    if shapes[0] != shapes[1]:
        return f"outputs of the shapes {shapes[1]}, where Keras has {shapes[0]}"
    if not all(np.isfinite(a).all() for a in (*expected, *actual)):
        return "NaN or infinite outputs"
    return ""
