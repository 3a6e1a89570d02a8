"""Blocks between single-tensor cuts."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from r2keras._models.cuts import Part
from r2keras.calibration.reconstruction.blocks import blocks_of
from tests.calibration.nets import branched, chain, nested


def residual(two_outputs: bool = False) -> keras.Model:
    """Two residual blocks, the second one around an operation that is not a layer."""
    x = inputs = keras.Input((6,), name="x")
    a = layers.Dense(6, name="a1")(x)
    x = layers.add([layers.Dense(6, name="a2")(a), x], name="sum")
    b = layers.Dense(6, name="b1")(x)
    x = layers.Dense(6, name="b2")(b) + x
    outputs = layers.Dense(2, name="head")(x)
    return keras.Model(inputs, [outputs, b] if two_outputs else outputs)


def names(model: keras.Model, least: int = 1, **more) -> list[tuple[str, ...]]:
    kernels = {layer.name: 1 for layer in model.layers if layer.weights and "norm" not in layer.name}
    return [block.layers for block in blocks_of(model, kernels, least, **more)]


def test_residual_blocks_are_not_divided():
    blocks = names(residual())
    assert [block[:3] for block in blocks[:1]] == [("a1", "a2", "sum")]
    assert blocks[1][:2] == ("b1", "b2") and len(blocks[1]) == 3
    assert blocks[2] == ("head",)


def test_every_call_is_in_one_block_in_the_order_of_the_model():
    model = branched()
    blocks = names(model)
    assert sorted(sum(blocks, ())) == sorted(layer.name for layer in model.layers[1:])
    assert [block[0] for block in blocks] == ["stem", "depthwise", "separable", "up", "head"]
    # The sum and the batch norm after it belong to the block with the shortcut.
    assert blocks[1][-2:] == ("sum", "late_norm")


@pytest.mark.parametrize(("least", "counts"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (9, [5])])
def test_a_chain_falls_into_groups(least, counts):
    kernels = {"first", "depthwise", "second", "hidden", "head"}
    assert [len(kernels & set(block)) for block in names(chain(), least)] == counts


def test_a_nested_model_is_one_call():
    assert names(nested()) == [("inner",), ("block", "flatten"), ("head",)]


def test_a_second_output_keeps_what_follows_together():
    first, *rest = names(residual(two_outputs=True))
    assert first == ("a1", "a2", "sum")
    assert len(rest) == 1 and {"b1", "b2", "head"} <= set(rest[0])


def test_the_last_block_ends_at_the_outputs():
    blocks = blocks_of(chain(), {"first": 1, "head": 1}, 1)
    assert [block.output for block in blocks] == [("pool", 0, 0), None] or blocks[-1].output is None
    assert blocks_of(chain(), {}, 1) == [Part(blocks[0].layers + blocks[1].layers, None)]


def test_refused_cuts_join_their_neighbors():
    assert len(names(residual(), is_cut=lambda key: key[0] != "sum")) == 2
