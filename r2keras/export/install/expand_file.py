"""Expansion of a compact file to a float file: weights that the runtime would decode are decoded ahead of time."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid, invalid_part
from r2keras.export.tflite.cleanup import all_tensors, prune, slim
from r2keras.export.tflite.constant_values import Constants
from r2keras.export.tflite.interpreter import parse, read
from r2keras.export.tflite.schema import shape_of
from r2keras.export.tflite.structure import check_structure, unreadable
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.tflite.writer import write

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT


def expand(small: bytes | str | os.PathLike) -> bytes:
    """Expands a compact `.tflite` to a plain float one, for use where a model is installed or loaded.

    Codes, indices and tables are decoded with the arithmetic of the file's own operators (DEQUANTIZE, ADD, MUL, CAST,
    GATHER and those between them, also in CALL_ONCE), each rounded to float32 as LiteRT rounds. The weights equal those
    that the runtime computes, bit for bit, and the file runs at the speed of a float file. Expansion needs NumPy and
    the LiteRT schema, but not TensorFlow. Weights of integer operators stay as they are, and so do tables that are
    decoded by rows. A file with nothing to decode keeps its values.

    Args:
        small: a `.tflite`, as bytes or as a path.

    Returns:
        The bytes of the float file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`.
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
    with decoded(small):
        folded = Folded(file)
        values = [(position, folded.value(position)) for position in folded.needed_tensors]
    for position, value in values:
        data = np.ascontiguousarray(value).view(np.uint8).ravel()
        file.buffers.append(optional_packages.schema().BufferT(data=data))
        folded.tensor(position).buffer = len(file.buffers) - 1
    folded.finish()
    content = write(file)
    with decoded(small):
        # Decoded weights can contradict the operators that take them.
        check_structure(content)
    return content


def load(small: bytes | str | os.PathLike) -> ModelT:
    """Returns the schema's `ModelT` of a path or of bytes."""
    if isinstance(small, (bytes, bytearray, memoryview)):
        file = parse(bytes(small), "`small`")
    elif isinstance(small, (str, os.PathLike)):
        file = read(Path(small))
    else:
        raise TypeError(invalid("small", "the bytes of a .tflite or its path", type(small)))
    if any(buffer.offset > 1 for buffer in file.buffers):
        expected, received = "a file of less than 2 GiB", "one whose constants lie outside of its flatbuffer"
        raise ValueError(invalid_part("small", expected, received))
    return file


@contextlib.contextmanager
def decoded(small: bytes | str | os.PathLike) -> Iterator[None]:
    """Names the file in errors of weights that cannot be decoded."""
    try:
        with np.errstate(all="ignore"):  # Runtimes compute infinities and NaN silently.
            yield
    except ValueError as error:
        name = str(small) if isinstance(small, (str, os.PathLike)) else "`small`"
        raise unreadable(name, error) from error


class Folded:
    """A file without the operators whose results follow from constants.

    Args:
        file: the schema's `ModelT`, edited in place.

    Attributes:
        constants: computes the values.
        needed_tensors: subgraph and index of the tensors that other operators need; the caller stores their values.
    """

    def __init__(self, file: ModelT):
        self._file = file
        self.constants = Constants(file)
        self._decoders = self.constants.decoders()
        self.needed_tensors: list[tuple[int, int]] = []
        for index in range(len(file.subgraphs)):
            if index not in self._decoders:
                self._fold(Subgraph(file, index))
        # One weight may be needed in several places; thousands of them are not weights.
        total = sum(math.prod(shape_of(self.tensor(position))) for position in set(self.needed_tensors))
        if total > 16 * self.constants.most_values:
            raise ValueError(f"it has too few bytes for weights of {total:,} values")

    def tensor(self, position: tuple[int, int]) -> TensorT:
        """Returns the tensor at a subgraph and index."""
        subgraph, index = position
        return self._file.subgraphs[subgraph].tensors[index]

    def value(self, position: tuple[int, int]) -> np.ndarray:
        """Returns the values at a subgraph and index, in the shape that the file states."""
        value, shape = self.constants.value(*position), shape_of(self.tensor(position))
        if value.shape != shape:
            raise ValueError(f"a weight of shape {shape} is decoded to the shape {value.shape}")
        return value

    def finish(self) -> None:
        """Drops unused tensors, subgraphs and buffers; `needed_tensors` must not be used afterwards."""
        while len(self._file.subgraphs) - 1 in self._decoders:
            self._file.subgraphs.pop()
        for index in range(len(self._file.subgraphs)):
            prune(self._file, index)
        slim(self._file, all_tensors(self._file))

    def _fold(self, graph: Subgraph) -> None:
        """Drops the operators of one subgraph whose results follow from constants, and those without a use then."""
        known: list[OperatorT] = []
        computed: list[OperatorT] = []
        for op in graph.operators:
            (known if self._is_known(graph.index, op) else computed).append(op)
        needed = {*graph.outputs, *(tensor for op in computed for tensor in inputs_of(op))}
        graph.operators = [op for op in computed if not self._is_idle(graph, op, needed)]
        known_outputs = [outputs_of(op)[0] for op in known]
        self.needed_tensors += [(graph.index, tensor) for tensor in known_outputs if tensor in needed]

    def _is_known(self, subgraph: int, op: OperatorT) -> bool:
        """Whether the result of an operator follows from constants."""
        outputs = outputs_of(op)
        return len(outputs) == 1 and self.constants.knows(subgraph, outputs[0])

    def _is_idle(self, graph: Subgraph, op: OperatorT, needed: set[int]) -> bool:
        """Whether an operator names a variable without a use, or runs a subgraph whose results are decoded."""
        kind = graph.kind(op)
        if kind == "CALL_ONCE":
            return op.builtinOptions.initSubgraphIndex in self._decoders
        return kind == "VAR_HANDLE" and outputs_of(op)[0] not in needed
