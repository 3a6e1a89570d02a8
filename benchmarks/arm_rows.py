"""Rows of `arm.py`: outputs of a file on two processors, compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import arm_operators
from benchmarks.arm_files import File
from benchmarks.arm_runner import KERNELS
from benchmarks.common import Row

X86 = "x86"
BOTH = "xnnpack against built_in"
# Differences that count as float rounding, as a share of the range of an output.
NEAR = 1e-5


def rows(file: File, cpu: str, line: Row, on_x86: Row, work: Path) -> list[Row]:
    """Returns the rows of a file on an ARM processor, one per kind of kernels.

    Args:
        file: the file.
        cpu: the processor.
        line: what `arm_runner` says of the run there.
        on_x86: what it says of the run on x86.
        work: the folder of the file, with a folder of outputs per processor.
    """
    found = []
    for kernels in KERNELS:
        row = _identity(file) | {"cpu": cpu, "kernels": kernels, "features": line["features"]}
        refused = {
            name: told["refused"][kernels] for name, told in ((X86, on_x86), (cpu, line)) if kernels in told["refused"]
        }
        if refused:
            found.append(row | {"refused": refused})
            continue
        row["delegated"] = [told["delegated"][kernels] for told in (on_x86, line)]
        found.append(row | _compared(file, work, [(X86, kernels), (cpu, kernels)]))
    return found


def row_on_x86(file: File, line: Row, work: Path) -> Row:
    """Returns the row of the two kinds of kernels on x86, compared with each other."""
    row = _identity(file) | {"cpu": X86, "kernels": BOTH, "features": []}
    if line["refused"]:
        return row | {"refused": line["refused"]}
    row["delegated"] = [line["delegated"][kernels] for kernels in reversed(KERNELS)]
    return row | _compared(file, work, [(X86, kernels) for kernels in reversed(KERNELS)])


def _compared(file: File, work: Path, runs: list[tuple[str, str]]) -> Row:
    """Returns the columns of two runs, each a processor and a kind of kernels."""
    path = work / f"{file.name}.tflite"
    names = [(work / cpu / f"{file.name}.npz", kernels) for cpu, kernels in runs]
    first, second = (outputs(place, kernels) for place, kernels in names)
    row = compare(first, second, _steps(path))
    if path.with_suffix(arm_operators.EVERY).exists():
        first, second = (outputs(place, f"every_{kernels}") for place, kernels in names)
        row["operators"] = arm_operators.compare(path, first, second)
    return row


def outputs(path: Path, kernels: str) -> list[np.ndarray]:
    """Returns the outputs that a kind of kernels gave."""
    with np.load(path) as data:
        count = sum(name.startswith(f"{kernels}_") for name in data.files)
        return [data[f"{kernels}_{i}"] for i in range(count)]


def compare(expected: list[np.ndarray], found: list[np.ndarray], steps: list[float | None]) -> Row:
    """Compares the outputs of a file with those of another run.

    Args:
        expected: the outputs of the other run; there is at least one.
        found: those of this one.
        steps: the step of each output's grid, None for floats.

    Returns:
        `values` and how many of them are `equal` bit by bit, `near` (to 1e-5 of the range) and `broken` (a number in
        one run alone); the `largest` and `median` difference as a share of the range; the largest in steps, `codes`,
        and how many values have another code, `off`; both are None if no output has a grid.
    """
    shares, codes, equal, broken, off = [], [], 0, 0, 0
    for a, b, step in zip(expected, found, steps, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"One run gave {a.dtype}{a.shape}, the other {b.dtype}{b.shape}. Expected equal ones.")
        equal += int(np.count_nonzero(a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")))
        one, other = a.astype(np.float64), b.astype(np.float64)
        broken += int(np.count_nonzero(np.isfinite(one) != np.isfinite(other)))
        both = np.isfinite(one) & np.isfinite(other)
        difference = np.abs(one - other)[both]
        span = np.ptp(one[both]) if both.any() else 0.0
        shares.append(difference / (span or 1.0))
        if step is not None:
            in_steps = difference / (1 if np.issubdtype(a.dtype, np.integer) else step)
            codes.append(float(in_steps.max(initial=0.0)))
            off += int(np.count_nonzero(in_steps > 0.5))
    share = np.concatenate([part.ravel() for part in shares])
    return {
        "values": sum(array.size for array in expected),
        "equal": equal,
        "near": int(np.count_nonzero(share <= NEAR)),
        "broken": broken,
        "largest": float(f"{share.max(initial=0.0):.3g}"),
        "median": float(f"{np.median(share):.3g}") if share.size else 0.0,
        "codes": round(max(codes), 3) if codes else None,
        "off": off if codes else None,
    }


def _identity(file: File) -> Row:
    return {"file": file.name, "net": file.net, "weights": file.weights, "form": file.form}


def _steps(path: Path) -> list[float | None]:
    """Returns the step of each output's grid, None for floats."""
    from benchmarks.matrix_runtimes import output_steps
    from r2keras.export.tflite.interpreter import open_interpreter

    return output_steps(open_interpreter(path.read_bytes(), "", delegate=False))
