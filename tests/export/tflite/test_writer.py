"""Serialization: equal tables are written once, and those that only look equal are not."""

import numpy as np
import pytest

from r2keras._util import optional_packages
from r2keras.export.tflite import schema
from r2keras.export.tflite.interpreter import parse
from r2keras.export.tflite.schema import FLOAT32, INT8
from r2keras.export.tflite.structure import check_structure
from r2keras.export.tflite.writer import write


def chain(count, scales):
    """A file of `count` additions on int8 tensors with the given scales."""
    classes = optional_packages.schema()
    graph = classes.SubGraphT(tensors=[], operators=[])
    file = classes.ModelT(version=3, subgraphs=[graph], buffers=[classes.BufferT()], operatorCodes=[])
    for scale in scales:
        index = schema.add_tensor(file, graph, (1, 4), INT8)
        graph.tensors[index].quantization = schema.quantization(scale, -3)
    for i in range(count):
        operator = schema.operator(file, "ADD", 2, [i, i], [i + 1], "AddOptions", fusedActivationFunction=1)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = np.asarray([0], np.int32), np.asarray([count], np.int32)
    return file


def test_equal_tables_are_written_once():
    count = 20
    equal, different = (write(chain(count, scales)) for scales in ([0.5] * 21, np.linspace(0.1, 1, 21)))
    assert len(different) - len(equal) > 20 * count
    check_structure(equal)
    tensors = parse(equal).subgraphs[0].tensors
    assert len(tensors) == 21 and all(tensor.quantization.scale == [0.5] for tensor in tensors)
    found = [float(t.quantization.scale[0]) for t in parse(different).subgraphs[0].tensors]
    np.testing.assert_allclose(found, np.linspace(0.1, 1, 21), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_a_value_that_is_the_default_of_one_table_is_kept_in_another(value):
    file = chain(1, [0.5, 0.5])
    # The version of an operator code is 1 by default, the axis of a quantization 0.
    file.operatorCodes[0].version = 1
    file.subgraphs[0].tensors[0].quantization.quantizedDimension = value
    again = parse(write(file))
    assert again.operatorCodes[0].version == 1
    assert again.subgraphs[0].tensors[0].quantization.quantizedDimension == value


def test_equal_constants_of_float_tensors_share_their_bytes():
    file = chain(1, [0.5, 0.5])
    size = len(write(file))
    for _ in range(3):
        schema.add_tensor(file, file.subgraphs[0], (64,), FLOAT32, np.ones(64, np.float32))
    assert size + 256 < len(write(file)) < size + 2 * 256
