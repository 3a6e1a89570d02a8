"""Rules of a `.tflite` for single operators: inputs, outputs, options, and subgraphs that they run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from r2keras._util import optional_packages
from r2keras.export.tflite.flatbuffer import BrokenFileError
from r2keras.export.tflite.schema import kind_of
from r2keras.export.tflite.subgraph import inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# Options whose names differ from their operator's. Operators without an entry here or in the schema take any.
OPTIONS = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "L2_POOL_2D", "MAX_POOL_2D"), "Pool2DOptions"),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN"), "ReducerOptions"),
    **dict.fromkeys(("REDUCE_ANY", "REDUCE_ALL"), "ReducerOptions"),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), "MaximumMinimumOptions"),
    **dict.fromkeys(("RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL"), "RandomOptions"),
    "L2_NORMALIZATION": "L2NormOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
}
# Fields of options that name subgraphs, by operator.
CALLS = {
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
    "CALL": ("subgraph",),
    "CALL_ONCE": ("initSubgraphIndex",),
    "STABLEHLO_COMPOSITE": ("decompositionSubgraphIndex",),
    "STABLEHLO_REDUCE": ("bodySubgraphIndex",),
    "STABLEHLO_REDUCE_WINDOW": ("bodySubgraphIndex",),
    "STABLEHLO_SCATTER": ("updateComputationSubgraphIndex",),
    "STABLEHLO_SORT": ("comparatorSubgraphIndex",),
    "STABLEHLO_WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
}
# Operators that mean nothing without their options.
NEED_OPTIONS = {
    *CALLS,
    *("VAR_HANDLE", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE"),
    *("AVERAGE_POOL_2D", "L2_POOL_2D", "MAX_POOL_2D"),
}
# The first input that may be left out, by operator; none may elsewhere.
OPTIONAL_FROM = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D"), 2),
    **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", "SVDF"), 3),
    **dict.fromkeys(("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"), 1),
    **dict.fromkeys(("BIDIRECTIONAL_SEQUENCE_RNN", "CUSTOM", "STABLEHLO_COMPOSITE"), 1),
}
_UNARY = (
    *("ABS", "AVERAGE_POOL_2D", "CAST", "CEIL", "COS", "DEPTH_TO_SPACE", "DEQUANTIZE", "ELU", "EXP", "FLOOR", "GELU"),
    *("HARD_SWISH", "L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LOG", "LOGICAL_NOT", "LOGISTIC", "LOG_SOFTMAX"),
    *("MAX_POOL_2D", "NEG", "QUANTIZE", "RANK", "READ_VARIABLE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1"),
    *("ROUND", "RSQRT", "SHAPE", "SIGN", "SIN", "SOFTMAX", "SPACE_TO_DEPTH", "SQRT", "SQUARE", "SQUEEZE", "TANH"),
    *("WHERE", "ZEROS_LIKE"),
)
_BINARY = (
    *("ADD", "ARG_MAX", "ARG_MIN", "ATAN2", "BATCH_MATMUL", "BROADCAST_ARGS", "BROADCAST_TO", "CUMSUM", "DIV", "EQUAL"),
    *("EMBEDDING_LOOKUP", "EXPAND_DIMS", "FILL", "FLOOR_DIV", "FLOOR_MOD", "GATHER", "GATHER_ND", "GREATER"),
    *("GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND", "LOGICAL_OR", "MAXIMUM", "MEAN", "MINIMUM", "MIRROR_PAD"),
    *("MUL", "NOT_EQUAL", "PAD", "POW", "PRELU", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN"),
    *("REDUCE_PROD", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SQUARED_DIFFERENCE", "SUB", "SUM"),
    *("TILE", "TRANSPOSE"),
)
COMPARISONS = {"EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"}
# Numbers of inputs and of outputs, each the least and the most, by operator; any elsewhere.
ARITY = {
    **dict.fromkeys(_UNARY, ((1, 1), (1, 1))),
    **dict.fromkeys(_BINARY, ((2, 2), (1, 1))),
    **dict.fromkeys(("SELECT", "SELECT_V2", "SLICE", "PADV2", "RANGE", "DYNAMIC_UPDATE_SLICE"), ((3, 3), (1, 1))),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SCATTER_ND"), ((3, 3), (1, 1))),
    **dict.fromkeys(("STRIDED_SLICE", "ONE_HOT"), ((4, 4), (1, 1))),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D"), ((2, 3), (1, 1))),
    **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"), ((3, 4), (1, 1))),
    **dict.fromkeys(("CONCATENATION", "PACK", "ADD_N"), ((1, 2**16), (1, 1))),
    "FULLY_CONNECTED": ((2, 3), (1, 2)),
    "RESHAPE": ((1, 2), (1, 1)),
    "UNPACK": ((1, 1), (1, 2**16)),
    "SPLIT": ((2, 2), (1, 2**16)),
    "SPLIT_V": ((3, 3), (1, 2**16)),
    "TOPK_V2": ((2, 2), (2, 2)),
    "HASHTABLE_LOOKUP": ((3, 3), (2, 2)),
    "SVDF": ((5, 5), (1, 1)),
    "UNIDIRECTIONAL_SEQUENCE_RNN": ((5, 5), (1, 1)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ((20, 24), (1, 1)),
    "BIDIRECTIONAL_SEQUENCE_LSTM": ((48, 48), (1, 2)),
    "VAR_HANDLE": ((0, 0), (1, 1)),
    "ASSIGN_VARIABLE": ((2, 2), (0, 0)),
    "CALL_ONCE": ((0, 0), (0, 0)),
}
# Beginnings of fields of options that are at least one: a runtime divides by them, or counts up to them.
POSITIVE = ("stride", "dilation", "filter")
LARGEST_WINDOW = 2**16
WAYS = ("inputs", "outputs")


def check_operator(operator: OperatorT, kind: str, label: str) -> None:
    """Raises BrokenFileError unless an operator has the inputs, outputs and options of its kind.

    Args:
        operator: the operator.
        kind: the name of its code.
        label: what errors call it.
    """
    least_most = ARITY.get(kind, ((0, 2**31), (0, 2**31)))
    for tensors, (least, most), what in zip((inputs_of(operator), outputs_of(operator)), least_most, WAYS, strict=True):
        if not least <= len(tensors) <= most:
            raise BrokenFileError(f"{label} has {len(tensors)} {what}")
    expected, expected_new = _expected(kind)
    found, found_new = operator.builtinOptionsType, operator.builtinOptions2Type
    if found not in (0, expected) and expected is not None:
        raise BrokenFileError(f"{label} has the options of another operator")
    if found_new not in (0, expected_new) and expected_new is not None:
        raise BrokenFileError(f"{label} has the options of another operator")
    options = operator.builtinOptions or operator.builtinOptions2
    if options is None and kind in NEED_OPTIONS:
        raise BrokenFileError(f"{label} has no options")
    for field, value in ({} if options is None else vars(options)).items():
        if field.startswith(POSITIVE) and isinstance(value, int) and not 1 <= value <= LARGEST_WINDOW:
            raise BrokenFileError(f"{label} has {field}={value}")
    inputs = inputs_of(operator)
    for position, tensor in enumerate(inputs):
        if tensor == -1 and position < OPTIONAL_FROM.get(kind, len(inputs)):
            raise BrokenFileError(f"{label} lacks its input {position}")


def callees(file: ModelT, operator: OperatorT) -> list[int]:
    """Returns the indices of the subgraphs that an operator runs."""
    options: Any = operator.builtinOptions or operator.builtinOptions2
    return [int(getattr(options, field)) for field in CALLS.get(kind_of(file, operator), ())]


@functools.cache
def _expected(kind: str) -> tuple[int | None, int | None]:
    """Returns the types of an operator's options in the schema's two unions; None for any."""
    schema = optional_packages.schema()
    members, new_members = vars(schema.BuiltinOptions), vars(schema.BuiltinOptions2)
    name = OPTIONS.get(kind)
    if name is not None:
        return members[name], 0
    plain = kind.replace("_", "").lower() + "options"
    old = {name.lower(): number for name, number in members.items()}
    new = {name.lower(): number for name, number in new_members.items()}
    if plain not in old and plain not in new:
        return None, None
    return old.get(plain, 0), new.get(plain, 0)
