"""Axes that keep their own scale, as an explicit table with one row per kernel."""

import pytest
from keras import layers

from r2keras._models.channel_axes import scale_shape
from r2keras._models.walk import kernels
from r2keras.specs import QuantSpec

pytestmark = pytest.mark.backends


class Scorer(layers.Layer):
    """A layer with a weight name of its own."""

    def build(self, input_shape):
        self.mixing = self.add_weight(name="mixing", shape=(input_shape[-1], 5))


# Drawing random start values would cost JAX a compilation for every shape.
ZEROS = {"kernel_initializer": "zeros"}
DEPTHWISE = {"depthwise_initializer": "zeros"}
SEPARABLE = {**DEPTHWISE, "pointwise_initializer": "zeros"}
RECURRENT = {**ZEROS, "recurrent_initializer": "zeros"}

# layer -> the shape of its input, and for each kernel: shape, per-channel scale, per-group scale at group size 2
# (None: it has no input axis to group).
TABLE = {
    layers.Dense(4, **ZEROS): ((None, 6), {"kernel": ((6, 4), (1, 4), (3, 4))}),
    layers.Conv1D(4, 3, **ZEROS): ((None, 9, 6), {"kernel": ((3, 6, 4), (1, 1, 4), (1, 3, 4))}),
    layers.Conv2D(4, 3, groups=2, **ZEROS): ((None, 9, 9, 8), {"kernel": ((3, 3, 4, 4), (1, 1, 1, 4), (1, 1, 2, 4))}),
    layers.Conv3D(4, 2, **ZEROS): ((None, 5, 5, 5, 2), {"kernel": ((2, 2, 2, 2, 4), (1, 1, 1, 1, 4), (1, 1, 1, 1, 4))}),
    layers.Conv1DTranspose(4, 3, **ZEROS): ((None, 9, 6), {"kernel": ((3, 4, 6), (1, 4, 1), (1, 4, 3))}),
    layers.Conv2DTranspose(4, 3, **ZEROS): ((None, 9, 9, 6), {"kernel": ((3, 3, 4, 6), (1, 1, 4, 1), (1, 1, 4, 3))}),
    layers.Conv3DTranspose(4, 2, **ZEROS): (
        (None, 5, 5, 5, 6),
        {"kernel": ((2, 2, 2, 4, 6), (1, 1, 1, 4, 1), (1, 1, 1, 4, 3))},
    ),
    layers.DepthwiseConv1D(3, depth_multiplier=2, **DEPTHWISE): (
        (None, 9, 6),
        {"kernel": ((3, 6, 2), (1, 6, 2), None)},
    ),
    layers.DepthwiseConv2D(3, **DEPTHWISE): ((None, 9, 9, 6), {"kernel": ((3, 3, 6, 1), (1, 1, 6, 1), None)}),
    layers.SeparableConv1D(4, 3, **SEPARABLE): (
        (None, 9, 6),
        {
            "depthwise_kernel": ((3, 6, 1), (1, 6, 1), None),
            "pointwise_kernel": ((1, 6, 4), (1, 1, 4), (1, 3, 4)),
        },
    ),
    layers.SeparableConv2D(4, 3, **SEPARABLE): (
        (None, 9, 9, 6),
        {
            "depthwise_kernel": ((3, 3, 6, 1), (1, 1, 6, 1), None),
            "pointwise_kernel": ((1, 1, 6, 4), (1, 1, 1, 4), (1, 1, 3, 4)),
        },
    ),
    layers.Embedding(20, 6, "zeros"): ((None, 7), {"embeddings": ((20, 6), (20, 1), (20, 3))}),
    layers.EinsumDense("abc,cd->abd", (None, 4), **ZEROS): ((None, 5, 6), {"kernel": ((6, 4), (1, 4), (3, 4))}),
    layers.EinsumDense("abc,cde->abde", (None, 3, 4), **ZEROS): (
        (None, 5, 6),
        {"kernel": ((6, 3, 4), (1, 3, 4), (3, 3, 4))},
    ),
    layers.EinsumDense("abcd,cde->abe", (None, 4), **ZEROS): (
        (None, 5, 3, 6),
        {"kernel": ((3, 6, 4), (1, 1, 4), (1, 3, 4))},
    ),
    layers.EinsumDense("...x,xy->...y", (4,), **ZEROS): ((None, 6), {"kernel": ((6, 4), (1, 4), (3, 4))}),
    layers.EinsumDense("ab,cb->ac", 4, **ZEROS): ((None, 6), {"kernel": ((4, 6), (4, 1), (4, 3))}),
    layers.LSTM(4, **RECURRENT): (
        (None, 5, 6),
        {
            "lstm_cell/kernel": ((6, 16), (1, 16), (3, 16)),
            "lstm_cell/recurrent_kernel": ((4, 16), (1, 16), (2, 16)),
        },
    ),
    layers.GRU(4, **RECURRENT): (
        (None, 5, 6),
        {"gru_cell/kernel": ((6, 12), (1, 12), (3, 12)), "gru_cell/recurrent_kernel": ((4, 12), (1, 12), (2, 12))},
    ),
    layers.SimpleRNN(4, **RECURRENT): (
        (None, 5, 6),
        {
            "simple_rnn_cell/kernel": ((6, 4), (1, 4), (3, 4)),
            "simple_rnn_cell/recurrent_kernel": ((4, 4), (1, 4), (2, 4)),
        },
    ),
    layers.Bidirectional(layers.GRU(2, **RECURRENT)): (
        (None, 5, 6),
        {
            "forward_gru/gru_cell/kernel": ((6, 6), (1, 6), (3, 6)),
            "forward_gru/gru_cell/recurrent_kernel": ((2, 6), (1, 6), (1, 6)),
            "backward_gru/gru_cell/kernel": ((6, 6), (1, 6), (3, 6)),
            "backward_gru/gru_cell/recurrent_kernel": ((2, 6), (1, 6), (1, 6)),
        },
    ),
    layers.ConvLSTM1D(2, 3, **RECURRENT): (
        (None, 5, 9, 4),
        {
            "conv_lstm_cell/kernel": ((3, 4, 8), (1, 1, 8), (1, 2, 8)),
            "conv_lstm_cell/recurrent_kernel": ((3, 2, 8), (1, 1, 8), (1, 1, 8)),
        },
    ),
    layers.TimeDistributed(layers.Dense(4, **ZEROS)): ((None, 5, 6), {"kernel": ((6, 4), (1, 4), (3, 4))}),
    layers.TimeDistributed(layers.DepthwiseConv1D(3, **DEPTHWISE)): (
        (None, 5, 9, 6),
        {"kernel": ((3, 6, 1), (1, 6, 1), None)},
    ),
    layers.PReLU(): ((None, 5, 6), {}),
    layers.LayerNormalization(axis=(1, 2)): ((None, 5, 6), {}),
    layers.BatchNormalization(): ((None, 6), {}),
    layers.Normalization(axis=(1, 2)): ((None, 5, 6), {}),
    Scorer(): ((None, 6), {"mixing": ((6, 5), (1, 5), (3, 5))}),
}
ATTENTION = {
    "query": ((6, 2, 4), (1, 2, 4), (3, 2, 4)),
    "key": ((6, 2, 4), (1, 2, 4), (3, 2, 4)),
    "value": ((6, 2, 4), (1, 2, 4), (3, 2, 4)),
    "attention_output": ((2, 4, 6), (1, 1, 6), (1, 2, 6)),
}


def named_kernels(layer):
    """The kernels of a layer by names without the numbers that Keras adds and without the name of an inner layer."""
    found = {}
    for name, variable in kernels(layer):
        parts = [part.rstrip("0123456789").rstrip("_") for part in name.split("/")]
        found["/".join(part for part in parts if part not in ("dense", "depthwise_conv1d", "depthwise_conv"))] = (
            variable
        )
    return found


def check(layer, variables, table):
    assert {name: tuple(v.shape) for name, v in variables.items()} == {name: row[0] for name, row in table.items()}
    for name, (shape, channel, group) in table.items():
        variable = variables[name]
        assert scale_shape(QuantSpec(granularity="per_tensor"), layer, variable) == (1,) * len(shape)
        assert scale_shape(QuantSpec(granularity="per_channel"), layer, variable) == channel
        grouped = QuantSpec(granularity="per_group", group_size=2)
        if group is None:
            with pytest.raises(ValueError, match="no input axis to group"):
                scale_shape(grouped, layer, variable)
        else:
            assert scale_shape(grouped, layer, variable) == group


@pytest.mark.parametrize("layer", TABLE, ids=lambda layer: layer.name)
def test_scale_shapes(layer):
    shape, table = TABLE[layer]
    layer.build(shape)
    check(layer, named_kernels(layer), table)


def test_scale_shapes_of_attention():
    layer = layers.MultiHeadAttention(2, 4, **ZEROS)
    layer.build((None, 5, 6), (None, 5, 6))
    check(layer, {name.split("/")[0]: v for name, v in kernels(layer)}, ATTENTION)


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 1, 1, 1)), (-2, (1, 1, 2, 1)), (3, (1, 1, 1, 4))])
def test_a_chosen_axis(axis, shape):
    layer = layers.Conv2D(4, 3, **ZEROS)
    layer.build((None, 9, 9, 2))
    assert scale_shape(QuantSpec(channel_axis=axis), layer, layer.kernel) == shape


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_out_of_range_is_refused(axis):
    layer = layers.Dense(4, name="head", **ZEROS)
    layer.build((None, 6))
    with pytest.raises(ValueError, match=rf"`channel_axis`.*head/kernel.*\(6, 4\).*{axis}"):
        scale_shape(QuantSpec(channel_axis=axis), layer, layer.kernel)


def test_a_group_that_does_not_divide_is_refused():
    layer = layers.Dense(4, name="head", **ZEROS)
    layer.build((None, 6))
    with pytest.raises(ValueError, match=r"`group_size`.*divisor of 6.*head/kernel.*4"):
        scale_shape(QuantSpec(granularity="per_group", group_size=4), layer, layer.kernel)
