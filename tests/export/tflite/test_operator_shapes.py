"""Shapes and types of operators, on files of one operator made by hand: right ones pass, wrong ones are named."""

import numpy as np
import pytest

from r2keras._util import optional_packages
from r2keras.export.tflite.flatbuffer import BrokenFileError
from r2keras.export.tflite.operator_shapes import check_shapes
from r2keras.export.tflite.schema import FLOAT32, INT8, INT32, operator, quantization
from r2keras.export.tflite.subgraph import Subgraph

BOOL = 6
CONV = {"strideH": 2, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 2, "padding": 1}
DEPTHWISE = {**CONV, "depthMultiplier": 2}
POOL = {"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 2, "padding": 0}
TRANSPOSED = {"strideH": 2, "strideW": 2, "padding": 0}


def file_of(kind, inputs, result, options=None, name=None, result_type=FLOAT32):
    """Returns a file of one operator. A list among the inputs is a constant of integers, a tuple a shape of floats."""
    schema = optional_packages.schema()
    graph = schema.SubGraphT(tensors=[], operators=[])
    file = schema.ModelT(version=3, buffers=[schema.BufferT()], operatorCodes=[], subgraphs=[graph])
    edited = Subgraph(file)
    indices = []
    for value in inputs:
        if isinstance(value, list):
            indices.append(edited.add_tensor((len(value),), INT32, np.asarray(value, np.int32)))
        else:
            shape, element_type = value if value and isinstance(value[0], tuple) else (value, FLOAT32)
            indices.append(edited.add_tensor(shape, element_type))
    output = edited.add_tensor(result, result_type)
    graph.inputs, graph.outputs = np.asarray(indices, np.int32), np.asarray([output], np.int32)
    edited.append(
        [operator(file, kind, 1, indices, [output], name or (None if options else "NONE"), **(options or {}))]
    )
    return file


RIGHT = [
    ("TANH", [(1, 5)], (1, 5)),
    ("ADD", [(1, 5, 1), (4,)], (1, 5, 4)),
    ("FULLY_CONNECTED", [(1, 2, 4), (3, 8), (3,)], (1, 3)),
    ("CONV_2D", [(1, 7, 9, 4), (6, 3, 3, 2), (6,)], (1, 3, 5, 6), CONV, "Conv2DOptions"),
    ("DEPTHWISE_CONV_2D", [(1, 7, 9, 4), (1, 3, 3, 8)], (1, 3, 5, 8), DEPTHWISE, "DepthwiseConv2DOptions"),
    ("TRANSPOSE_CONV", [[1, 8, 6, 5], (5, 3, 3, 2), (1, 4, 3, 2)], (1, 8, 6, 5), TRANSPOSED, "TransposeConvOptions"),
    ("AVERAGE_POOL_2D", [(1, 7, 8, 2)], (1, 4, 4, 2), POOL, "Pool2DOptions"),
    ("MEAN", [(1, 4, 5, 2), [1, -2]], (1, 2), {"keepDims": False}, "ReducerOptions"),
    ("MEAN", [(1, 4, 5, 2), [1, 2]], (1, 1, 1, 2), {"keepDims": True}, "ReducerOptions"),
    ("RESHAPE", [(2, 6), [3, 4]], (3, 4)),
    ("CONCATENATION", [(1, 2, 3), (1, 5, 3)], (1, 7, 3), {"axis": -2}, "ConcatenationOptions"),
    ("TRANSPOSE", [(1, 2, 3), [2, 0, 1]], (3, 1, 2)),
    ("PAD", [(1, 2), [0, 0, 3, 1]], (1, 6)),
    ("SLICE", [(4, 6), [1, 2], [3, -1]], (3, 4)),
]
WRONG = [
    ("TANH", [(1, 5)], (1, 6), "result of shape"),
    ("ADD", [(1, 5), (4,)], (1, 5), "inputs of the shapes"),
    ("ADD", [(1, 5), ((1, 5), INT32)], (1, 5), "different types"),
    ("FULLY_CONNECTED", [(1, 9), (3, 8)], (1, 3), "9 values for rows of 8"),
    ("FULLY_CONNECTED", [(1, 8), (3, 8)], (1, 4), "result of shape"),
    ("FULLY_CONNECTED", [(1, 8), (3, 8)], (2, 3), "another size"),
    ("FULLY_CONNECTED", [(1, 8), (3, 8), (2,)], (1, 3), "bias of shape"),
    ("FULLY_CONNECTED", [(1, 8), (24,)], (1, 3), "not a matrix"),
    ("FULLY_CONNECTED", [(1, 8), ((3, 8), INT8)], (1, 3), "types that do not fit"),
    ("CONV_2D", [(1, 7, 9, 4), (6, 3, 3, 3)], (1, 3, 5, 6), CONV, "Conv2DOptions", "weights of shape"),
    ("CONV_2D", [(1, 7, 9), (6, 3, 3, 3)], (1, 3, 5, 6), CONV, "Conv2DOptions", "input of shape"),
    ("CONV_2D", [(1, 7, 9, 4), (6, 3, 3, 4)], (1, 4, 5, 6), CONV, "Conv2DOptions", "result of shape"),
    ("DEPTHWISE_CONV_2D", [(1, 7, 9, 4), (1, 3, 3, 4)], (1, 3, 5, 4), DEPTHWISE, "DepthwiseConv2DOptions", "weights"),
    (
        "TRANSPOSE_CONV",
        [[1, 9, 6, 5], (5, 3, 3, 2), (1, 4, 3, 2)],
        (1, 9, 6, 5),
        TRANSPOSED,
        "TransposeConvOptions",
        "",
    ),
    ("TRANSPOSE_CONV", [(4,), (5, 3, 3, 2), (1, 4, 3, 2)], (1, 8, 6, 5), TRANSPOSED, "TransposeConvOptions", "whole"),
    ("AVERAGE_POOL_2D", [(1, 7, 8, 2)], (1, 3, 4, 2), POOL, "Pool2DOptions", "result of shape"),
    ("MEAN", [(1, 4), [2]], (1,), {"keepDims": False}, "ReducerOptions", "axis 2 of 2"),
    ("RESHAPE", [(2, 6), [3, 4]], (3, 5), "another size"),
    ("CONCATENATION", [(1, 2, 3), (1, 5, 4)], (1, 7, 3), {"axis": 1}, "ConcatenationOptions", "do not fit"),
    ("TRANSPOSE", [(1, 2, 3), [2, 2, 1]], (3, 3, 2), "the order"),
    ("TRANSPOSE", [(1, 2), (2,)], (2, 1), "not of whole numbers"),
    ("PAD", [(1, 2), [0, 0, -3, 1]], (1, 0), "the widths"),
    ("SLICE", [(4, 6), [1, 2], [4, 4]], (4, 4), "takes"),
    ("SLICE", [(4, 6), [1], [4]], (4, 4), "a beginning of 1"),
]


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case[0])
def test_right_shapes_pass(case):
    check_shapes(file_of(*case), strict=True)
    check_shapes(file_of(*case), strict=False)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]} {case[-1]}")
def test_wrong_shapes_are_named(case):
    with pytest.raises(BrokenFileError, match=f"operator 0 of subgraph 0, {case[0]}, .*{case[-1]}"):
        check_shapes(file_of(*case[:-1]), strict=True)


def test_a_comparison_returns_truth():
    check_shapes(file_of("LESS", [(1, 5), (5,)], (1, 5), result_type=BOOL), strict=True)
    with pytest.raises(BrokenFileError, match="another type"):
        check_shapes(file_of("LESS", [(1, 5), (5,)], (1, 5)), strict=True)


def test_integers_need_a_positive_scale():
    file = file_of("TANH", [((1, 5), INT8)], (1, 5), result_type=INT8)
    for scales in ((), (1.0, 0.0), (1.0, -1.0)):
        for tensor, scale in zip(file.subgraphs[0].tensors, scales, strict=False):
            tensor.quantization = quantization(scale)
        with pytest.raises(BrokenFileError, match="positive scale"):
            check_shapes(file, strict=True)


def test_open_sizes_are_left_to_litert():
    """What follows from an open size, or from values that are not in the file, is final only on microcontrollers."""
    wide = file_of("TANH", [(4, 5)], (1, 5))
    wide.subgraphs[0].tensors[1].shapeSignature = np.array([-1, 5], np.int32)
    computed = file_of("RESHAPE", [(2, 6), ((2,), INT32)], (1, 1))
    for file in (wide, computed):
        check_shapes(file, strict=False)
        with pytest.raises(BrokenFileError):
            check_shapes(file, strict=True)
