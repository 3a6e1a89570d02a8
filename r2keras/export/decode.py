"""What a runtime will make of the constants in a file, computed in NumPy from the file alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from r2keras.export.flatbuffer import FLOAT16, FLOAT32, INT32, WIDTHS, buffer_of, kind_of, shape_of
from r2keras.export.once import CONTAINER
from r2keras.export.pack import unpack

PLAIN = {FLOAT32: "<f4", FLOAT16: "<f2", INT32: "<i4"}


def stored_codes(file: Any, tensor: Any) -> np.ndarray:
    """Returns the integers of a tensor of codes, int8, in its shape."""
    shape = shape_of(tensor)
    return unpack(buffer_of(file, tensor), WIDTHS[tensor.type], int(np.prod(shape))).reshape(shape)


class Constants:
    """The tensors of a file that follow from its constants, in every subgraph, variables of CALL_ONCE included.

    Each operator rounds to float32 as LiteRT's does, so that values are the runtime's, bit for bit.

    Args:
        file: the schema's `ModelT`; operators that are added or taken out later are not seen.
        given: values of tensors that do not follow, by subgraph and index: the numbers of rows that are looked up, say.
    """

    def __init__(self, file: Any, given: Mapping[tuple[int, int], np.ndarray] = MappingProxyType({})):
        self._file, self._given = file, given
        self._makers = [{int(i): op for op in graph.operators or [] for i in op.outputs} for graph in file.subgraphs]
        self._assigned = self._assignments()

    def knows(self, subgraph: int, tensor: int) -> bool:
        """Whether a tensor is a constant, or follows from constants by operators of `STEPS` and variables of `Once`."""
        made = self._file.subgraphs[subgraph].tensors[tensor]
        if buffer_of(self._file, made).size:
            return made.type in PLAIN or made.type in WIDTHS
        maker = self._makers[subgraph].get(tensor)
        if maker is None or made.type not in PLAIN or (kind := kind_of(self._file, maker)) not in KINDS:
            return False
        if kind == "READ_VARIABLE":
            return (source := self._source(subgraph, maker)) is not None and self.knows(*source)
        return _is_plain(maker, kind) and all(i >= 0 and self.knows(subgraph, int(i)) for i in maker.inputs)

    def value(self, subgraph: int, tensor: int) -> np.ndarray:
        """Returns the values of a tensor that `knows` is true of: float32, or integers where it holds those."""
        if (subgraph, tensor) in self._given:
            return self._given[subgraph, tensor]
        made = self._file.subgraphs[subgraph].tensors[tensor]
        data = buffer_of(self._file, made)
        if data.size:
            if made.type in WIDTHS:
                return stored_codes(self._file, made)
            return data.view(PLAIN[made.type]).reshape(shape_of(made))
        maker = self._makers[subgraph][tensor]
        kind = kind_of(self._file, maker)
        if kind == "READ_VARIABLE":
            return self.value(*self._source(subgraph, maker))
        sources = [int(i) for i in maker.inputs]
        inputs = [self.value(subgraph, i) for i in sources]
        source = sources[-1 if kind == "EMBEDDING_LOOKUP" else 0]
        return STEPS[kind](inputs, self._file.subgraphs[subgraph].tensors[source], made)

    def source(self, subgraph: int, tensor: int) -> tuple[int, int]:
        """Returns where a known tensor is computed: what a variable was set to, or the tensor itself."""
        maker = self.maker(subgraph, tensor)
        is_read = maker is not None and kind_of(self._file, maker) == "READ_VARIABLE"
        return self._source(subgraph, maker) if is_read else (subgraph, tensor)

    def maker(self, subgraph: int, tensor: int) -> Any:
        """Returns the operator that makes a tensor; None for a constant and an input."""
        return self._makers[subgraph].get(tensor)

    def decoders(self) -> set[int]:
        """Returns the subgraphs that CALL_ONCE runs to set variables, all to known values."""
        places = self._assigned.values()
        return {g for g, _ in places} - {g for g, tensor in places if not self.knows(g, tensor)}

    def _assignments(self) -> dict[bytes, tuple[int, int]]:
        """Returns the subgraph and the tensor that each variable of `Once` is set to."""
        found = {}
        for g, graph in enumerate(self._file.subgraphs):
            for op in graph.operators or []:
                name = self._variable(g, op) if kind_of(self._file, op) == "ASSIGN_VARIABLE" else None
                if name is not None:
                    found[name] = (g, int(op.inputs[1]))
        return found

    def _source(self, subgraph: int, read: Any) -> tuple[int, int] | None:
        """Returns the tensor whose values a READ_VARIABLE gives; None for a variable of the model's own."""
        return self._assigned.get(self._variable(subgraph, read))

    def _variable(self, subgraph: int, operator: Any) -> bytes | None:
        """Returns the name of the variable that an operator reads or sets; None for one of the model's own."""
        handle = self._makers[subgraph].get(int(operator.inputs[0]))
        is_ours = handle is not None and handle.builtinOptions.container == CONTAINER.encode()
        return handle.builtinOptions.sharedName if is_ours else None


def _is_plain(operator: Any, kind: str) -> bool:
    """Whether an operator's options are those that `STEPS` computes."""
    options = operator.builtinOptions
    if kind in ("ADD", "MUL"):
        return options is None or options.fusedActivationFunction == 0
    return kind != "GATHER" or options is None or (options.axis, options.batchDims) == (0, 0)


def _dequantize(inputs: list[np.ndarray], source: Any, result: Any) -> np.ndarray:
    """Returns `scale * (code - zero_point)`; half-precision floats as they are."""
    if source.type == FLOAT16:
        return inputs[0].astype(np.float32)
    quantization = source.quantization
    along = [1] * len(shape_of(source))
    along[quantization.quantizedDimension] = len(quantization.scale)
    zero_point = np.asarray(quantization.zeroPoint, np.float32).reshape(along)
    scale = np.asarray(quantization.scale, np.float32).reshape(along)
    return scale * (inputs[0].astype(np.float32) - zero_point)


def _slice(inputs: list[np.ndarray], source: Any, result: Any) -> np.ndarray:
    """Returns the values from the second input on, as many along each axis as the result has."""
    ends = zip(inputs[1].tolist(), shape_of(result), strict=True)
    return inputs[0][tuple(slice(begin, begin + size) for begin, size in ends)]


STEPS: dict[str, Callable[[list[np.ndarray], Any, Any], np.ndarray]] = {
    "DEQUANTIZE": _dequantize,
    "ADD": lambda inputs, source, result: inputs[0] + inputs[1],
    "MUL": lambda inputs, source, result: inputs[0] * inputs[1],
    "CAST": lambda inputs, source, result: inputs[0].astype(PLAIN[result.type]),
    "EMBEDDING_LOOKUP": lambda inputs, source, result: _dequantize(inputs[1:], source, result)[inputs[0]],
    "GATHER": lambda inputs, source, result: inputs[0][inputs[1]],
    "SLICE": _slice,
    "RESHAPE": lambda inputs, source, result: inputs[0].reshape(shape_of(result)),
    "TRANSPOSE": lambda inputs, source, result: inputs[0].transpose(inputs[1]),
}
KINDS = {*STEPS, "READ_VARIABLE"}
