"""Conversion of a float file with QUANTIZE and DEQUANTIZE pairs to one of integer operators."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid, invalid_part
from r2keras.export.integer.adoption import adopted_grids, quantize_outputs
from r2keras.export.integer.float_operators import (
    FLOAT_INPUT,
    LAST_SOFTMAX,
    NO_GRID,
    ROUNDED_ROWS,
    FloatOperator,
    unexpected,
)
from r2keras.export.integer.integer_constants import FLOAT_CONSTANT, constant_on, integer_constant
from r2keras.export.integer.kernel import NotIntegerError, check_ratio
from r2keras.export.integer.products import (
    Affine,
    affine_at,
    affine_operators,
    average_operator,
    fits,
    is_global_average_pool,
    is_plain_average,
)
from r2keras.export.integer.weights import IntegerWeight, add_weight
from r2keras.export.tflite.activation_grid import ActivationGrid, grid_of, set_grid
from r2keras.export.tflite.integer_operators import FUSED, RULES, Rule
from r2keras.export.tflite.schema import FLOAT32, INT8, INT32, operator, set_kind
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.assignment import Assignment
from r2keras.record import CompressionRecord

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# DEQUANTIZE takes int8 from version 2 on.
QUANTIZE_VERSION, DEQUANTIZE_VERSION = 2, 2


def needs_range(file: ModelT) -> list[int]:
    """Returns the tensors of the first subgraph that integer operators would compute if they had a grid."""
    graph = Subgraph(file)
    known = quantize_outputs(graph).keys() | adopted_grids(graph).keys()
    tensors = []
    for op in graph.operators:
        kind, output = graph.kind(op), outputs_of(op)[0]
        rule = RULES.get(kind)
        if rule is None or graph.tensor(output).type != FLOAT32 or output in known:
            continue
        if rule.output == "own" or is_global_average_pool(graph, kind, op):
            tensors.append(output)
    return tensors


class Integerizer:
    """Replaces the operators of the first subgraph, in order, by integer operators where these exist.

    Args:
        file: the schema's `ModelT`, edited in place.
        record: scales and codes.
        assignments: the weights in each constant of the first subgraph, by tensor index; None for a weight whose rows
            are rounded at run time.
        ranges: grids of tensors without one in the record.
        float_kinds: kinds of operators that the target computes on floats alone.
    """

    def __init__(
        self,
        file: ModelT,
        record: CompressionRecord,
        assignments: Mapping[int, Assignment | None],
        ranges: Mapping[int, ActivationGrid],
        float_kinds: Collection[str] = (),
    ):
        self.file = file
        self.graph = Subgraph(file)
        self.record = record
        self.assignments = assignments
        self.float_kinds = float_kinds
        self.ranges = {**ranges, **adopted_grids(self.graph)}
        self.quantize_outputs = quantize_outputs(self.graph)
        # Operators that are part of one before them.
        self.absorbed: list[OperatorT] = []
        # The int8 form of each float tensor, and the float tensors that the new operators compute too.
        self.int8_tensors: dict[int, int] = {}
        self.float_tensors = set(self.graph.inputs)
        # Outputs of QUANTIZE that an integer operator computes instead.
        self.computed: set[int] = set()
        self.operators: list[OperatorT] = []
        self.weights: list[IntegerWeight] = []
        self._float_operators: list[FloatOperator] = []
        self.float_outputs: set[int] = set()
        self.count = 0

    def run(self, io: str) -> None:
        """Replaces the operators, then the inputs and outputs.

        Args:
            io: `"float"` or `"int8"`, the type of the inputs and outputs.

        Raises:
            ValueError: no operator can compute in integers; `io` is `"int8"` and an input or output has no grid.
        """
        # On 256 levels small probabilities would round to zero, so a last softmax that returns floats stays float.
        self.float_outputs = set(self.graph.outputs) if io == "float" else set()
        for op in self.graph.operators:
            self._visit(op)
        if not self.weights:
            reason = self._float_operators[0].text if self._float_operators else "it has none"
            form = "'dynamic'" if self.record.dynamic_kernels else "'float'"
            expected = f"{form}, because no operator of the model can compute in integers"
            received = f"activations='int8', but {reason}"
            raise ValueError(invalid_part("activations", expected, received, self._remedy()))
        replaced = {tensor: self._output(tensor, io) for tensor in self.graph.outputs}
        self.graph.operators = self.operators
        if io == "int8":
            replaced |= {tensor: self._input(tensor) for tensor in self.graph.inputs}
        self._reconnect(replaced)

    def _remedy(self) -> str:
        """Returns what to do for a model of which no operator can compute in integers."""
        if self.record.dynamic_kernels:
            return "Products that round rows belong in a file with activations='dynamic'"
        if any(op.reason == NO_GRID for op in self._float_operators):
            return "Pass data=, a few hundred inputs that give ranges to what has no grid"
        return "Pass input_bits=8 and specs with activation_bits=8 to calibrate or prepare"

    @property
    def reasons(self) -> list[str]:
        """The operators that should not be float, each with its reason."""
        return unexpected(self._float_operators, self.count)

    def _visit(self, op: OperatorT) -> None:
        """Converts or keeps one operator."""
        kind, output = self.graph.kind(op), outputs_of(op)[0]
        source = next(iter(inputs_of(op)), -1)
        if any(op is other for other in self.absorbed):
            return
        if kind == "QUANTIZE":
            if output not in self.computed:
                self._quantize(op, source, output)
        elif kind == "DEQUANTIZE" and self.graph.tensor(source).type == INT8:
            self.int8_tensors[output] = source
        elif kind == "SHAPE":
            self.graph.set_inputs(op, [self.int8_tensors.get(source, source)])
            self.operators.append(op)
        else:
            try:
                self._to_integer(op, kind)
            except NotIntegerError as error:
                self._keep_float(op, kind, str(error))

    def _quantize(self, op: OperatorT, source: int, output: int) -> None:
        """Keeps a QUANTIZE of floats, or makes one from another int8 grid."""
        if source in self.int8_tensors:
            op = operator(self.file, "QUANTIZE", QUANTIZE_VERSION, [self.int8_tensors[source]], [output])
        self.operators.append(op)

    def _to_integer(self, op: OperatorT, kind: str) -> None:
        """Appends the integer form of an operator; raises NotIntegerError if there is none."""
        rule = self._rule(op, kind)
        affine = self._affine(op)
        if affine is not None:
            self._add_affine(affine)
            return
        operands = inputs_of(op)
        output = outputs_of(op)[0]
        data = operands if rule.all_inputs else operands[rule.data : rule.data + 1]
        inputs = self._int8_inputs(data, rule)
        is_global_pool = is_global_average_pool(self.graph, kind, op)
        is_average = is_plain_average(self.graph, op) and self._planned_grid(output) is not None
        has_own_grid = is_global_pool or is_average
        grids = [grid_of(self.graph.tensor(tensor)) for tensor in inputs]
        if rule.non_negative and grids[0].low < 0:
            raise NotIntegerError("its input may be negative")
        if rule.output == "joined":
            grids = [g for g, tensor in zip(grids, data, strict=True) if not self.graph.is_constant(tensor)]
        grid = self._output_grid(rule, grids, output, has_own_grid)
        version = rule.version
        if rule.kernel_axis is not None:
            bias = max(rule.data, 1) + 1
            weight = self._add_weight([operands[1], *operands[bias:]], (grids[0], grid), rule)
            operands[1:2], operands[bias:] = weight.tensors[:1], weight.tensors[1:]
            version = rule.narrow if weight.kernel.bits == 4 else rule.version
        elif rule.output == "own":
            check_ratio(math.prod(g.scale for g in grids) if kind == "MUL" else max(g.scale for g in grids), grid)
        elif rule.output == "joined":
            forms = zip(data, inputs, strict=True)
            inputs = [
                constant_on(self.graph, tensor, grid) if self.graph.is_constant(tensor) else self._on_grid(form, grid)
                for tensor, form in forms
            ]
        quantized = self._int8_output(output, grid)
        if is_global_pool:
            op = self._mean(inputs[0], quantized)
        elif has_own_grid:
            op = average_operator(self.graph, op, (inputs[0], quantized))
        else:
            operands[rule.data : rule.data + len(data)] = inputs
            self.graph.set_inputs(op, operands)
            self.graph.set_outputs(op, [quantized])
            # A later version is of options that the float operator has too, such as a fused activation function.
            set_kind(self.file, op, kind, max(version, self.file.operatorCodes[op.opcodeIndex].version))
        self.operators.append(op)
        self.count += 1

    def _int8_inputs(self, tensors: list[int], rule: Rule) -> list[int]:
        """Returns the int8 forms of an operator's activations and constants; raises NotIntegerError without one."""
        found = {tensor: self._int8_input(tensor) for tensor in tensors if not self.graph.is_constant(tensor)}
        if not found or any(tensor in self.assignments for tensor in tensors):
            raise NotIntegerError(FLOAT_CONSTANT)
        return [
            found[tensor] if tensor in found else integer_constant(self.graph, tensor, rule.constant)
            for tensor in tensors
        ]

    def _int8_output(self, output: int, grid: ActivationGrid) -> int:
        """Returns the int8 tensor of an output: that of its QUANTIZE if it is on the same grid, else a new one."""
        quantized = self.quantize_outputs.get(output)
        if quantized is not None and _equal(grid, grid_of(self.graph.tensor(quantized))):
            set_grid(self.graph.tensor(quantized), grid)
            self.computed.add(quantized)
        else:
            quantized = self._add_int8_tensor(output, grid)
        self.int8_tensors[output] = quantized
        return quantized

    def _planned_grid(self, output: int) -> ActivationGrid | None:
        """Returns the grid of an operator's output from the record or the data; None without one."""
        quantized = self.quantize_outputs.get(output)
        return self.ranges.get(output) if quantized is None else grid_of(self.graph.tensor(quantized))

    def _affine(self, op: OperatorT) -> Affine | None:
        """Returns factors and offsets per channel that an operator, or it and the next one, apply; else None."""
        affine = affine_at(self.graph, op)
        if affine is None or affine.source not in self.int8_tensors or self._planned_grid(affine.output) is None:
            return None
        is_scalar = not np.ptp(affine.factor) and not np.ptp(affine.offset)
        constants = [tensor for member in affine.operators for tensor in inputs_of(member)]
        if not fits(self.graph, affine) or any(tensor in self.assignments for tensor in constants):
            return None
        # A single scalar is a constant of the operator itself.
        return None if is_scalar and len(affine.operators) == 1 else affine

    def _add_affine(self, affine: Affine) -> None:
        """Appends a depthwise convolution, which rounds once, in place of a MUL and an ADD."""
        grid = self._planned_grid(affine.output)
        assert grid is not None  # `_affine` has checked it.
        tensors = self.int8_tensors[affine.source], self._int8_output(affine.output, grid)
        self.operators += affine_operators(self.graph, affine, tensors)
        self.absorbed += affine.operators[1:]
        self.count += len(affine.operators)

    def _rule(self, op: OperatorT, kind: str) -> Rule:
        """Returns the rule of an operator's kind; raises NotIntegerError if no rule covers the operator."""
        rule = RULES.get(kind)
        outputs = outputs_of(op)
        if any(self.assignments.get(tensor, op) is None for tensor in inputs_of(op)):
            raise NotIntegerError(ROUNDED_ROWS)
        if rule is None:
            raise NotIntegerError("it has no integer form")
        if kind in self.float_kinds:
            raise NotIntegerError("it has no integer form on this target")
        if len(outputs) != 1:
            raise NotIntegerError("it has several outputs")
        if kind == "SOFTMAX" and outputs[0] in self.float_outputs:
            raise NotIntegerError(LAST_SOFTMAX)
        activation = getattr(op.builtinOptions, "fusedActivationFunction", 0)
        if activation not in [getattr(optional_packages.schema().ActivationFunctionType, name) for name in FUSED]:
            raise NotIntegerError("its activation function has no integer form")
        return rule

    def _int8_input(self, tensor: int) -> int:
        """Returns the int8 form of an activation; raises NotIntegerError if it has none."""
        if tensor not in self.int8_tensors:
            raise NotIntegerError(FLOAT_INPUT)
        return self.int8_tensors[tensor]

    def _output_grid(self, rule: Rule, grids: list[ActivationGrid], output: int, has_own_grid: bool) -> ActivationGrid:
        """Returns the grid of an operator's output, from those of its inputs."""
        planned_grid = self._planned_grid(output)
        if rule.grid is not None:
            return rule.grid
        if rule.output == "own" or has_own_grid:
            if planned_grid is None:
                raise NotIntegerError(NO_GRID)
            return planned_grid
        if rule.output == "joined" and planned_grid is not None:
            return planned_grid
        if all(grid == grids[0] for grid in grids):
            return grids[0]
        return ActivationGrid.over(min(grid.low for grid in grids), max(grid.high for grid in grids))

    def _mean(self, source: int, output: int) -> OperatorT:
        """Returns the MEAN over height and width, which, unlike a pool, can round to any grid."""
        axes = self.graph.add_tensor((2,), INT32, np.asarray([1, 2], np.int32))
        version = RULES["MEAN"].version
        return operator(self.file, "MEAN", version, [source, axes], [output], "ReducerOptions", keepDims=True)

    def _add_weight(
        self, operands: list[int], grids: tuple[ActivationGrid, ActivationGrid], rule: Rule
    ) -> IntegerWeight:
        """Adds the integer codes and the bias of an operator between two grids."""
        assignment = self.assignments.get(operands[0])
        if assignment is None:
            raise NotIntegerError("its weight is not in the record")
        weight = add_weight(self.graph, operands, assignment, self.record, rule, grids)
        check_ratio(grids[0].scale * float(weight.kernel.scale.max()), grids[1])
        self.weights.append(weight)
        return weight

    def _on_grid(self, tensor: int, grid: ActivationGrid) -> int:
        """Returns an int8 tensor on a grid, with a QUANTIZE if it is on another one."""
        if grid_of(self.graph.tensor(tensor)) == grid:
            return tensor
        requantized = self._add_int8_tensor(tensor, grid)
        self.operators.append(operator(self.file, "QUANTIZE", QUANTIZE_VERSION, [tensor], [requantized]))
        return requantized

    def _add_int8_tensor(self, like: int, grid: ActivationGrid) -> int:
        """Adds an int8 tensor in the shape of another one."""
        index = self.graph.add_tensor(self.graph.shape(like), INT8)
        tensor = self.graph.tensor(index)
        tensor.shapeSignature = self.graph.tensor(like).shapeSignature
        set_grid(tensor, grid)
        return index

    def _keep_float(self, op: OperatorT, kind: str, reason: str) -> None:
        """Keeps an operator as it is, on dequantized inputs."""
        inputs = [tensor for tensor in inputs_of(op) if tensor >= 0]
        outputs = outputs_of(op)
        for tensor in inputs:
            self._dequantize(tensor)
        self.operators.append(op)
        self.float_tensors.update(outputs)
        if any(self.graph.tensor(tensor).type == FLOAT32 for tensor in outputs):
            owners = [held.owner for held in map(self.assignments.get, inputs) if held is not None]
            text = f"{kind} of {owners[0]!r}, {reason}" if owners else f"{kind}, {reason}"
            self._float_operators.append(FloatOperator(self.count, kind, text, reason))

    def _dequantize(self, tensor: int) -> None:
        """Appends a DEQUANTIZE unless the tensor exists in float."""
        if tensor in self.int8_tensors and tensor not in self.float_tensors:
            source = self.int8_tensors[tensor]
            self.operators.append(operator(self.file, "DEQUANTIZE", DEQUANTIZE_VERSION, [source], [tensor]))
            self.float_tensors.add(tensor)

    def _output(self, tensor: int, io: str) -> int:
        """Returns the tensor that replaces an output."""
        if io == "float" or self.graph.tensor(tensor).type != FLOAT32:
            self._dequantize(tensor)
            return tensor
        if tensor not in self.int8_tensors:
            expected = "'float', because the output of the model has no grid"
            fix = (
                "Pass output_bits=8 to calibrate or prepare, or data= here, a few hundred inputs to measure its range, "
                "if the last layer can compute in integers"
            )
            raise ValueError(invalid("io", expected, io, fix))
        return self.int8_tensors[tensor]

    def _input(self, tensor: int) -> int:
        """Returns the int8 tensor that replaces an input, and removes the QUANTIZE that computed it."""
        if self.graph.tensor(tensor).type != FLOAT32:
            return tensor
        consumers = self.graph.consumers(tensor)
        if len(consumers) != 1 or self.graph.kind(consumers[0]) != "QUANTIZE" or self.graph.is_output(tensor):
            name = self.graph.tensor(tensor).name
            expected = f"'float', because the input {name.decode() if isinstance(name, bytes) else name!r} has no grid"
            raise ValueError(invalid("io", expected, "int8", "Pass input_bits=8 to calibrate or prepare"))
        self.graph.replace(consumers[0], [])
        return outputs_of(consumers[0])[0]

    def _reconnect(self, replaced: dict[int, int]) -> None:
        """Replaces inputs and outputs of the subgraph and its signatures by other tensors."""
        graph = self.graph
        for old, new in replaced.items():
            graph.tensor(new).name = graph.tensor(old).name
            graph.tensor(new).shapeSignature = graph.tensor(old).shapeSignature
        graph.schema.inputs = [replaced.get(tensor, tensor) for tensor in graph.inputs]
        graph.schema.outputs = [replaced[tensor] for tensor in graph.outputs]
        for signature in self.file.signatureDefs or []:
            for end in (*signature.inputs, *signature.outputs):
                end.tensorIndex = replaced.get(int(end.tensorIndex), int(end.tensorIndex))


def _equal(one: ActivationGrid, other: ActivationGrid) -> bool:
    """Whether two grids are the same up to the rounding of their scales."""
    return one.zero_point == other.zero_point and abs(one.scale - other.scale) <= 1e-6 * other.scale
