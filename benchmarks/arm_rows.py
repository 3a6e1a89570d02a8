"""Rows and tables of `arm.py`: outputs of a file on two processors, compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.arm_files import File
from benchmarks.arm_runner import KERNELS
from benchmarks.common import Row, machine_lines, markdown

X86 = "x86"
BOTH = "xnnpack against built_in"
TITLES = {"xnnpack": "XNNPACK", "built_in": "built-in"}
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
        pair = [outputs(work / name / f"{file.name}.npz", kernels) for name in (X86, cpu)]
        found.append(row | compare(*pair, _steps(work / f"{file.name}.tflite")))
    return found


def row_on_x86(file: File, line: Row, work: Path) -> Row:
    """Returns the row of the two kinds of kernels on x86, compared with each other."""
    row = _identity(file) | {"cpu": X86, "kernels": BOTH, "features": []}
    if line["refused"]:
        return row | {"refused": line["refused"]}
    row["delegated"] = [line["delegated"][kernels] for kernels in reversed(KERNELS)]
    pair = [outputs(work / X86 / f"{file.name}.npz", kernels) for kernels in reversed(KERNELS)]
    return row | compare(*pair, _steps(work / f"{file.name}.tflite"))


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


def group_of(row: Row) -> str:
    """Returns the line of the tables that a row belongs to."""
    if row["weights"] == "float":
        return "float"
    form, weights = row["form"], row["weights"]
    if form.startswith("exact") and not weights.startswith("W"):
        return f"{weights.partition(' ')[0]}, {form}"
    if form.startswith(("integer", "dynamic")):
        return f"{form}, {weights.partition(' ')[0]}"
    return form


def tables(found: list[Row]) -> str:
    """Returns the tables: the difference by form, that of dynamic files, what is refused, and the machines."""
    if not found:
        return "No rows yet."
    parts = [
        "Files that are equal bit by bit, of all; the largest difference of the others, as a share of the range.",
        _table(found, _summary),
        "Integer files: the largest difference in codes; outputs with another code.",
        _table([row for row in found if row["form"].startswith("integer")], _codes),
        f"Dynamic files: the median; outputs that are further off than {NEAR:g} of the range; the largest.",
        _table([row for row in found if row["form"].startswith("dynamic")], _dynamic),
    ]
    broken = [f"{row['file']}, {row['cpu']}, {row['kernels']}: {row['refused']}" for row in found if "refused" in row]
    parts += ["Refused:", *broken] if broken else []
    return "\n\n".join([*parts, machine_lines(found, lambda row: row["net"])])


def _table(found: list[Row], cell: Callable[[list[Row]], str]) -> str:
    """Returns a table with a line per form and a column per processor and kind of kernels."""
    columns = list(dict.fromkeys((row["cpu"], row["kernels"]) for row in found))
    columns.sort(key=lambda column: (column[1] == BOTH, KERNELS.index(column[1]) if column[1] in KERNELS else 0))
    groups = list(dict.fromkeys(group_of(row) for row in sorted(found, key=lambda row: group_of(row) != "float")))
    lines = []
    for group in groups:
        of_group = [row for row in found if group_of(row) == group]
        cells = [cell([row for row in of_group if (row["cpu"], row["kernels"]) == column]) for column in columns]
        lines.append([group, *cells])
    names = [
        f"{cpu}, {TITLES[kernels]}" if kernels in TITLES else f"{cpu}: XNNPACK against built-in"
        for cpu, kernels in columns
    ]
    return markdown(["form", *names], lines)


def _summary(some: list[Row]) -> str:
    """Returns how many files are equal, and the largest difference."""
    compared = [row for row in some if "refused" not in row]
    if not some:
        return ""
    equal = sum(row["equal"] == row["values"] for row in compared)
    largest = max((row["largest"] for row in compared), default=0.0)
    broken = sum(row["broken"] for row in compared)
    text = (
        f"{equal}/{len(compared)}"
        + (f", {largest:.1e}" if largest else "")
        + (f", {broken} not finite" if broken else "")
    )
    return text + (f", {len(some) - len(compared)} refused" if len(compared) < len(some) else "")


def _codes(some: list[Row]) -> str:
    """Returns the largest difference in codes, and the share of outputs that differ."""
    compared = [row for row in some if row.get("codes") is not None]
    values, off = (sum(row[name] for row in compared) for name in ("values", "off"))
    return f"{max(row['codes'] for row in compared):g}; {100 * off / values:.2f} %" if values else ""


def _dynamic(some: list[Row]) -> str:
    """Returns the median, the share of outputs beyond float rounding, and the largest difference."""
    compared = [row for row in some if "refused" not in row]
    values, near = (sum(row[name] for row in compared) for name in ("values", "near"))
    if not values:
        return ""
    median = float(np.median([row["median"] for row in compared]))
    return f"{median:.0e}; {100 * (values - near) / values:.1f} %; {max(row['largest'] for row in compared):.1e}"
