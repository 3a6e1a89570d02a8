"""The float file inside a compact one: what the runtime would decode at its first or every call, decoded now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._errors import invalid
from r2keras.export import packages
from r2keras.export.builder import write
from r2keras.export.decode import Constants, kind_of
from r2keras.export.flatbuffer import parse, read
from r2keras.export.prune import prune
from r2keras.export.slim import slim


def expand(small: bytes | str | os.PathLike) -> bytes:
    """Returns the plain float `.tflite` that a compact one stands for, to be made where a model is installed or loaded.

    Codes, indices and tables are decoded by the arithmetic of the file's own operators (DEQUANTIZE, ADD, MUL, CAST,
    GATHER and what lies between; in CALL_ONCE too), each rounded to float32 as LiteRT rounds: the weights are those
    that the runtime computes, bit for bit, at the speed of a float file. It takes NumPy and the LiteRT schema, no
    TensorFlow. What integer operators compute on stays as it is, as do tables that are decoded by rows; a file with
    nothing to decode keeps its values.

    Args:
        small: a `.tflite`, as bytes or as a path.

    Returns:
        The bytes of the float file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, or no `.tflite`.
        TypeError: `small` is neither bytes nor a path.
        ImportError: ai-edge-litert is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.PaletteSpec(num_bits=4))])
    >>> model, record = r2keras.calibrate(model, recipe, np.zeros((8, 64), np.float32))
    >>> path = os.path.join(tempfile.mkdtemp(), "small.tflite")
    >>> small = r2keras.export.to_litert(model, path, record)
    >>> len(expand(path)) > small.float_bytes > 3 * small.file_bytes
    True
    """
    file = load(small)
    folded = Folded(file)
    for place in folded.places:
        data = np.ascontiguousarray(folded.constants.value(*place)).view(np.uint8).ravel()
        file.buffers.append(packages.schema().BufferT(data=data))
        folded.tensor(place).buffer = len(file.buffers) - 1
    folded.finish()
    return write(file)


def load(small: bytes | str | os.PathLike) -> Any:
    """Returns the schema's `ModelT` of a file or of its bytes."""
    if isinstance(small, (bytes, bytearray, memoryview)):
        return parse(bytes(small), "`small`")
    if isinstance(small, (str, os.PathLike)):
        return read(Path(small))
    raise TypeError(invalid("small", "the bytes of a .tflite or its path", type(small)))


class Folded:
    """A file whose operators are taken out where their results follow from constants.

    Args:
        file: the schema's `ModelT`, edited in place.

    Attributes:
        constants: gives the values.
        places: subgraph and index of the tensors that other operators need: the caller stores their values.
    """

    def __init__(self, file: Any):
        self._file = file
        self.constants = Constants(file)
        self._decoders = self.constants.decoders()
        self.places: list[tuple[int, int]] = []
        for g, graph in enumerate(file.subgraphs):
            if g not in self._decoders:
                self._fold(g, graph)

    def tensor(self, place: tuple[int, int]) -> Any:
        """Returns the tensor of a place."""
        return self._file.subgraphs[place[0]].tensors[place[1]]

    def finish(self) -> None:
        """Drops the tensors, subgraphs and buffers that nothing uses any more; places are void then."""
        while len(self._file.subgraphs) - 1 in self._decoders:
            self._file.subgraphs.pop()
        for g in range(len(self._file.subgraphs)):
            prune(self._file, g)
        slim(self._file, set())

    def _fold(self, subgraph: int, graph: Any) -> None:
        """Takes the operators out of one subgraph."""
        known = [op for op in graph.operators if self._is_known(subgraph, op)]
        graph.operators = [op for op in graph.operators if not self._is_known(subgraph, op)]
        needed = {int(i) for op in graph.operators for i in op.inputs} | {int(i) for i in graph.outputs}
        graph.operators = [op for op in graph.operators if not self._is_idle(op, needed)]
        self.places += [(subgraph, int(op.outputs[0])) for op in known if int(op.outputs[0]) in needed]

    def _is_known(self, subgraph: int, operator: Any) -> bool:
        """Whether an operator's result follows from constants."""
        return len(operator.outputs) == 1 and self.constants.knows(subgraph, int(operator.outputs[0]))

    def _is_idle(self, operator: Any, needed: set[int]) -> bool:
        """Whether an operator finds a variable that nothing uses any more, or runs what is decoded already."""
        kind = kind_of(self._file, operator)
        if kind == "CALL_ONCE":
            return operator.builtinOptions.initSubgraphIndex in self._decoders
        return kind == "VAR_HANDLE" and int(operator.outputs[0]) not in needed
