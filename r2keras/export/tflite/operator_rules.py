"""Rules of a `.tflite` for single operators: options, optional inputs, and subgraphs that they run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from r2keras._util import optional_packages
from r2keras.export.tflite.flatbuffer import BrokenFileError
from r2keras.export.tflite.schema import kind_of

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
# Beginnings of fields of options that are at least one: a runtime divides by them, or counts up to them.
POSITIVE = ("stride", "dilation", "filter")
LARGEST_WINDOW = 2**16


def check_options(operator: OperatorT, kind: str, label: str) -> None:
    """Raises BrokenFileError unless an operator's options are of its kind, and its windows are positive.

    Args:
        operator: the operator.
        kind: the name of its code.
        label: what errors call it.
    """
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
    for position, tensor in enumerate(operator.inputs if operator.inputs is not None else []):
        if tensor == -1 and position < OPTIONAL_FROM.get(kind, len(operator.inputs)):
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
