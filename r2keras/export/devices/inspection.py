"""The content of a `.tflite` file: inputs, operators, tensors, and which runtimes take it."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from r2keras._util import optional_packages
from r2keras._util.display import Tabular
from r2keras._util.tables import add_row, new_table, shape_text
from r2keras._util.text import count
from r2keras.export.devices.ethos_u import ethos_u
from r2keras.export.runtime.delegation import delegated, why_not
from r2keras.export.runtime.tflm_model import find_arena
from r2keras.export.tflite.ethos_u import ETHOS_U, FIRST_DATA, is_compiled, is_ethos_u
from r2keras.export.tflite.interpreter import existing, parse
from r2keras.export.tflite.schema import buffer_of, name_of, shape_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.weights.decode_operator import is_decode, is_for_microcontrollers

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType
    from rich.table import Table

    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT

NPU = "ethos-u55-128"
NO_TFLM = "not tried: tflite-micro is not installed (pip install 'r2keras[tflm]', on Linux)"
NO_VELA = "not tried: ethos-u-vela is not installed (pip install 'r2keras[npu]')"
# The name of the custom operator that expands weights on microcontrollers.
DECODE = "DECODE"
NO_DECODE = "no: a file with compressed weights for microcontrollers"
# The operator of files that Vela compiled, and what the runtimes do with them.
COMPILED = f"CUSTOM {ETHOS_U.decode()}"
RUNTIMES_OF_COMPILED = {
    "LiteRT": "no: a file that is compiled for Ethos-U",
    "LiteRT for Microcontrollers": "not here: on the device, with the NPU and Arm's driver",
    "Ethos-U": "yes: compiled already",
}


@dataclasses.dataclass(frozen=True)
class InspectedTensor:
    """An input, an output or a constant of a file.

    Args:
        name: the tensor's name; "" if it has none.
        shape: its sizes; -1 is open.
        dtype: the type of its values, such as `"float32"` or `"int4"`.
        scale: step of its grid; None if it has none, or one per channel.
        zero_point: code of zero; None likewise.
        num_bytes: bytes of its values in the file; 0 for inputs and outputs.

    Example:

    >>> InspectedTensor("head/kernel", (10, 64), "int4", None, None, 320).num_bytes
    320
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class InspectedOperator:
    """An operator of a file.

    Args:
        subgraph: index of its subgraph; others than 0 are bodies of loops.
        kind: its name in the schema, such as `"CONV_2D"`; `"CUSTOM ethos-u"` for what Vela compiled.
        types: types of its data, weights and result, such as `"int8 x int4 -> int8"`.
        runs_on: `"XNNPACK"`, `"LiteRT"` (its built-in kernels), `"Ethos-U"`, or `"?"` where LiteRT does not tell: in
            loops, and in files for microcontrollers.
        reason: why XNNPACK does not run it; "" otherwise.

    Example:

    >>> InspectedOperator(0, "CONV_2D", "int8 x int8 -> int8", "XNNPACK", "").kind
    'CONV_2D'
    """

    subgraph: int
    kind: str
    types: str
    runs_on: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Inspection(Tabular):
    """The content of a file; `print` shows tables.

    Args:
        path: the file.
        file_bytes: its size.
        inputs: its inputs.
        outputs: its outputs.
        operators: its operators in the order in which they run.
        constants: its constants, the largest first.
        runtimes: a sentence for each of `"LiteRT"`, `"LiteRT for Microcontrollers"` and `"Ethos-U"`.

    Example:

    >>> Inspection("m.tflite", 1000, (), (), (), (), {}).constant_bytes
    0
    """

    path: str
    file_bytes: int
    inputs: tuple[InspectedTensor, ...]
    outputs: tuple[InspectedTensor, ...]
    operators: tuple[InspectedOperator, ...]
    constants: tuple[InspectedTensor, ...]
    runtimes: dict[str, str]

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constants; the rest of the file describes operators and tensors."""
        return sum(tensor.num_bytes for tensor in self.constants)

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain JSON."""
        return dataclasses.asdict(self)

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        return Group(self._ends(), self._operators(), self._constants(), self._runtimes())

    def _ends(self) -> Table:
        """Returns the table of inputs and outputs."""
        columns = [("", False), ("name", False), ("shape", False), ("type", False), ("grid", False)]
        table = new_table(f"{self.path}: {count(self.file_bytes)} bytes", columns)
        for role, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                grid = "" if tensor.scale is None else f"{tensor.scale:.6g} (code - {tensor.zero_point})"
                add_row(table, [role, tensor.name, shape_text(tensor.shape), tensor.dtype, grid])
        return table

    def _operators(self) -> Table:
        """Returns the table of operators, equal ones in one row."""
        columns = [("operator", False), ("types", False), ("number", True), ("runs on", False), ("reason", False)]
        table = new_table("Operators", columns, foldable="reason")
        rows = collections.Counter((op.kind, op.types, op.runs_on, op.reason) for op in self.operators)
        for (kind, types, runs_on, reason), number in rows.most_common():
            add_row(table, [kind, types, str(number), runs_on, reason])
        return table

    def _constants(self) -> Table:
        """Returns the table of the largest constants."""
        columns = [("constant", False), ("shape", False), ("type", False), ("bytes", True)]
        shown = self.constants[:20]
        rest = self.constants[20:]
        title = f"Constants: {count(self.constant_bytes)} bytes in {len(self.constants)} tensors"
        table = new_table(title, columns, foldable="constant")
        for tensor in shown:
            add_row(table, [tensor.name, shape_text(tensor.shape), tensor.dtype, count(tensor.num_bytes)])
        if rest:
            add_row(table, [f"{len(rest)} smaller ones", "", "", count(sum(tensor.num_bytes for tensor in rest))])
        return table

    def _runtimes(self) -> Table:
        """Returns the table of runtimes."""
        table = new_table("Runtimes", [("runtime", False), ("runs the file", False)], foldable="runs the file")
        for name, sentence in self.runtimes.items():
            add_row(table, [name, sentence])
        return table


def inspect(path: str | os.PathLike) -> Inspection:
    """Lists what a `.tflite` file holds, and what its runtimes do with it.

    LiteRT loads the file, and tells which operators XNNPACK takes. LiteRT for Microcontrollers runs it once, and Vela
    compiles it, where tflite-micro and ethos-u-vela are installed. A file that Vela compiled is listed without running.

    Args:
        path: a file of `to_litert`, `to_tflm` or `ethos_u`, or one that another tool wrote.

    Returns:
        Inputs, outputs, operators, constants and runtimes.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: ai-edge-litert is not installed.
        ValueError: the file is not a `.tflite`.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), file)
    >>> [(operator.kind, operator.runs_on) for operator in inspect(file).operators]
    [('FULLY_CONNECTED', 'XNNPACK')]
    """
    path = existing(path)
    content, name = path.read_bytes(), str(path)
    file = parse(content, name)
    first = Subgraph(file)
    taken, runtimes = (None, dict(RUNTIMES_OF_COMPILED)) if is_compiled(file) else _tried(path, content, first)
    constants = [_tensor(file, tensor) for tensor in _constants(file)]
    return Inspection(
        name,
        len(content),
        tuple(_tensor(file, first.tensor(index)) for index in first.inputs),
        tuple(_tensor(file, first.tensor(index)) for index in first.outputs),
        tuple(_inspected(graph, position, op, taken) for graph in subgraphs(file) for position, op in _numbered(graph)),
        tuple(sorted(constants, key=lambda tensor: -tensor.num_bytes)),
        runtimes,
    )


def _tried(path: Path, content: bytes, first: Subgraph) -> tuple[set[int] | None, dict[str, str]]:
    """Returns the positions of the operators that XNNPACK takes, if LiteRT tells, and a sentence on each runtime."""
    name = str(path)
    taken: set[int] | None = None
    litert = NO_DECODE
    if not is_for_microcontrollers(first.file):
        try:
            taken = delegated(content, name)
            litert = f"yes, {len(taken)} of {len(first.operators)} operators on XNNPACK"
        except ValueError as error:
            litert = f"no: {error}"
    npu, tflm = _on_npu(path), _on_tflm(content, name)
    return taken, {"LiteRT": litert, "LiteRT for Microcontrollers": tflm, "Ethos-U": npu}


def _numbered(graph: Subgraph) -> list[tuple[int, OperatorT]]:
    """Returns the operators of a subgraph with their positions."""
    return list(enumerate(graph.operators))


def _constants(file: ModelT) -> list[TensorT]:
    """Returns one tensor for each buffer with values."""
    by_buffer: dict[int, TensorT] = {}
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if buffer_of(file, tensor).size:
                by_buffer.setdefault(tensor.buffer, tensor)
    return list(by_buffer.values())


def _inspected(graph: Subgraph, position: int, operator: OperatorT, taken: set[int] | None) -> InspectedOperator:
    """Returns the row of one operator."""
    inputs, outputs = inputs_of(operator), outputs_of(operator)
    on_npu = is_ethos_u(graph.file, operator)
    inputs = inputs[FIRST_DATA:] if on_npu else inputs
    data = [_dtype(graph.tensor(index)) for index in inputs[:1] if index >= 0]
    weights = [_dtype(graph.tensor(index)) for index in inputs[1:2] if index >= 0 and graph.is_constant(index)]
    results = [_dtype(graph.tensor(index)) for index in outputs[:1]]
    types = f"{' x '.join(data + weights)} -> {', '.join(results)}".strip()
    if on_npu:
        return InspectedOperator(graph.index, COMPILED, types, "Ethos-U", "")
    kind = DECODE if is_decode(graph.file, operator) else graph.kind(operator)
    if taken is None or graph.index:
        return InspectedOperator(graph.index, kind, types, "?", "")
    on_xnnpack = position in taken
    reason = "" if on_xnnpack else why_not(graph, operator)
    runs_on = "XNNPACK" if on_xnnpack else "LiteRT"
    return InspectedOperator(graph.index, kind, types, runs_on, reason)


def _tensor(file: ModelT, tensor: TensorT) -> InspectedTensor:
    """Returns the row of one tensor."""
    signature = tensor.shapeSignature
    shape = shape_of(tensor) if signature is None else tuple(int(size) for size in signature)
    grid = tensor.quantization
    scales = [] if grid is None or grid.scale is None else list(grid.scale)
    scale, zero_point = (float(scales[0]), int(grid.zeroPoint[0])) if len(scales) == 1 else (None, None)
    return InspectedTensor(name_of(tensor), shape, _dtype(tensor), scale, zero_point, buffer_of(file, tensor).size)


def _dtype(tensor: TensorT) -> str:
    """Returns the name of a tensor's type."""
    members = vars(optional_packages.schema().TensorType)
    return next(name.lower() for name, code in members.items() if not name.startswith("_") and code == tensor.type)


def _on_tflm(content: bytes, name: str) -> str:
    """Returns what LiteRT for Microcontrollers does with a file."""
    if not optional_packages.has_microcontrollers():
        return NO_TFLM
    try:
        return f"yes, in {count(find_arena(content, name))} bytes of memory"
    except (ValueError, RuntimeError) as error:
        return f"no: {error}"


def _on_npu(path: os.PathLike) -> str:
    """Returns what Vela does with a file."""
    if importlib.util.find_spec("ethosu") is None:
        return NO_VELA
    try:
        report = ethos_u(path, NPU)
    except (ValueError, RuntimeError) as error:
        return f"no: {error}"
    total = report.npu_operators + report.cpu_operators
    flash = f"{report.npu_operators} of {total} operators on {NPU}, {count(report.flash_bytes)} bytes of flash"
    return f"{flash}; on the CPU: {'; '.join(report.cpu_reasons)}" if report.cpu_operators else f"yes, {flash}"
