"""Arrays for a file's inputs in their order, values of its outputs, and a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from r2keras._util.errors import invalid, invalid_part
from r2keras._util.progress import progress_bar
from r2keras.export.runtime.sessions import Port
from r2keras.export.tflite.activation_grid import Data


def matched(x: Data, names: list[str], expected: list[tuple[int, ...]], argument: str = "x") -> list[np.ndarray]:
    """Returns data as a list of arrays in the order of a file's inputs.

    Args:
        x: array; list of arrays; or dict by input name.
        names: the names of the file's inputs.
        expected: their shapes, samples first; -1 is any.
        argument: what the caller calls `x`.

    Raises:
        ValueError: wrong names, number of arrays, types or shapes; no samples; or different numbers of samples.
    """
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise ValueError(invalid(argument, f"a dict with the keys {sorted(names)}", sorted(x)))
        x = [x[name] for name in names]
    arrays = [np.asarray(a) for a in (x if isinstance(x, (list, tuple)) else [x])]
    if len(arrays) != len(names):
        received = f"{len(arrays)} array{'s' * (len(arrays) != 1)}"
        fix = f"Pass a list in this order, or a dict by name, such as {{{names[0]!r}: ...}}" if names else ""
        expected_text = f"one array for each of the inputs {', '.join(map(repr, names)) or '(none)'}"
        raise ValueError(invalid_part(argument, expected_text, received, fix))
    check_numeric(arrays, argument)
    shapes = [array.shape for array in arrays]
    fits = [len(shape) for shape in shapes] == [len(shape) for shape in expected] and all(
        expected_size in (-1, size)
        for shape, expected_shape in zip(shapes, expected, strict=True)
        for size, expected_size in zip(shape[1:], expected_shape[1:], strict=True)
    )
    if not fits or len({shape[:1] for shape in shapes}) > 1 or any(shape[:1] in ((), (0,)) for shape in shapes):
        received = ", ".join(map(str, shapes))
        needed = f"arrays of equal length, with at least one sample and the shapes {expected} (-1 is any)"
        raise ValueError(invalid_part(argument, needed, f"arrays with the shapes {received}"))
    return arrays


def as_input(array: np.ndarray, port: Port) -> np.ndarray:
    """Returns an array in the type of an input; floats for a quantized integer input are quantized."""
    if port.scale and np.issubdtype(array.dtype, np.floating) and np.issubdtype(port.dtype, np.integer):
        limits = np.iinfo(port.dtype)
        array = np.clip(np.round(array / port.scale + port.zero_point), limits.min, limits.max)
    return array.astype(port.dtype, copy=False)


def as_float(array: np.ndarray, port: Port) -> np.ndarray:
    """Returns the values of an output: `scale * (code - zero_point)` for quantized integers, else the output itself."""
    if not port.scale or np.issubdtype(array.dtype, np.floating):
        return array
    return (np.float32(port.scale) * (array.astype(np.int32) - port.zero_point)).astype(np.float32)


def check_numeric(arrays: Sequence[np.ndarray], argument: str) -> None:
    """Raises ValueError for arrays of strings, objects, dates or complex numbers."""
    wrong = [array.dtype for array in arrays if array.dtype.kind not in "biuf"]
    if wrong:
        fix = "Pass real numbers: token numbers for text, real and imaginary parts as two channels"
        raise ValueError(invalid_part(argument, "arrays of numbers", f"an array of type {wrong[0]}", fix))


@contextlib.contextmanager
def advancing(show: bool, total: int, label: str) -> Iterator[Callable[[int], object]]:
    """Yields a function that advances a progress bar; without `show`, a function that does nothing."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        update(done, label)

    with progress_bar(show, total, label) as update:
        yield advance
