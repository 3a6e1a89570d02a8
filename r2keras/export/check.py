"""Checks around an export: the model and the record before it, the bytes of the file after it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models.either_keras import SourceModel
from r2keras._models.tf_keras_layers import is_a
from r2keras._models.values import check_finite, to_numpy
from r2keras._util.errors import invalid
from r2keras.export.containers import Stored
from r2keras.export.match import SMALLEST, Match
from r2keras.export.palettes import StoredPalette
from r2keras.export.tflite.constant_values import Constants, stored_codes
from r2keras.export.tflite.schema import buffer_of
from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedTensor

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

# Largest relative difference of a decoded weight from that of the float file; single precision rounds by up to 6e-8.
TOLERANCE = 1e-6
TFMOT_WRAPPERS = ("QuantizeWrapper", "QuantizeAnnotate")


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
    """

    subgraph: int
    named: tuple[int, ...]
    values: tuple[int, int]
    tensor: QuantizedTensor | PalettizedTensor
    match: Match
    stored: Stored | StoredPalette
    constant: np.ndarray
    ids: int | None = None

    @property
    def codes(self) -> int:
        """Index of the tensor of codes."""
        return self.named[0]


def check_backend() -> None:
    """Raises RuntimeError unless Keras runs on TensorFlow, whose converter makes the file."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"Export to LiteRT needs Keras on TensorFlow, and this process runs it on {backend}. Save the model "
            "as .keras, then run `KERAS_BACKEND=tensorflow r2keras-convert` on it."
        )


def check_model(source: SourceModel) -> None:
    """Raises ValueError unless all layers of a model are plain and compute in float32, and its weights are finite."""
    # Inputs last: a dtype policy sets theirs too, and the name of a layer says more.
    for path, layer in sorted(source.layers, key=lambda item: is_a(item[1], "InputLayer")):
        is_of_tfmot = is_a(layer, *TFMOT_WRAPPERS)
        if is_of_tfmot or getattr(layer, "is_r2keras_wrapper", False):
            finalize = "r2keras.tfmot.finalize" if is_of_tfmot else "r2keras.finalize"
            raise ValueError(
                f"The layer {path!r} still trains under compression. Expected an ordinary Keras model. "
                f"Call {finalize} first, and export the model and record that it returns."
            )
        if layer.compute_dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"The layer {path!r} computes in {layer.compute_dtype}. Expected float32, which LiteRT runs. Build the "
                "model again under keras.config.set_dtype_policy('float32') and copy the weights with set_weights."
            )
    for name, variable in source.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            check_finite(name, to_numpy(variable))


def check_record(source: SourceModel, record: CompressionRecord) -> None:
    """Raises unless `record` is a record, and its values are the model's, bit for bit."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "an r2keras.CompressionRecord or None", type(record)))
    weights = dict(source.weights)
    for name, tensor in record.tensors.items():
        if name not in weights:
            raise ValueError(
                f"The record does not belong to the model {source.name!r}, which has no weight {name!r}. "
                "Pass the record that came with this model."
            )
        if not np.array_equal(to_numpy(weights[name]), tensor.values()):
            raise ValueError(
                f"The record does not belong to the model {source.name!r}: the weight {name!r} has other values or "
                "another shape. Pass the record that came with this model, and do not train in between."
            )


def check_written(file: ModelT, written: list[Written]) -> None:
    """Reads every stored code back from the file and compares it with the record.

    Raises:
        RuntimeError: a code differs, or the values that the runtime will compute differ from those of the float file.
    """
    constants = Constants(file)
    for item in written:
        recorded = item.tensor.indices if isinstance(item.tensor, PalettizedTensor) else item.tensor.codes
        stored = stored_codes(file, file.subgraphs[item.subgraph].tensors[item.codes])
        read = dataclasses.replace(item.stored, codes=stored)
        codes = read.recorded_codes(item.match, item.constant.shape, recorded.shape)
        if not np.array_equal(codes, recorded):
            raise broken(item.tensor.name, f"{np.count_nonzero(codes != recorded)} of {codes.size} codes differ")
        if isinstance(item.tensor, PalettizedTensor):
            _check_table(file, item, item.tensor)
        values = (constants if item.ids is None else _all_rows(file, item)).value(*item.values)
        off = np.abs(values - item.constant)
        if not np.all(off <= TOLERANCE * np.abs(item.constant) + SMALLEST):
            raise broken(item.tensor.name, f"a value is off by {off.max():.3g}")


def _all_rows(file: ModelT, item: Written) -> Constants:
    """Returns the values of a file in a run that looks up every row of a table."""
    return Constants(file, {(item.values[0], item.ids): np.arange(len(item.constant))})


def _check_table(file: ModelT, item: Written, tensor: PalettizedTensor) -> None:
    """Raises RuntimeError unless the table in the file is the record's, byte for byte.

    A scale that the file stores apart from the table is checked with the values.
    """
    read = buffer_of(file, file.subgraphs[item.subgraph].tensors[item.named[1]])
    is_float = isinstance(item.stored, StoredPalette) and item.stored.table_scale is None
    recorded = tensor.table() if is_float else tensor.codebook
    if read.tobytes() != recorded.tobytes():
        raise broken(tensor.name, "the table differs")


def broken(name: str, reason: str) -> RuntimeError:
    """Returns the error for a file that does not hold a weight as recorded."""
    return RuntimeError(
        f"The weight {name!r} did not reach the file unchanged: {reason}. Nothing was written. "
        "This is a defect of r2keras: please report the layer and the spec."
    )
