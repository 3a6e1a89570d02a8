"""Activation grids passed through TensorFlow's converter as fake quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models import rebuild, walk
from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras._models.walk import ModelView
from r2keras._util import optional_packages
from r2keras._util.errors import invalid_part
from r2keras.export.conversion.converter import convert
from r2keras.export.tflite.activation_grid import ActivationGrid, set_grid
from r2keras.export.tflite.schema import FLOAT32, INT8, UINT8, operator
from r2keras.export.tflite.subgraph import Subgraph, subgraphs
from r2keras.record import CompressionRecord, QuantizedActivation

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

    from r2keras._models.either_keras import Layer

# DEQUANTIZE takes int8 from version 2 on.
DEQUANTIZE_VERSION = 2
# Smaller scales are passed through the converter as larger ones.
SMALLEST_SCALE = 2.0**-22
# The converter computes scales in single precision. One that differs more from the record's is another grid.
SCALE_TOLERANCE = 1e-4


class Mark(IgnoresSparseMarks):
    """Rounds to an 8-bit grid by TensorFlow's fake quantization, which the converter recognizes.

    Args:
        grid: the grid.
        name: the layer's name.
    """

    holds_constants = True

    def __init__(self, grid: QuantizedActivation, *, name: str):
        super().__init__(name=name, autocast=False)
        self.grid = grid
        self.built = True

    def call(self, inputs):
        """Returns the rounded tensor."""
        low, high = (marked_scale(self.grid.scale) * (end - self.grid.zero_point) for end in (-128, 127))
        return optional_packages.tensorflow().quantization.fake_quant_with_min_max_args(
            inputs, min=low, max=high, num_bits=8
        )


def marked_scale(scale: float) -> float:
    """Returns the scale by which the converter gets to know a grid: tiny ones, which it would widen, are made large.

    The converter widens ranges below 1e-6. A value is only affected if it is a constant, by less than 1e-4.

    >>> marked_scale(0.5), marked_scale(2.0**-40) == 2.0**56
    (0.5, True)
    """
    return scale if scale > SMALLEST_SCALE else scale * 2.0**96


def convert_marked(source: SourceModel, record: CompressionRecord, batch_size: int | None = None) -> ModelT:
    """Returns the float file of a finalized model, with QUANTIZE and DEQUANTIZE at each grid of its activations.

    Args:
        source: a model that `finalize`, `calibrate` or `r2keras.tfmot.finalize` returned.
        record: its record.
        batch_size: samples per run where the model leaves them open; None keeps them open.

    Raises:
        ValueError: the record has no activations, has some of fewer than 8 bits, or belongs to another model.
    """
    _check_grids(record)
    if not source.is_tf_keras:
        return convert(read_model(_marked(source.view, record)), batch_size)
    layers = [layer for _, layer in source.layers if _is_grid(layer)]
    _check_complete([_grid_of(_activation_name(layer.name), layer, record).name for layer in layers], record)
    try:
        for layer in layers:
            layer.marks = True
        return convert(source, batch_size)
    finally:
        for layer in layers:
            layer.marks = False


def _marked(view: ModelView, record: CompressionRecord) -> keras.Model:
    """Returns a copy of a Keras 3 model in which a `Mark` replaces every layer that rounds an activation."""
    names = []

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        if not _is_grid(layer):
            return None
        names.append(_activation_name(path))
        return Mark(_grid_of(names[-1], layer, record), name=layer.name)

    copy = rebuild.rebuild(view, replace)
    _check_complete(names, record)
    return copy


def restore_grids(file: ModelT, record: CompressionRecord) -> None:
    """Makes the converter's unsigned codes signed, and replaces its rounded scales by the record's."""
    # Recurrent states have half steps as zero points; no operator has such a grid.
    whole = [grid for grid in record.activations.values() if grid.zero_point % 1 == 0]
    grids = [ActivationGrid(grid.scale, int(grid.zero_point)) for grid in whole if grid.num_bits == 8]
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if tensor.type == UINT8 and tensor.quantization is not None and tensor.quantization.scale is not None:
                scale = float(tensor.quantization.scale[0])
                zero_point = int(tensor.quantization.zeroPoint[0]) - 128
                candidates = [grid for grid in grids if grid.zero_point == zero_point]
                distances = [abs(marked_scale(grid.scale) - scale) for grid in candidates]
                if not distances or min(distances) > SCALE_TOLERANCE * scale:
                    raise RuntimeError(
                        f"The converter returned an activation grid that the record does not have: scale={scale!r}, "
                        f"zero_point={zero_point}. Nothing was written. This is a defect of r2keras: please report it."
                    )
                tensor.type = INT8
                set_grid(tensor, candidates[int(np.argmin(distances))])
    for subgraph in subgraphs(file):
        _restore_dequantize(subgraph)


def _restore_dequantize(graph: Subgraph) -> None:
    """Adds the DEQUANTIZE that the converter leaves out between QUANTIZE and some products of floats."""
    for quantize in list(graph.operators):
        if graph.kind(quantize) != "QUANTIZE":
            continue
        codes = int(quantize.outputs[0])
        readers = [op for op in graph.consumers(codes) if graph.kind(op) not in ("DEQUANTIZE", "QUANTIZE")]
        if readers:
            like = graph.tensor(codes)
            floats = graph.add_tensor(graph.shape(codes), FLOAT32)
            graph.tensor(floats).shapeSignature = like.shapeSignature
            graph.insert_after(quantize, [operator(graph.file, "DEQUANTIZE", DEQUANTIZE_VERSION, [codes], [floats])])
            for op in readers:
                graph.replace_input(op, codes, floats)


def _check_grids(record: CompressionRecord) -> None:
    """Raises ValueError unless the record has activations, all of them of 8 bits."""
    if not record.activations:
        expected = "a record with activations, whose grids integer operators need"
        fix = "Call r2keras.calibrate or prepare with QuantSpec(..., activation_bits=8) and input_bits=8"
        if record.dynamic_kernels:
            fix = "Products that round rows, with activation_method='dynamic', need none: pass activations='dynamic'"
        raise ValueError(invalid_part("record", expected, "a record without activations", fix))
    for name, grid in record.activations.items():
        if grid.num_bits != 8:
            expected = "activations of 8 bits, as LiteRT's integer operators compute"
            received = f"the activation {name!r} of {grid.num_bits} bits"
            fix = "Use activation_bits=8 and input_bits=8, or activations='float', which supports any width"
            raise ValueError(invalid_part("record", expected, received, fix))


def _activation_name(path: str) -> str:
    """Returns the record's name of the activation that the layer at a path rounds."""
    return path.removesuffix(walk.QUANTIZED_SUFFIX)


def _is_grid(layer: Layer) -> bool:
    """Whether a layer rounds to a fixed grid."""
    return hasattr(layer, "zero_point") and getattr(layer, "holds_constants", False)


def _check_complete(names: list[str], record: CompressionRecord) -> None:
    """Raises ValueError unless `names`, the activations of the model, include all activations of the record."""
    missing = [name for name in record.activations if name not in names]
    if missing:
        raise _wrong_record(missing[0])


def _grid_of(name: str, layer: Layer, record: CompressionRecord) -> QuantizedActivation:
    """Returns the record's grid of an activation; raises ValueError if the layer has another."""
    grid = record.activations.get(name)
    if grid is None or (grid.scale, grid.zero_point) != (layer.scale, layer.zero_point):
        raise _wrong_record(name)
    return grid


def _wrong_record(name: str) -> ValueError:
    """Returns the error for a record and a model with different grids."""
    expected = "the record that came with the model"
    received = f"a record that does not belong to the model: the grids of the activation {name!r} differ"
    return ValueError(invalid_part("record", expected, received, "Pass the record that came with this model"))
