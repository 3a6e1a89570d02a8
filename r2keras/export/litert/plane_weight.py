"""Palettes as low-bit rows of matrix products: one row of signs and one scale per plane and output."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.constant_values import stored_codes
from r2keras.export.weights.assignment import Assignment
from r2keras.export.weights.matching import Match
from r2keras.export.weights.mismatch import DECODING_TOLERANCE, broken
from r2keras.record import CompressionRecord, PalettizedTensor, sign_planes, tables_of

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

# Scale of a plane whose coefficient is 0 or vanishes: XNNPACK takes normal positive numbers only.
SMALLEST_SCALE = 1e-30


@dataclasses.dataclass(frozen=True, eq=False)
class PlaneRows:
    """A matrix of weights, `mean[r] + sum_i scale[i, r] * codes[i, r, k]`.

    Args:
        codes: int8, `(planes, rows, columns)`, -1 and 1.
        scale: float32, `(planes, rows)`, positive.
        mean: float32, one entry per row; None if all are 0.
    """

    codes: np.ndarray
    scale: np.ndarray
    mean: np.ndarray | None

    def differs(self, stored: np.ndarray, constant: np.ndarray) -> str:
        """Says how codes read back from a file differ from the record or from the float constant; "" if they agree.

        Args:
            stored: the codes in the file, in the shape of `codes`.
            constant: the float constant that they replaced, `(rows, columns)`.
        """
        wrong = np.count_nonzero(stored != self.codes)
        if wrong:
            return f"{wrong} of {stored.size} signs differ"
        values = np.einsum("ir,irk->rk", self.scale.astype(np.float64), stored)
        values += 0 if self.mean is None else self.mean[:, None]
        error = np.abs(values - constant)
        # Small values are differences of large coefficients, in a row of few weights all of them.
        largest = self.scale.sum(axis=0) + (0 if self.mean is None else np.abs(self.mean))
        is_good = error <= DECODING_TOLERANCE * largest[:, None] + len(self.codes) * SMALLEST_SCALE
        return "" if np.all(is_good) else f"a value is off by {error.max():.3g}"


@dataclasses.dataclass(eq=False)
class PlaneWeight:
    """One weight that is stored as planes.

    Args:
        tensors: indices of the planes in the subgraph.
        assignment: the float constant and the weights that it held.
        rows: what the planes hold.
        constant: values of the float constant, `(rows, columns)`.
        subgraph: index of the subgraph.
    """

    tensors: list[int]
    assignment: Assignment
    rows: PlaneRows
    constant: np.ndarray
    subgraph: int


def plane_rows(tensor: PalettizedTensor, match: Match, shape: tuple[int, ...]) -> PlaneRows | None:
    """Returns a recorded palette as planes.

    Args:
        tensor: indices, tables and scales.
        match: how the float constant holds the weight.
        shape: shape of the constant; its first axis counts the outputs.

    Returns:
        The planes; None if `sign_planes` has none, or the table or the scale changes within a row.
    """
    planes = sign_planes(tensor)
    if planes is None:
        return None
    count = shape[0]
    tables = match.layout.apply(tables_of(tensor)).reshape(count, -1)
    scale = match.layout.apply(np.broadcast_to(tensor.scale, tensor.shape)) * np.broadcast_to(match.factor, shape)
    scale = scale.reshape(count, -1)
    if np.any(tables != tables[:, :1]) or np.any(scale != scale[:, :1]):
        return None
    coefficients = (planes.coefficients[tables[:, 0]] * scale[:, :1]).T
    signs = np.where(coefficients < 0, -1, 1).astype(np.int8)
    indices = match.layout.apply(tensor.indices).reshape(count, -1)
    codes = planes.signs[:, indices] * signs[..., None]
    mean = (planes.mean[tables[:, 0]] * scale[:, 0]).astype(np.float32)
    magnitudes = np.maximum(np.abs(coefficients), SMALLEST_SCALE).astype(np.float32)
    return PlaneRows(codes, magnitudes, mean if np.any(mean) else None)


def check_planes(file: ModelT, weights: list[PlaneWeight], record: CompressionRecord) -> None:
    """Reads the planes back from a file and compares them with the record.

    Raises:
        RuntimeError: a sign or a value differs.
    """
    for item in weights:
        tensors = [file.subgraphs[item.subgraph].tensors[index] for index in item.tensors]
        # Rows end with zeros, up to whole bytes.
        stored = np.stack([stored_codes(file, tensor)[:, : item.constant.shape[1]] for tensor in tensors])
        difference = item.rows.differs(stored, item.constant)
        if difference:
            raise broken(record.tensors[item.assignment.owner].name, difference)
