"""Arrays for a file's inputs in their order, and a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from r2keras._util.errors import invalid
from r2keras.export.tflite.activation_grid import Data


def matched(x: Data, names: list[str], expected: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Returns data as a list of arrays in the order of a file's inputs.

    Args:
        x: array; list of arrays; or dict by input name.
        names: the names of the file's inputs.
        expected: their shapes, samples first; -1 is any size.

    Raises:
        ValueError: wrong names, number of arrays or shapes; no samples; or different numbers of samples.
    """
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise ValueError(invalid("x", f"a dict with the keys {sorted(names)}", sorted(x)))
        x = [x[name] for name in names]
    arrays = [np.asarray(a) for a in (x if isinstance(x, (list, tuple)) else [x])]
    shapes = [array.shape for array in arrays]
    fits = [len(shape) for shape in shapes] == [len(shape) for shape in expected] and all(
        expected_size in (-1, size)
        for shape, expected_shape in zip(shapes, expected, strict=True)
        for size, expected_size in zip(shape[1:], expected_shape[1:], strict=True)
    )
    if not fits or len({shape[:1] for shape in shapes}) > 1 or 0 in (shape[0] for shape in shapes):
        raise ValueError(invalid("x", f"arrays of equal length with the shapes {expected} (-1 is any)", shapes))
    return arrays


@contextlib.contextmanager
def advancing(show: bool, total: int, label: str) -> Iterator[Callable[[int], object]]:
    """Yields a function that advances a progress bar; without `show`, a function that does nothing."""
    if not show:
        yield lambda count: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
