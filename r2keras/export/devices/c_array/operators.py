"""Operators of LiteRT for Microcontrollers, and the methods of its resolver that register them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras._util.errors import invalid_part
from r2keras.export.tflite.ethos_u import is_ethos_u
from r2keras.export.tflite.schema import INT2, INT4, kind_of
from r2keras.export.tflite.subgraph import inputs_of, subgraphs
from r2keras.export.weights.decode_operator import is_decode

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

# Names in the schema's BuiltinOperator that `MicroMutableOpResolver` has a method for.
_OPERATORS = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
LOG_SOFTMAX LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
OPERATORS = frozenset(_OPERATORS.split())
# The operator of packed weights, which the schema lists as a custom one.
DECODE = "DECODE"
# The operator of an NPU, likewise.
NPU = "ETHOS_U"
# Methods whose names do not follow from those of the operators.
IRREGULAR = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
# How to get a file that the runtime can run.
FIX = (
    "Write the file with `to_tflm`, or with `to_litert` and target='mcu', and replace layers that need other operators"
)


def method(operator: str) -> str:
    """Returns the method of `tflite::MicroMutableOpResolver` that registers an operator.

    Example:

    >>> method("DEPTHWISE_CONV_2D"), method("SELECT_V2"), method("PADV2")
    ('AddDepthwiseConv2D', 'AddSelectV2', 'AddPadV2')
    """
    parts = operator.split("_")
    return IRREGULAR.get(operator, "Add" + "".join(part if part == "2D" else part.capitalize() for part in parts))


def operators_of(file: ModelT, name: str) -> list[str]:
    """Returns the names of the operators that a file uses, sorted.

    Args:
        file: the parsed file.
        name: what errors call it.

    Raises:
        ValueError: LiteRT for Microcontrollers lacks one of them.
    """
    operators = [op for graph in file.subgraphs for op in graph.operators]
    used = {DECODE if is_decode(file, op) else NPU if is_ethos_u(file, op) else kind_of(file, op) for op in operators}
    lacking = sorted(used - OPERATORS - {DECODE, NPU})
    if lacking:
        expected = "a file with operators that LiteRT for Microcontrollers has"
        raise ValueError(invalid_part("path", expected, f"{name} with {', '.join(lacking)}", FIX))
    return sorted(used)


def check_dense(file: ModelT, name: str) -> None:
    """Raises ValueError if a dense layer has packed weights, which the runtime does not multiply."""
    for graph in subgraphs(file):
        for op in graph.operators:
            if graph.kind(op) == "FULLY_CONNECTED" and graph.tensor(inputs_of(op)[1]).type in (INT4, INT2):
                expected = "dense layers with weights of 8 bits, which LiteRT for Microcontrollers multiplies"
                fix = "Write the file with to_litert(..., target='mcu'), or with `to_tflm`"
                raise ValueError(invalid_part("path", expected, f"{name} with packed weights in a dense layer", fix))
