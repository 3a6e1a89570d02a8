"""Files of the matrix on their runtimes, without r2keras: interpreters, a loader of bundles, and output steps."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

from benchmarks.operator_rounding import codes_off

ARENA_BYTES = 2**24


@dataclasses.dataclass
class Outputs:
    """The outputs of a file.

    Args:
        arrays: one float array per output; integers are converted to the values that they represent.
        steps: the step of each output's grid; None where the file computes it in float.
    """

    arrays: list[np.ndarray]
    steps: list[float | None]


def run_litert(content: bytes, inputs: list[np.ndarray], xnnpack: bool = False) -> Outputs:
    """Runs a file on LiteRT, by default on its built-in kernels: in one batch if it has an open one, else by sample."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    file = Interpreter(model_content=content, experimental_op_resolver_type=kernels, num_threads=1)
    details, count = file.get_input_details(), len(inputs[0])
    is_open = all(list(detail["shape_signature"][:1]) == [-1] for detail in details)
    if is_open:
        for detail, array in zip(details, inputs, strict=True):
            file.resize_tensor_input(detail["index"], array.shape)
    file.allocate_tensors()
    parts = [list(inputs)] if is_open else [[array[i : i + 1] for array in inputs] for i in range(count)]
    found = []
    for part in parts:
        for detail, array in zip(details, part, strict=True):
            file.set_tensor(detail["index"], _as_input(array, detail))
        file.reset_all_variables()
        file.invoke()
        found.append([file.get_tensor(detail["index"]) for detail in file.get_output_details()])
    outputs = [np.concatenate(column) for column in zip(*found, strict=True)]
    arrays = [_as_float(array, detail) for array, detail in zip(outputs, file.get_output_details(), strict=True)]
    return Outputs(arrays, output_steps(file))


def operators_off(content: bytes, inputs: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Compares each integer operator of a file with exact arithmetic on its own inputs, on the built-in kernels."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_content=content).get_input_details()
    typed = [_as_input(array, detail) for detail, array in zip(details, inputs, strict=True)]
    return codes_off(content, *typed, built_in=True)


def run_tflm(content: bytes, inputs: list[np.ndarray], count: int) -> Outputs:
    """Runs a file with `count` outputs on LiteRT for Microcontrollers, one sample at a time."""
    from tflite_micro import runtime

    file = runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)
    found = []
    for sample in zip(*inputs, strict=True):
        for position, values in enumerate(sample):
            file.set_input(np.ascontiguousarray(values[None]), position)
        file.invoke()
        found.append([np.array(file.get_output(position)) for position in range(count)])
    arrays = [np.concatenate(column) for column in zip(*found, strict=True)]
    return Outputs(arrays, [None] * count)


def _as_input(array: np.ndarray, detail: dict) -> np.ndarray:
    """Returns an array in the type of an input, on its grid if it is an integer one."""
    scale, zero = detail["quantization"]
    if detail["dtype"] == np.int8 and scale:
        array = np.clip(np.rint(array / np.float32(scale)) + zero, -128, 127)
    return np.ascontiguousarray(array.astype(detail["dtype"]))


def _as_float(array: np.ndarray, detail: dict) -> np.ndarray:
    """Returns the values that an output represents."""
    scale, zero = detail["quantization"]
    return (array.astype(np.float32) - zero) * np.float32(scale) if array.dtype == np.int8 and scale else array


def output_steps(file) -> list[float | None]:
    """Returns the step of each output: its own scale, or that of the integers that it is made of."""
    tensors = {tensor["index"]: tensor for tensor in file.get_tensor_details()}
    made = {int(output): op for op in file._get_ops_details() for output in op["outputs"]}
    steps: list[float | None] = []
    for detail in file.get_output_details():
        index, step = detail["index"], detail["quantization"][0]
        # A reshape or a softmax may stand between the integers and the output.
        while not step and index in made and made[index]["op_name"] in ("DEQUANTIZE", "RESHAPE"):
            index = int(made[index]["inputs"][0])
            step = tensors[index]["quantization"][0]
        steps.append(float(step) or None)
    return steps


def load_bundle(bundle: bytes) -> bytes:
    """Returns the float file of a bundle, as docs/deploy/bundle_layout.md says."""
    magic, count, skeleton, size, expanded = struct.unpack_from("<8s4I", bundle)
    if magic != b"R2KBNDL1":
        raise AssertionError("The bundle does not begin with its eight bytes")
    out = bytearray(expanded)
    out[:size] = bundle[skeleton : skeleton + size]
    for row in range(count):
        numbers = struct.unpack_from("<20I", bundle, 24 + 80 * row)
        values = _decoded(bundle, numbers)
        out[numbers[0] : numbers[0] + values.nbytes] = values.tobytes()
    return bytes(out)


def _decoded(bundle: bytes, numbers: tuple[int, ...]) -> np.ndarray:
    """Returns the floats of one weight."""
    _, before, last, after, dim, bits, codes, table = numbers[:8]
    i = np.arange(before * last * after)
    row, column, vectors = i // (last * after), i // after % last, -(-last // dim)
    place = (row * vectors + column // dim) * after + i % after
    packed = np.frombuffer(bundle, np.uint8, offset=codes)
    code = packed[place * bits // 8].astype(np.int64) >> (place * bits % 8) & (2**bits - 1)
    code = np.where(code >= 2 ** (bits - 1), code - 2**bits, code)
    entry = (code + _pattern(bundle, "<i4", numbers[8:11], i)) * dim + column % dim
    values = np.frombuffer(bundle[table : table + 4 * (int(entry.max()) + 1)], "<f4")[entry]
    scale, add, multiply = (_pattern(bundle, "<f4", numbers[k : k + 3], i) for k in (11, 14, 17))
    for factor, join in ((scale, np.multiply), (add, np.add), (multiply, np.multiply)):
        values = values if factor is None else join(values, factor)
    return values


def _pattern(bundle: bytes, kind: str, pattern: tuple[int, ...], i: np.ndarray) -> np.ndarray | None:
    """Returns the numbers of a pattern for the values `i`; None without one."""
    offset, inner, count = pattern
    return np.frombuffer(bundle, kind, count, offset)[i // inner % count] if count else None
