"""Which operators of an integer file differ between two runs of it, where their inputs were equal."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from benchmarks.operator_rounding import every_output

# Ends the names of files whose outputs are all results of operators.
EVERY = ".every"


def write(path: Path) -> None:
    """Writes, beside a file, the one whose outputs are all its float and 8-bit results."""
    path.with_suffix(EVERY).write_bytes(every_output(path.read_bytes())[0])


def compare(path: Path, expected: list[np.ndarray], found: list[np.ndarray]) -> dict[str, list[int]]:
    """Compares the operators of a file between two runs.

    Args:
        path: the file; the one of `write` ran.
        expected: the outputs of one run.
        found: those of the other.

    Returns:
        By kind of operator: the 8-bit values that came from equal inputs, how many of them differ, and the largest
        difference in codes.
    """
    _, graph, operators = every_output(path.read_bytes())
    pairs = {int(i): (one, other) for i, one, other in zip(graph.outputs, expected, found, strict=True)}
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for kind, operator in operators:
        one, other = pairs.get(int(operator.outputs[0]), (None, None))
        inputs = [pairs[int(i)] for i in operator.inputs if int(i) in pairs]
        if one is None or other is None or one.dtype != np.int8 or not all(np.array_equal(*pair) for pair in inputs):
            continue
        difference = np.abs(one.astype(int) - other.astype(int))
        row = counts[kind]
        row[0] += difference.size
        row[1] += int(np.count_nonzero(difference))
        row[2] = max(row[2], int(difference.max(initial=0)))
    return dict(counts)
