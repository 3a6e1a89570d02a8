"""Producers, consumers and edits of a subgraph, on files of a few operators made by hand."""

import numpy as np
import pytest

from r2keras._util import optional_packages
from r2keras.export.tflite.interpreter import parse
from r2keras.export.tflite.schema import FLOAT32, INT32, operator, quantization
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.tflite.writer import write


def chain_file(length: int):
    """Returns a file of ADD operators, `x -> x + x -> ...`, with `length` of them."""
    schema = optional_packages.schema()
    graph = schema.SubGraphT(tensors=[], operators=[])
    file = schema.ModelT(version=3, buffers=[schema.BufferT()], operatorCodes=[], subgraphs=[graph])
    for _ in range(length + 1):
        Subgraph(file).add_tensor((2,), FLOAT32)
    graph.inputs, graph.outputs = np.asarray([0], np.int32), np.asarray([length], np.int32)
    graph.operators = [operator(file, "ADD", 1, [i, i], [i + 1]) for i in range(length)]
    return file


def add(graph, inputs, outputs):
    """Returns an ADD of a graph."""
    return operator(graph.file, "ADD", 1, inputs, outputs)


def test_each_tensor_has_a_producer_and_consumers():
    graph = Subgraph(chain_file(3))
    first, second, third = graph.operators
    assert [graph.producer(i) for i in range(4)] == [None, first, second, third]
    assert [list(graph.consumers(i)) for i in range(4)] == [[first], [second], [third], []]
    assert [graph.is_output(i) for i in range(4)] == [False, False, False, True]


def test_an_operator_that_reads_a_tensor_twice_is_one_consumer():
    graph = Subgraph(chain_file(1))
    assert len(graph.consumers(0)) == 1


def test_indices_are_plain_integers():
    graph = Subgraph(parse(write(chain_file(2))))
    indices = [*graph.inputs, *graph.outputs, *graph.producers, *inputs_of(graph.operators[0])]
    assert {type(index) for index in indices} == {int}


def test_an_operator_without_vectors_reads_and_computes_nothing():
    bare = optional_packages.schema().OperatorT()
    assert inputs_of(bare) == outputs_of(bare) == []


def test_a_subgraph_without_operators_has_none():
    file = chain_file(0)
    file.subgraphs[0].operators = None
    graph = Subgraph(file)
    assert list(graph.operators) == []
    assert graph.producer(0) is None
    graph.append([add(graph, [0, 0], [0])])
    assert len(graph.operators) == 1


def test_a_constant_has_data_and_an_omitted_input_is_none():
    graph = Subgraph(chain_file(1))
    axis = graph.add_tensor((2,), INT32, np.asarray([1, 2], np.int32), "axis")
    assert graph.is_constant(axis)
    assert graph.data(axis).view("<i4").tolist() == [1, 2]
    assert (graph.shape(axis), graph.tensor(axis).name) == ((2,), "axis")
    assert not graph.is_constant(0)
    assert not graph.is_constant(-1)


def test_a_tensor_like_another_one_has_its_shape_type_and_grid_but_no_values():
    graph = Subgraph(chain_file(1))
    source = graph.add_tensor((2,), INT32, np.asarray([1, 2], np.int32))
    graph.tensor(source).quantization = quantization(0.5)
    copy = graph.add_tensor_like(source)
    assert (graph.shape(copy), graph.tensor(copy).type) == ((2,), INT32)
    assert graph.tensor(copy).quantization is graph.tensor(source).quantization
    assert not graph.is_constant(copy)


@pytest.mark.parametrize(
    ("edit", "order"),
    [
        ("insert_before", ["first", "new", "second", "third"]),
        ("insert_after", ["first", "second", "new", "third"]),
        ("replace", ["first", "new", "third"]),
    ],
)
def test_operators_go_to_their_place(edit, order):
    graph = Subgraph(chain_file(3))
    operators = dict(zip(["first", "second", "third"], graph.operators, strict=True))
    target = graph.add_tensor((2,), FLOAT32)
    operators["new"] = add(graph, [0, 1], [target])
    assert graph.producer(target) is None
    getattr(graph, edit)(operators["second"], [operators["new"]])
    assert list(graph.operators) == [operators[name] for name in order]
    assert graph.schema.operators == list(graph.operators)
    assert graph.producer(target) is operators["new"]
    assert [graph.position(operators[name]) for name in order] == list(range(len(order)))


def test_consumers_are_in_the_order_of_execution_after_an_edit():
    graph = Subgraph(chain_file(2))
    second = graph.operators[1]
    before = graph.consumers(1)
    new = add(graph, [1, 1], [graph.add_tensor((2,), FLOAT32)])
    graph.insert_before(second, [new])
    assert list(graph.consumers(1)) == [new, second]
    assert list(before) == [second]


def test_operators_that_are_iterated_may_be_edited():
    graph = Subgraph(chain_file(3))
    for op in graph.operators:
        graph.insert_before(op, [add(graph, [0, 0], [graph.add_tensor((2,), FLOAT32)])])
    assert len(graph.operators) == 6


def test_new_inputs_and_outputs_are_seen():
    graph = Subgraph(chain_file(2))
    first, second = graph.operators
    graph.replace_input(second, 1, 0)
    assert inputs_of(second) == [0, 0]
    assert list(graph.consumers(0)) == [first, second]
    assert list(graph.consumers(1)) == []
    graph.set_inputs(second, [0, 1])
    assert list(graph.consumers(1)) == [second]
    target = graph.add_tensor((2,), FLOAT32)
    graph.set_outputs(second, [target])
    assert (graph.producer(2), graph.producer(target)) == (None, second)


def test_another_object_on_the_subgraph_sees_an_edit():
    file = chain_file(2)
    one, other = Subgraph(file), Subgraph(file)
    second = one.operators[1]
    assert one.producer(1) is not None
    assert list(other.consumers(1)) == [second]
    one.replace_input(second, 1, 0)
    assert list(other.consumers(1)) == []
    other.operators = []
    assert one.producer(1) is None


def test_every_subgraph_is_listed():
    file = chain_file(1)
    file.subgraphs.append(optional_packages.schema().SubGraphT(tensors=[], operators=[]))
    assert [graph.index for graph in subgraphs(file)] == [0, 1]


def test_the_kind_of_an_operator_is_its_name():
    graph = Subgraph(chain_file(1))
    graph.append([operator(graph.file, "HARD_SWISH", 1, [1], [0], "HardSwishOptions")])
    assert [graph.kind(op) for op in graph.operators] == ["ADD", "HARD_SWISH"]


def test_quantization_has_a_zero_point_for_each_scale():
    one = quantization(0.5, -3)
    assert (one.scale.tolist(), one.zeroPoint.tolist(), one.quantizedDimension) == ([0.5], [-3], 0)
    many = quantization(np.asarray([0.5, 0.25]), axis=3)
    assert (many.scale.tolist(), many.zeroPoint.tolist(), many.quantizedDimension) == ([0.5, 0.25], [0, 0], 3)
    assert (many.scale.dtype, many.zeroPoint.dtype) == (np.float32, np.int64)
