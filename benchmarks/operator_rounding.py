"""Comparison of each integer operator of a file with exact arithmetic on the inputs that the operator had."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Of the schema's `TensorType`.
FLOAT32, INT8 = 0, 9
# Of the schema's `ActivationFunctionType`: ReLU and ReLU6.
LIMITS = {1: (0.0, np.inf), 3: (0.0, 6.0)}
PADDING = {0: "SAME", 1: "VALID"}


class Run:
    """A file that ran with every tensor as an output, so that all of them can be read.

    Args:
        content: the file.
        inputs: its inputs, in the order of the interpreter's.
        built_in: whether it runs on the built-in kernels, without XNNPACK.
    """

    def __init__(self, content: bytes, inputs: Sequence[np.ndarray], built_in: bool):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        everything, self.graph, self.operators = every_output(content)
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if built_in else OpResolverType.AUTO
        self.interpreter = Interpreter(model_content=everything, experimental_op_resolver_type=resolver)
        details = self.interpreter.get_input_details()
        for detail, array in zip(details, inputs, strict=True):
            self.interpreter.resize_tensor_input(detail["index"], array.shape)
        self.interpreter.allocate_tensors()
        for detail, array in zip(details, inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], array)
        self.interpreter.invoke()
        self.details = {item["index"]: item for item in self.interpreter.get_tensor_details()}

    def codes(self, tensor: int) -> np.ndarray:
        """Returns a tensor as the file holds it."""
        return self.interpreter.get_tensor(tensor)

    def grid(self, tensor: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scales and zero points of a tensor, shaped to broadcast."""
        item, codes = self.details[tensor]["quantization_parameters"], self.codes(tensor)
        shape = [1] * codes.ndim
        if len(item["scales"]) > 1:
            shape[item["quantized_dimension"]] = -1
        scale = item["scales"].astype(np.float64)
        return scale.reshape(shape), item["zero_points"].reshape(shape)

    def values(self, tensor: int) -> np.ndarray:
        """Returns the float64 values of a tensor."""
        codes = self.codes(tensor)
        if not len(self.details[tensor]["quantization_parameters"]["scales"]):
            return codes.astype(np.float64)
        scale, zero_point = self.grid(tensor)
        return scale * (codes.astype(np.float64) - zero_point)


def every_output(content: bytes) -> tuple[bytes, Any, list[tuple[str, Any]]]:
    """Returns a file with every float and 8-bit result as an output, its graph, and its operators with their kinds."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    file = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = file.subgraphs[0]
    outputs = [int(tensor) for op in graph.operators for tensor in op.outputs]
    graph.outputs = [i for i in dict.fromkeys(outputs) if graph.tensors[i].type in (FLOAT32, INT8)]
    file.signatureDefs = None
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in file.operatorCodes]
    operators = [(codes[op.opcodeIndex], op) for op in graph.operators]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file)), graph, operators


def codes_off(file: str | Path | bytes, *inputs: np.ndarray, built_in: bool = False) -> dict[str, dict[str, float]]:
    """Compares each operator's codes with the rounded result of float64 arithmetic on its own inputs.

    Args:
        file: an integer file, or its path.
        inputs: its inputs, in the order of the interpreter's.
        built_in: whether it runs on the built-in kernels, without XNNPACK.

    Returns:
        By kind of operator: `operators`, `values`, `off` (values with another code), `largest` (in codes). Kinds
        without a reference here have `operators` alone.
    """
    run = Run(file if isinstance(file, bytes) else Path(file).read_bytes(), inputs, built_in)
    found: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for kind, op in run.operators:
        output = int(op.outputs[0])
        if run.details[output]["dtype"] is not np.int8:
            continue
        row = found[kind]
        row["operators"] += 1
        exact = _exact(run, kind, op)
        if exact is None:
            continue
        scale, zero_point = run.grid(output)
        codes = run.codes(output).astype(np.float64)
        expected = np.clip(np.rint(exact.reshape(codes.shape) / scale + zero_point), -128, 127)
        row["values"] += codes.size
        row["off"] += np.count_nonzero(codes != expected)
        row["largest"] = max(row["largest"], float(np.abs(codes - expected).max(initial=0.0)))
    return {kind: dict(row) for kind, row in found.items()}


def _exact(run: Run, kind: str, op: Any) -> np.ndarray | None:
    """Returns the float64 result of an operator on its own inputs; None for kinds without a reference."""
    import tensorflow as tf

    options, inputs = op.builtinOptions, [int(tensor) for tensor in op.inputs if tensor >= 0]
    values = [run.values(tensor) for tensor in inputs]
    bias = values[2] if len(values) > 2 else 0.0
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        strides = [1, options.strideH, options.strideW, 1]
        if options.strideH != options.strideW or (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            return None
        kernel = values[1].transpose(1, 2, 3, 0)
        convolve = tf.nn.conv2d
        if kind == "DEPTHWISE_CONV_2D":
            kernel = values[1].reshape(*values[1].shape[1:3], values[0].shape[-1], -1)
            convolve = tf.nn.depthwise_conv2d
        result = convolve(values[0], kernel, strides, PADDING[options.padding]).numpy() + bias
    elif kind == "FULLY_CONNECTED":
        result = values[0].reshape(-1, values[1].shape[1]) @ values[1].T + bias
    elif kind in ("ADD", "SUB", "MUL"):
        result = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}[kind](*values)
    elif kind == "LOGISTIC":
        return 1 / (1 + np.exp(-values[0]))
    elif kind == "HARD_SWISH":
        return values[0] * np.clip(values[0] + 3, 0, 6) / 6
    elif kind == "MEAN":
        axes = tuple(int(axis) for axis in np.atleast_1d(run.codes(inputs[1])))
        return values[0].mean(axis=axes)
    elif kind == "CONCATENATION":
        return np.concatenate(values, axis=options.axis)
    elif kind == "QUANTIZE":
        return values[0]
    else:
        return None
    return np.clip(result, *LIMITS.get(getattr(options, "fusedActivationFunction", 0), (-np.inf, np.inf)))
