"""A compact `.tflite` made by hand: a uniform grid, a palette and a variable that is set once, in a kilobyte."""

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite import schema
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.call_once import Once
from r2keras.export.tflite.schema import FLOAT32, INT2, INT4, INT32
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.tflite.writer import write

SIZE = 8


def compact_file():
    """Returns the bytes of the file: three dense layers of eight units."""
    classes = optional_packages.schema()
    first = classes.SubGraphT(tensors=[], operators=[])
    first.inputs = first.outputs = np.zeros(0, np.int32)
    file = classes.ModelT(version=3, subgraphs=[first], buffers=[classes.BufferT()], operatorCodes=[])
    graph = Subgraph(file)
    once = Once(file)
    rng = np.random.default_rng(0)
    tensor = graph.add_tensor((1, SIZE), FLOAT32, name="x")
    first.inputs = np.asarray([tensor], np.int32)
    weights = [_uniform(graph, rng), _palette(graph, rng), _once(graph, once, rng)]
    for weight in weights:
        result = graph.add_tensor((1, SIZE), FLOAT32, name="y")
        inputs, options = [tensor, weight, -1], "FullyConnectedOptions"
        graph.append([schema.operator(file, "FULLY_CONNECTED", 1, inputs, [result], options)])
        tensor = result
    first.outputs = np.asarray([tensor], np.int32)
    return write(file)


def _codes(graph, rng, shape, kind, bits, scale, axis=0):
    """Adds a tensor of random codes."""
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape)
    tensor = graph.add_tensor(shape, kind, pack(codes, bits))
    graph.tensor(tensor).quantization = schema.quantization(scale, 0, axis)
    return tensor


def _apply(graph, kind, inputs, shape, result=FLOAT32, options=None, **fields):
    """Adds an operator; returns its result."""
    tensor = graph.add_tensor(shape, result)
    graph.append([schema.operator(graph.file, kind, 1, inputs, [tensor], options, **fields)])
    return tensor


def _uniform(graph, rng):
    """Adds a weight on a grid with a scale per row and half a step of offset."""
    codes = _codes(graph, rng, (SIZE, SIZE), INT2, 2, np.ones(1))
    values = _apply(graph, "DEQUANTIZE", [codes], (SIZE, SIZE))
    half = graph.add_tensor((1, 1), FLOAT32, np.full((1, 1), 0.5, np.float32))
    values = _apply(graph, "ADD", [values, half], (SIZE, SIZE))
    scale = graph.add_tensor((SIZE, 1), FLOAT32, rng.random((SIZE, 1), np.float32))
    return _apply(graph, "MUL", [values, scale], (SIZE, SIZE))


def _palette(graph, rng):
    """Adds a weight that looks up pairs in a table of sixteen."""
    codes = _codes(graph, rng, (SIZE, SIZE // 2), INT4, 4, np.ones(1))
    values = _apply(graph, "DEQUANTIZE", [codes], (SIZE, SIZE // 2))
    half = graph.add_tensor((1, 1), FLOAT32, np.full((1, 1), 8, np.float32))
    values = _apply(graph, "ADD", [values, half], (SIZE, SIZE // 2))
    rows = _apply(graph, "CAST", [values], (SIZE, SIZE // 2), INT32)
    table = graph.add_tensor((16, 2), FLOAT32, rng.random((16, 2), np.float32))
    pairs = _apply(graph, "GATHER", [table, rows], (SIZE, SIZE // 2, 2))
    shape = graph.add_tensor((2,), INT32, np.asarray([SIZE, SIZE], np.int32))
    return _apply(graph, "RESHAPE", [pairs, shape], (SIZE, SIZE), newShape=np.asarray([SIZE, SIZE], np.int32))


def _once(graph, once, rng):
    """Adds a weight that a variable keeps, sliced and transposed in the subgraph that sets it."""
    codes = _codes(once.graph, rng, (SIZE, SIZE + 1), INT4, 4, rng.random(SIZE, np.float32))
    values = _apply(once.graph, "DEQUANTIZE", [codes], (SIZE, SIZE + 1))
    begin = once.graph.add_tensor((2,), INT32, np.asarray([0, 1], np.int32))
    size = once.graph.add_tensor((2,), INT32, np.asarray([SIZE, SIZE], np.int32))
    values = _apply(once.graph, "SLICE", [values, begin, size], (SIZE, SIZE))
    order = once.graph.add_tensor((2,), INT32, np.asarray([1, 0], np.int32))
    values = _apply(once.graph, "TRANSPOSE", [values, order], (SIZE, SIZE))
    weight = graph.add_tensor((SIZE, SIZE), FLOAT32)
    graph.append(once.read(graph, weight, once.keep([], values)))
    return weight
