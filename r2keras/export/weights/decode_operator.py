"""DECODE, the operator with which LiteRT for Microcontrollers expands stored weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite.constant_values import stored_codes
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.huffman import decode, is_huffman

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2keras.export.tflite.schema import ModelT, OperatorT

# The name of the custom operator.
DECODE = b"TFLM_DECODE"
# Bytes of the operator and its tensors in the file, without the values; a DEQUANTIZE takes as many.
OPERATOR_BYTES = 160
# Descriptions of files with the operator: those of `to_tflm`, and those of `to_litert`.
MARK, INTEGER_MARK = b"TFLM", b"TFLM int8"


def is_for_microcontrollers(file: ModelT) -> bool:
    """Whether a file has operators that only LiteRT for Microcontrollers runs."""
    return file.description in (MARK, INTEGER_MARK)


def is_decode(file: ModelT, op: OperatorT) -> bool:
    """Whether an operator expands stored weights."""
    return file.operatorCodes[op.opcodeIndex].customCode == DECODE


def decode_operator(file: ModelT, inputs: Sequence[int], outputs: Sequence[int]) -> OperatorT:
    """Returns a DECODE, whose code is added to the file if it has none.

    Args:
        file: the schema's `ModelT`.
        inputs: for each output, its codes, and its header with tables.
        outputs: the tensors to compute.
    """
    schema = optional_packages.schema()
    custom_codes = [code.customCode for code in file.operatorCodes]
    if DECODE not in custom_codes:
        custom = schema.BuiltinOperator.CUSTOM
        file.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=custom, deprecatedBuiltinCode=custom, customCode=DECODE, version=1)
        )
    op = schema.OperatorT(opcodeIndex=[*custom_codes, DECODE].index(DECODE))
    op.inputs, op.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
    return op


def decoded_from(decoder: OperatorT, tensor: int) -> list[int]:
    """Returns the two constants that a DECODE computes a tensor from: codes, and header with tables."""
    first = 2 * outputs_of(decoder).index(tensor)
    return inputs_of(decoder)[first : first + 2]


def huffman_codes(graph: Subgraph, tensor: int) -> np.ndarray | None:
    """Returns the int8 codes that a DECODE computes from Huffman codes, in their shape; None for other tensors."""
    decoder = graph.producer(tensor)
    if decoder is None or not is_decode(graph.file, decoder):
        return None
    packed, ancillary = (graph.data(i) for i in decoded_from(decoder, tensor))
    shape = graph.shape(tensor)
    return decode(packed, ancillary, math.prod(shape)).reshape(shape) if is_huffman(ancillary) else None


def codes_of(graph: Subgraph, tensor: int) -> np.ndarray:
    """Returns the codes of a weight, int8, in their shape: those of a constant, or decoded ones."""
    decoded = huffman_codes(graph, tensor)
    return stored_codes(graph.file, graph.tensor(tensor)) if decoded is None else decoded
