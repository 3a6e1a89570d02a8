"""Turns a float file with QUANTIZE and DEQUANTIZE pairs into one of integer operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.assign import Place
from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import FLOAT32, INT8, INT32, add_tensor, buffer_of, operator, set_kind, shape_of
from r2keras.export.grid import ActivationGrid, grid_of, set_grid
from r2keras.export.integer_weights import IntegerWeight, add_weight
from r2keras.export.kernels import NotIntegerError
from r2keras.export.rules import FUSED, RULES, Rule
from r2keras.record import CompressionRecord

NO_GRID = "its output has no grid in the record"
FLOAT_INPUT = "its input is float"
LAST_SOFTMAX = "its output is the model's and float"


def needs_range(file: Any) -> list[int]:
    """Returns the tensors of the first subgraph that a grid would make integers and for which there is none."""
    graph = file.subgraphs[0]
    takers = _takers(file)
    found = []
    for op in graph.operators:
        kind = kind_of(file, op)
        rule, output = RULES.get(kind), int(op.outputs[0])
        if rule is None or graph.tensors[output].type != FLOAT32 or _quantizer(file, takers, output) is not None:
            continue
        if rule.output == "own" or _averages_all(graph, kind, op):
            found.append(output)
    return found


class Integerizer:
    """Goes through the operators of the first subgraph in order and makes integer ones of those it can.

    Args:
        file: the schema's `ModelT`, edited in place.
        record: the scales and codes.
        places: the weight at each constant of the first subgraph, by tensor index.
        ranges: grids of tensors that the record has none for.
    """

    def __init__(
        self, file: Any, record: CompressionRecord, places: Mapping[int, Place], ranges: Mapping[int, ActivationGrid]
    ):
        self.file, self.graph, self.record = file, file.subgraphs[0], record
        self.places, self.ranges = places, ranges
        self.takers = _takers(file)
        self.twins: dict[int, int] = {}
        self.floats = {int(i) for i in self.graph.inputs}
        self.written: set[int] = set()
        self.operators: list[Any] = []
        self.weights: list[IntegerWeight] = []
        self._kept: list[tuple[int, str, str]] = []
        self.float_ends: set[int] = set()
        self.count = 0

    def run(self, io: str) -> None:
        """Rewrites the operators, then the inputs and outputs: `io` is `"float"` or `"int8"`.

        Raises:
            ValueError: nothing can compute in integers, or an input or output has no grid and `io` is `"int8"`.
        """
        # On 256 levels small probabilities would be zero: a last softmax that returns floats computes in float.
        self.float_ends = {int(i) for i in self.graph.outputs} if io == "float" else set()
        for op in list(self.graph.operators):
            self._visit(op)
        if not self.weights:
            why = self._kept[0][1] if self._kept else "it has none"
            raise ValueError(
                f"No operator of the model can compute in integers: {why}. Expected 8-bit inputs of the layers with "
                "quantized weights. Give calibrate or prepare input_bits=8 and specs with activation_bits=8."
            )
        ends = {int(i): self._output(int(i), io) for i in self.graph.outputs}
        self.graph.operators = self.operators
        if io == "int8":
            ends |= {int(i): self._input(int(i)) for i in self.graph.inputs}
        self._reconnect(ends)

    @property
    def reasons(self) -> list[str]:
        """Which operators stayed float, and why; without those that end the model because its output has no grid."""
        tail = {why for count, _, why in self._kept if count == self.count}
        expected = tail <= {NO_GRID, FLOAT_INPUT, LAST_SOFTMAX}
        return [text for count, text, _ in self._kept if not (expected and count == self.count)]

    def _visit(self, op: Any) -> None:
        """Handles one operator."""
        kind = kind_of(self.file, op)
        source, target = (int(op.inputs[0]) if len(op.inputs) else -1), int(op.outputs[0])
        if kind == "QUANTIZE":
            if target not in self.written:
                self._quantize(op, source, target)
        elif kind == "DEQUANTIZE" and self.graph.tensors[source].type == INT8:
            self.twins[target] = source
        elif kind == "SHAPE":
            op.inputs = np.asarray([self.twins.get(source, source)], np.int32)
            self.operators.append(op)
        else:
            try:
                self._to_integer(op, kind)
            except NotIntegerError as why:
                self._stay_float(op, kind, str(why))

    def _quantize(self, op: Any, source: int, target: int) -> None:
        """Keeps a QUANTIZE, of floats or of integers on another grid."""
        if source in self.twins:
            op = operator(self.file, "QUANTIZE", 2, [self.twins[source]], [target])
        self.operators.append(op)

    def _to_integer(self, op: Any, kind: str) -> None:
        """Appends the integer form of an operator; raises NotIntegerError if there is none."""
        rule = RULES.get(kind)
        if rule is None:
            raise NotIntegerError("there is no integer form of it")
        if len(op.outputs) != 1:
            raise NotIntegerError("it has several outputs")
        if kind == "SOFTMAX" and int(op.outputs[0]) in self.float_ends:
            raise NotIntegerError(LAST_SOFTMAX)
        fused = getattr(op.builtinOptions, "fusedActivationFunction", 0)
        if fused not in [getattr(packages.schema().ActivationFunctionType, name) for name in FUSED]:
            raise NotIntegerError("its activation function has no integer form")
        count = len(op.inputs) if rule.all_inputs else 1
        inputs = [self._twin(int(i)) for i in op.inputs[:count]]
        output = int(op.outputs[0])
        after = _quantizer(self.file, self.takers, output)
        wanted = self.ranges.get(output) if after is None else grid_of(self.graph.tensors[after])
        grid = self._grid(kind, rule, op, inputs, wanted)
        rest = [int(i) for i in op.inputs[count:]]
        version = rule.version
        if rule.kernel_axis is not None:
            rest, version = self._kernel(rule, inputs[0], rest, grid)
        if kind == "CONCATENATION":
            inputs = [self._regrid(i, grid) for i in inputs]
        if after is not None and grid == wanted:
            self.twins[output] = after
            self.written.add(after)
        else:
            self.twins[output] = self._new_twin(output, grid)
        op.inputs = np.asarray([*inputs, *rest], np.int32)
        op.outputs = np.asarray([self.twins[output]], np.int32)
        if _averages_all(self.graph, kind, op):
            op = self._mean(inputs[0], self.twins[output])
        else:
            set_kind(self.file, op, kind, version)
        self.operators.append(op)
        self.count += 1

    def _twin(self, tensor: int) -> int:
        """Returns the integer form of an activation."""
        if tensor not in self.twins:
            constant = tensor >= 0 and buffer_of(self.file, self.graph.tensors[tensor]).size
            raise NotIntegerError("it computes with a float constant" if constant else FLOAT_INPUT)
        return self.twins[tensor]

    def _grid(self, kind: str, rule: Rule, op: Any, inputs: list[int], wanted: ActivationGrid | None) -> ActivationGrid:
        """Returns the grid of an operator's output; `wanted` is the one that the record or the data give."""
        if rule.output == "fixed":
            return rule.grid
        if rule.output == "own" or _averages_all(self.graph, kind, op):
            if wanted is None:
                raise NotIntegerError(NO_GRID)
            return wanted
        grids = [grid_of(self.graph.tensors[i]) for i in inputs]
        same = all(grid == grids[0] for grid in grids)
        return grids[0] if same else ActivationGrid.over(min(g.low for g in grids), max(g.high for g in grids))

    def _mean(self, source: int, target: int) -> Any:
        """Returns the operator that averages over height and width, to any grid."""
        axes = add_tensor(self.file, self.graph, (2,), INT32, np.asarray([1, 2], np.int32))
        version = RULES["MEAN"].version
        return operator(self.file, "MEAN", version, [source, axes], [target], "ReducerOptions", keepDims=True)

    def _kernel(self, rule: Rule, source: int, rest: list[int], grid: ActivationGrid) -> tuple[list[int], int]:
        """Adds integer codes and bias; returns their tensors and the operator's version."""
        place = self.places.get(rest[0])
        if place is None:
            raise NotIntegerError("its weight is not in the record")
        weight = add_weight(self.file, rest, place, self.record, rule, (grid_of(self.graph.tensors[source]), grid))
        self.weights.append(weight)
        return weight.tensors, rule.narrow if weight.kernel.bits == 4 else rule.version

    def _regrid(self, tensor: int, grid: ActivationGrid) -> int:
        """Returns integers on another grid."""
        if grid_of(self.graph.tensors[tensor]) == grid:
            return tensor
        made = self._new_twin(tensor, grid)
        self.operators.append(operator(self.file, "QUANTIZE", 2, [tensor], [made]))
        return made

    def _new_twin(self, like: int, grid: ActivationGrid) -> int:
        """Adds an int8 tensor of another's shape."""
        source = self.graph.tensors[like]
        made = add_tensor(self.file, self.graph, shape_of(source), INT8)
        self.graph.tensors[made].shapeSignature = source.shapeSignature
        set_grid(self.graph.tensors[made], grid)
        return made

    def _stay_float(self, op: Any, kind: str, why: str) -> None:
        """Keeps an operator as it is, on dequantized inputs."""
        inputs = [int(i) for i in op.inputs if i >= 0]
        for i in inputs:
            self._dequantize(i)
        outputs = [int(i) for i in op.outputs]
        self.operators.append(op)
        self.floats.update(outputs)
        if any(self.graph.tensors[i].type == FLOAT32 for i in outputs):
            owners = [self.places[i].owner for i in inputs if i in self.places]
            text = f"{kind} of {owners[0]!r}, {why}" if owners else f"{kind}, {why}"
            self._kept.append((self.count, text, why))

    def _dequantize(self, tensor: int) -> None:
        """Appends a DEQUANTIZE unless the tensor is there in float."""
        if tensor in self.twins and tensor not in self.floats:
            self.operators.append(operator(self.file, "DEQUANTIZE", 2, [self.twins[tensor]], [tensor]))
            self.floats.add(tensor)

    def _output(self, tensor: int, io: str) -> int:
        """Returns the tensor that stands for an output."""
        if io == "float" or self.graph.tensors[tensor].type != FLOAT32:
            self._dequantize(tensor)
            return tensor
        if tensor not in self.twins:
            raise ValueError(
                "The output of the model has no grid, so it cannot be int8. Expected data to find its range from, and "
                "a last layer on integers. Pass data=, a few hundred inputs, or io='float'."
            )
        return self.twins[tensor]

    def _input(self, tensor: int) -> int:
        """Returns the integers that stand for an input, and drops the QUANTIZE that made them."""
        if self.graph.tensors[tensor].type != FLOAT32:
            return tensor
        takers = [op for op in self.operators if tensor in op.inputs]
        if len(takers) != 1 or kind_of(self.file, takers[0]) != "QUANTIZE" or tensor in self.graph.outputs:
            name = self.graph.tensors[tensor].name
            raise ValueError(
                f"The input {name.decode() if isinstance(name, bytes) else name!r} has no grid, so it cannot be int8. "
                "Expected a record with the inputs' grids. Call calibrate or prepare with input_bits=8, or io='float'."
            )
        self.operators.remove(takers[0])
        return int(takers[0].outputs[0])

    def _reconnect(self, ends: dict[int, int]) -> None:
        """Puts tensors in the places of inputs and outputs."""
        graph = self.graph
        for old, new in ends.items():
            graph.tensors[new].name = graph.tensors[old].name
            graph.tensors[new].shapeSignature = graph.tensors[old].shapeSignature
        graph.inputs = [ends.get(int(i), int(i)) for i in graph.inputs]
        graph.outputs = [ends[int(i)] for i in graph.outputs]
        for signature in self.file.signatureDefs or []:
            for end in (*signature.inputs, *signature.outputs):
                end.tensorIndex = ends.get(int(end.tensorIndex), int(end.tensorIndex))


def _takers(file: Any) -> dict[int, list[Any]]:
    """Returns the operators that take each tensor of the first subgraph."""
    found: dict[int, list[Any]] = {}
    for op in file.subgraphs[0].operators:
        for i in map(int, op.inputs if op.inputs is not None else ()):
            found.setdefault(i, []).append(op)
    return found


def _quantizer(file: Any, takers: dict[int, list[Any]], tensor: int) -> int | None:
    """Returns the integers that a tensor is quantized to, if nothing takes it as float."""
    ops = takers.get(tensor, [])
    if not ops or tensor in file.subgraphs[0].outputs or any(kind_of(file, op) != "QUANTIZE" for op in ops):
        return None
    return int(ops[0].outputs[0])


def _averages_all(graph: Any, kind: str, op: Any) -> bool:
    """Whether an operator is a pool that averages over all of height and width: MEAN does so, to any grid."""
    if kind != "AVERAGE_POOL_2D":
        return False
    sizes, reduced = (shape_of(graph.tensors[int(i)])[1:3] for i in (op.inputs[0], op.outputs[0]))
    options = op.builtinOptions
    whole = sizes == (options.filterHeight, options.filterWidth) and not options.fusedActivationFunction
    return reduced == (1, 1) and whole
