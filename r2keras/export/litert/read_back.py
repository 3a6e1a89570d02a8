"""Stored codes read back from the finished file and compared with the record."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.constant_values import Constants
from r2keras.export.tflite.schema import buffer_of
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.decode_operator import codes_of
from r2keras.export.weights.matching import SMALLEST, Match
from r2keras.export.weights.mismatch import DECODING_TOLERANCE, broken
from r2keras.export.weights.palette import StoredPalette
from r2keras.export.weights.uniform import Stored
from r2keras.record import PalettizedTensor, Tensor

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """One weight that was written to the file.

    Args:
        subgraph: the subgraph of its codes.
        named: indices of the tensors that have its name: the codes first, then the table of a palette.
        values: subgraph and index of the float tensor that the runtime computes from them.
        tensor: the record's entry.
        match: how the weight was laid out in the float file.
        stored: what was stored.
        constant: the float constant that it replaced.
        ids: for a table that is decoded row by row, the tensor of row numbers, in the same subgraph as `values`.
        coded: constants of Huffman codes, from which the codes are decoded; empty if these are a constant themselves.
    """

    subgraph: int
    named: tuple[int, ...]
    values: tuple[int, int]
    tensor: Tensor
    match: Match
    stored: Stored | StoredPalette
    constant: np.ndarray
    ids: int | None = None
    coded: tuple[int, ...] = ()

    @property
    def constants(self) -> tuple[int, ...]:
        """Indices of the constants that have its name."""
        return (*self.coded[:1], *self.named[1:]) if self.coded else self.named

    @property
    def codes(self) -> int:
        """Index of the tensor of codes."""
        return self.named[0]


def check_written(file: ModelT, written: list[Written]) -> None:
    """Reads every stored code back from the file and compares it with the record.

    Raises:
        RuntimeError: a code differs, or the values that the runtime will compute differ from those of the float file.
    """
    constants = Constants(file)
    for item in written:
        recorded = item.tensor.integers
        decoded = codes_of(Subgraph(file, item.subgraph), item.codes)
        # The rows of an embedding may end with zeros, up to whole bytes.
        stored = decoded[tuple(slice(size) for size in item.stored.codes.shape)]
        read = dataclasses.replace(item.stored, codes=stored)
        codes = read.recorded_codes(item.match, item.constant.shape, recorded.shape)
        if not np.array_equal(codes, recorded):
            raise broken(item.tensor.name, f"{np.count_nonzero(codes != recorded)} of {codes.size} codes differ")
        if isinstance(item.tensor, PalettizedTensor):
            _check_table(file, item, item.tensor)
        values = _values_of(file, item, decoded, constants)
        off = np.abs(values - item.constant)
        if not np.all(off <= DECODING_TOLERANCE * np.abs(item.constant) + SMALLEST):
            raise broken(item.tensor.name, f"a value is off by {off.max():.3g}")


def _values_of(file: ModelT, item: Written, decoded: np.ndarray, constants: Constants) -> np.ndarray:
    """Returns the values that the runtime computes from a weight's codes; `constants` are those of the file."""
    if item.ids is not None:
        return _all_rows(file, item, item.ids).value(*item.values)
    if item.coded:
        return Constants(file, {(item.subgraph, item.codes): decoded}).value(*item.values)
    return constants.value(*item.values)


def _all_rows(file: ModelT, item: Written, ids: int) -> Constants:
    """Returns the values of a file in a run that looks up every row of a table; `ids` are the row numbers."""
    rows: np.ndarray = np.arange(len(item.constant))
    return Constants(file, {(item.values[0], ids): rows})


def _check_table(file: ModelT, item: Written, tensor: PalettizedTensor) -> None:
    """Raises RuntimeError unless the table in the file is the record's, byte for byte.

    A scale that the file stores apart from the table is checked with the values.
    """
    read = buffer_of(file, file.subgraphs[item.subgraph].tensors[item.named[1]])
    is_float = isinstance(item.stored, StoredPalette) and item.stored.table_scale is None
    recorded = tensor.table() if is_float else tensor.codebook
    if read.tobytes() != recorded.tobytes():
        raise broken(tensor.name, "the table differs")
