"""Reads back what a file for microcontrollers holds of its weights."""

from __future__ import annotations

from typing import Any

from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import FLOAT32, SEPARATOR, buffer_of, shape_of
from r2keras.export.tflm_forms import Integers
from r2keras.export.tflm_tables import LookupTable, read_lookup

DECODE, MARK = b"TFLM_DECODE", b"TFLM"
INT16 = 7
STAYS_FLOAT, OUTSIDE = "stays float", ", a factor a channel behind the operator"


def is_for_microcontrollers(file: Any) -> bool:
    """Whether `to_tflm` wrote a file."""
    return file.description == MARK


def is_decode(file: Any, op: Any) -> bool:
    """Whether an operator looks tensors up in their tables."""
    return file.operatorCodes[op.opcodeIndex].customCode == DECODE


def stored_form(file: Any, graph: Any, tensor: int) -> LookupTable | Integers | None:
    """Returns what a float tensor of a file is computed from, or None if it is computed from nothing stored."""
    maker = next((op for op in graph.operators if tensor in op.outputs), None)
    parts, shape = [] if maker is None else [graph.tensors[i] for i in maker.inputs], shape_of(graph.tensors[tensor])
    if maker is not None and is_decode(file, maker):
        first = 2 * list(maker.outputs).index(tensor)
        return read_lookup(buffer_of(file, parts[first]), buffer_of(file, parts[first + 1]), shape)
    if maker is None or kind_of(file, maker) != "DEQUANTIZE" or not buffer_of(file, parts[0]).size:
        return None
    grid = parts[0].quantization
    codes = buffer_of(file, parts[0]).view("<i2" if parts[0].type == INT16 else "i1").reshape(shape)
    return Integers(codes, float(grid.scale[0]), int(grid.zeroPoint[0]))


def stored_as(file: Any) -> dict[str, tuple[int, str]]:
    """Returns, by weight name, the bits that each of its values takes, and a note on what is stored."""
    found: dict[bytes, tuple[int, str]] = {}
    for graph in file.subgraphs:
        floats = {t.name for t in graph.tensors if t.name and t.type == FLOAT32 and buffer_of(file, t).size}
        for op in graph.operators:
            for number, output in enumerate(op.outputs):
                store = stored_form(file, graph, int(output))
                if store is not None:
                    name = graph.tensors[op.inputs[2 * number]].name
                    found[name] = (store.bits, store.note + (OUTSIDE if name in floats else ""))
        found.update(dict.fromkeys(floats - set(found), (32, STAYS_FLOAT)))
    return {one: stored for names, stored in found.items() for one in names.decode().split(SEPARATOR)}
