"""Samples in an order that follows from their content, and batches of equal sizes."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator

import numpy as np

from r2keras.calibration.data_checks import Batch


class Samples:
    """Samples that were read in any batches and any order, and come out in batches of their own.

    Samples are sorted by a hash of their values. Their batches, and all that is measured on them, thus depend only on
    which samples there are, and data sorted by class are mixed. Samples of different shapes never share a batch.

    Args:
        dtypes: the types of the model's inputs. Two forms of the same numbers, such as uint8 and float32, have the
            same hash. Further arrays of a part, such as labels, stay with their samples and do not affect the order.
    """

    def __init__(self, dtypes: list[str]) -> None:
        self._dtypes = dtypes
        self._parts: list[Batch] = []
        # The shapes and the hash of each sample, its part, and its row there.
        self._rows: list[tuple[tuple, bytes, int, int]] = []
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, part: Batch) -> None:
        """Adds the samples of checked arrays, one per input; the arrays are kept, not copied."""
        # Strings have no fixed size: their rows are hashed as text.
        cast = [
            array.astype(object) if dtype == "string" else array.astype(dtype)
            for array, dtype in zip(part, self._dtypes, strict=False)
        ]
        shapes = tuple(array.shape[1:] for array in cast)
        for row in range(len(part[0])):
            digest = hashlib.blake2b(digest_size=16)
            for array in cast:
                digest.update(repr(array[row].tolist()).encode() if array.dtype == object else array[row].tobytes())
            self._rows.append((shapes, digest.digest(), len(self._parts), row))
        self._parts.append(part)
        self.num_bytes += sum(array.nbytes for array in part)

    def keep(self, count: int | None) -> None:
        """Leaves `count` of the samples, chosen by their hashes; None leaves all."""
        if count is not None:
            self._rows = sorted(self._rows, key=lambda row: row[1])[:count]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields batches of at most `batch_size` samples, whose sizes differ by one at most; floats as float32."""
        for _, group in itertools.groupby(sorted(self._rows), key=lambda row: row[0]):
            rows = list(group)
            count = math.ceil(len(rows) / batch_size)
            for index in range(count):
                yield self._gathered(rows[index * len(rows) // count : (index + 1) * len(rows) // count])

    def _gathered(self, rows: list[tuple[tuple, bytes, int, int]]) -> Batch:
        """Returns some samples as arrays."""
        batch = [np.stack([self._parts[part][i][row] for _, _, part, row in rows]) for i in range(len(self._parts[0]))]
        return [array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array for array in batch]
