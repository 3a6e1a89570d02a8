"""`regularize`: every kind of layer, matching, preserved weights, and errors."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras._models.walk import kernels, leaf_layers
from r2keras.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax, regularize
from tests import nets

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(2)


def conv_net():
    """A functional model with a nested one inside."""
    block_in = keras.Input((8, 8, 4))
    block_out = layers.Conv2D(4, 3, padding="same", name="conv1")(block_in)
    block_out = layers.BatchNormalization(name="bn")(block_out)
    block = keras.Model(block_in, layers.DepthwiseConv2D(3, padding="same", name="conv2")(block_out), name="block")
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = layers.Add(name="add")([x, block(x)])
    x = layers.SeparableConv2D(6, 3, name="sep")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(5, name="head")(x), name="net")


def text_net():
    """A Sequential model with recurrent and composite layers."""
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(20, 6, name="words"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
            layers.TimeDistributed(layers.Dense(5), name="each"),
            layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(3)], return_sequences=True, name="stack"),
            layers.EinsumDense("abc,cd->abd", (None, 3), name="einsum"),
            layers.LSTM(3, name="lstm"),
        ],
        name="text",
    )


def attention_net():
    tokens = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, name="mha")(tokens, tokens)
    return keras.Model(tokens, layers.Dense(2, name="head")(x), name="attention")


def shaken(model):
    """Gives every weight, statistics included, a value of its own."""
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(np.abs(RNG.normal(size=weight.shape)) + 0.1)
    return model


def regularized(model):
    """The names of all weights with a regularizer."""
    named = [(f"{path}/{name}", w) for path, layer in leaf_layers(model) for name, w in kernels(layer)]
    return {name for name, w in named if w.regularizer is not None}


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def values(model):
    """Names and values of all weights but the scalars of regularizers."""
    scalars = ("margin", "sharpness")
    owned = [(path, w) for path, layer in leaf_layers(model) for w in layer.weights if w.name not in scalars]
    return [(path, w.name, array(w)) for path, w in owned]


KERNELS = {
    conv_net: 6,
    text_net: 1 + 4 + 1 + 4 + 1 + 2,
}


@pytest.mark.parametrize(
    ("net", "make"), [(conv_net, R2Linf), (conv_net, R2Margin), (text_net, R2SoftMinMax), (text_net, Kurtosis)]
)
def test_every_kernel_gets_its_own_copy_and_keeps_its_values(net, make):
    model = shaken(net())
    new = regularize(model, make(0.3))
    assert type(new) is type(model) and new.name == model.name
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
    attached = [w.regularizer for w in new.trainable_weights if w.regularizer is not None]
    assert len(attached) == len({id(r) for r in attached}) == len(new.losses) == KERNELS[net]
    assert all(type(r) is make and r.factor == 0.3 for r in attached)
    assert not any(w.regularizer for w in new.trainable_weights if w.name in ("bias", "gamma", "beta", "margin"))
    before, after = values(model), values(new)
    assert [named[:2] for named in before] == [named[:2] for named in after]
    assert all(np.array_equal(a, b) for (*_, a), (*_, b) in zip(before, after, strict=True))
    assert model.losses == []


@pytest.mark.parametrize("net", KERNELS)
@pytest.mark.usefixtures("eager")
def test_outputs_are_the_same_and_the_copy_trains_and_saves(net, tmp_path):
    model = net()
    shape = (4, *model.input_shape[1:])
    x = RNG.integers(0, 20, shape) if net is text_net else RNG.normal(size=shape).astype("float32")
    new = regularize(model, R2Margin(0.3))
    np.testing.assert_array_equal(nets.outputs(new, x), nets.outputs(model, x))
    new.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    start = [array(w) for w in new.trainable_weights if w.name == "margin"]
    new.fit(x, np.zeros((4, *new.output_shape[1:]), "float32"), verbose=0)
    margins = [array(w) for w in new.trainable_weights if w.name == "margin"]
    assert sum(a != b for a, b in zip(start, margins, strict=True)) > len(margins) // 2
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [array(w) for w in loaded.trainable_weights if w.name == "margin"] == margins


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ("stem", {"stem/kernel"}),
        ("^block/conv1$", {"block/conv1/kernel"}),
        ("block", {"block/conv1/kernel", "block/conv2/kernel"}),
        ("pointwise_kernel$", {"sep/pointwise_kernel"}),
        ("stem|head", {"stem/kernel", "head/kernel"}),
    ],
)
def test_the_pattern_is_searched_in_layer_and_weight_paths(match, found):
    new = regularize(conv_net(), R2Linf(), match=match)
    assert regularized(new) == found


@pytest.mark.parametrize(
    ("match", "count"),
    [("forward", 2), ("backward.*recurrent", 1), ("recurrent_kernel", 5), ("each", 1), ("gru_cell", 2), ("words", 1)],
)
def test_parts_of_composite_layers_are_found(match, count):
    new = regularize(text_net(), R2Margin(), match=match)
    found = regularized(new)
    assert len(found) == count and all(all(word in path for word in match.split(".*")) for path in found)


def test_a_model_inside_time_distributed_is_reached():
    frame = keras.Sequential([keras.Input((6, 2)), layers.Conv1D(3, 3, name="conv"), layers.Flatten()], name="frame")
    model = keras.Sequential([keras.Input((4, 6, 2)), layers.TimeDistributed(frame, name="frames")])
    new = regularize(model, R2Margin(), match="conv/kernel")
    assert [name.split("/")[-2:] for name in regularized(new)] == [["conv", "kernel"]]


def test_learned_scalars_start_from_the_weights():
    model = keras.Sequential([keras.Input((50,)), layers.Dense(8, name="normal"), layers.Dense(8, name="uniform")])
    model.get_layer("normal").kernel.assign(RNG.normal(size=(50, 8)))
    model.get_layer("uniform").kernel.assign(RNG.choice([-1.0, 1.0], size=(8, 8)))
    used = R2Margin()
    used.margin.assign(7.0)
    new = regularize(model, used)
    margins = [array(layer.kernel_regularizer.margin) for layer in new.layers]
    assert margins == pytest.approx([2.0, 1.0], rel=0.05)
    assert array(used.margin) == 7.0


def test_a_shared_layer_stays_shared():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(3, name="shared")
    model = keras.Model([a, b], layers.Add()([shared(a), shared(b)]))
    new = regularize(model, R2Margin())
    assert regularized(new) == {"shared/kernel"} and len(new.losses) == 1


def test_the_regularizer_of_before_is_replaced_and_others_stay():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1), bias_regularizer="l1", name="a"),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1), name="b"),
        ]
    )
    new = regularize(model, R2Linf(), match="^a$")
    assert isinstance(new.get_layer("a").kernel.regularizer, R2Linf)
    assert isinstance(new.get_layer("a").bias.regularizer, keras.regularizers.L1)
    assert isinstance(new.get_layer("b").kernel.regularizer, keras.regularizers.L2)


@pytest.mark.slow_elsewhere
def test_learned_regularizers_are_replaced_and_others_keep_their_value():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(40, name="a"), layers.Dense(40, name="b")])
    once = regularize(model, R2Margin())
    for layer in once.layers:
        layer.kernel_regularizer.margin.assign(1.25)
    twice = regularize(once, R2SoftMinMax(), match="^a$")
    assert isinstance(twice.get_layer("a").kernel.regularizer, R2SoftMinMax)
    assert array(twice.get_layer("b").kernel.regularizer.margin) == 1.25
    vectors = regularize(once, R2Margin(dim=4), match="^a$")
    assert array(vectors.get_layer("a").kernel.regularizer.margin).shape == (4,)
    again = regularize(once, R2Margin(), match="^b$")
    assert array(again.get_layer("a").kernel.regularizer.margin) == 1.25
    assert array(again.get_layer("b").kernel.regularizer.margin) > 1.25


@pytest.mark.usefixtures("eager")
def test_a_compiled_model_comes_back_compiled():
    model = conv_net()
    model.compile(optimizer=keras.optimizers.Adam(0.03), loss="mse", metrics=["mae"])
    new = regularize(model, R2Margin())
    assert isinstance(new.optimizer, keras.optimizers.Adam) and new.optimizer is not model.optimizer
    assert array(new.optimizer.learning_rate) == pytest.approx(0.03) and new.loss == "mse"
    new.fit(np.zeros((2, 8, 8, 3), "float32"), np.zeros((2, 5), "float32"), verbose=0)
    assert not regularize(conv_net(), R2Margin()).compiled


def test_frozen_layers_keep_their_scalars_frozen():
    model = conv_net()
    model.get_layer("stem").trainable = False
    new = regularize(model, R2Margin())
    assert not new.get_layer("stem").trainable_weights
    assert sum(w.name == "margin" for w in new.trainable_weights) == 5
    new.get_layer("stem").trainable = True
    assert sum(w.name == "margin" for w in new.trainable_weights) == 6


def test_identifiers_are_taken():
    assert isinstance(regularize(attention_net(), "R2Linf").get_layer("head").kernel.regularizer, R2Linf)


class WithoutConfig(keras.regularizers.Regularizer):
    def __call__(self, w):
        return ops.sum(w)


class Unregistered(WithoutConfig):
    def get_config(self):
        return {}


def test_unregistered_regularizers_are_taken():
    new = regularize(attention_net(), Unregistered())
    assert isinstance(new.get_layer("head").kernel.regularizer, Unregistered)


@pytest.mark.parametrize("make", [R2Linf, Kurtosis, lambda: R2SoftMinMax(learn_sharpness=False)])
def test_attention_takes_regularizers_without_a_scalar(make):
    assert len(regularize(attention_net(), make()).losses) == 5


@pytest.mark.parametrize("make", [R2Margin, R2SoftMinMax])
def test_attention_refuses_a_learned_scalar_and_says_what_to_do(make):
    with pytest.raises(ValueError, match=r"kernel_regularizer of mha serves several.*query/kernel.*Use R2Linf"):
        regularize(attention_net(), make())
    assert len(regularize(attention_net(), make(), match="head").losses) == 1


def test_part_of_an_attention_layer_is_refused():
    with pytest.raises(ValueError, match=r"of mha serves several.*all of them or none. Received: query/kernel\."):
        regularize(attention_net(), R2Linf(), match="mha/query")


@keras.saving.register_keras_serializable(package="r2keras_tests")
class Scale(keras.layers.Layer):
    """A layer with a matrix and no argument to regularize it."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix


def custom_net(*more):
    return keras.Sequential([keras.Input((4,)), Scale(name="scale"), *more])


def test_layers_without_the_argument_are_warned_of_by_default_and_refused_when_asked_for():
    with pytest.warns(UserWarning, match=r"Scale has no regularizer argument.*scale/matrix"):
        new = regularize(custom_net(layers.Dense(3, name="head")), R2Linf())
    assert len(new.losses) == 1
    with pytest.raises(ValueError, match=r"Scale has no regularizer argument.*scale/matrix"):
        regularize(custom_net(layers.Dense(3, name="head")), R2Linf(), match="scale|head")


@pytest.mark.filterwarnings("ignore:Scale has no")
def test_nothing_to_attach_to_is_an_error():
    with pytest.raises(ValueError, match=r"argument `match`.*regularizer argument.*scale"):
        regularize(custom_net(), R2Linf())


@pytest.mark.parametrize("match", ["nowhere", "bias", "bn"])
def test_a_pattern_without_a_match_is_named(match):
    with pytest.raises(ValueError, match=f"argument `match`.*match='{match}'.*block/conv1/kernel"):
        regularize(conv_net(), R2Linf(), match=match)


@pytest.mark.parametrize("match", ["(", None, 3])
def test_a_bad_pattern_is_named(match):
    with pytest.raises(ValueError, match=r"argument `match`. Expected a regular expression"):
        regularize(conv_net(), R2Linf(), match=match)


@pytest.mark.parametrize(
    ("regularizer", "kind"), [("l3", ValueError), ({"class_name": "L3"}, ValueError), (None, TypeError), (3, TypeError)]
)
def test_an_unknown_regularizer_is_refused_in_one_sentence(regularizer, kind):
    expected = "Expected a Keras regularizer, its name or its serialized form"
    with pytest.raises(kind, match=rf"argument `regularizer`\. {expected}\. Received: .* Pass an instance"):
        regularize(conv_net(), regularizer)


@pytest.mark.parametrize("regularizer", [lambda w: 0.0, WithoutConfig()])
def test_what_is_not_a_regularizer_is_named(regularizer):
    with pytest.raises(ValueError, match=r"argument `regularizer`. Expected a keras.regularizers.Regularizer"):
        regularize(conv_net(), regularizer)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = conv_net()
    model.get_layer("head").kernel.assign(np.full((6, 5), value))
    with pytest.raises(ValueError, match="head/kernel has 30 NaN or infinite"):
        regularize(model, R2Linf())


def test_a_dim_that_does_not_fit_names_the_weight():
    with pytest.raises(ValueError, match=r"R2Linf does not fit the weight block/conv2/kernel.*argument `dim`"):
        regularize(conv_net(), R2Linf(dim=2))
    assert len(regularize(conv_net(), R2Linf(dim=2), match="stem|conv1|head|pointwise").losses) == 4


def test_unbuilt_and_subclassed_models_are_refused():
    with pytest.raises(ValueError, match="not built"):
        regularize(keras.Sequential([layers.Dense(2)]), R2Linf())

    class Own(keras.Model):
        pass

    with pytest.raises(TypeError, match="subclassed"):
        regularize(Own(), R2Linf())


AXES = {"stem": -1, "block/conv1": -1, "block/conv2": (-2, -1), "head": -1, "words": -2, "lstm": -1}


@pytest.mark.parametrize("make", [conv_net, text_net])
@pytest.mark.parametrize("regularizer", [R2Linf, R2Margin, R2SoftMinMax])
def test_channels_lie_where_the_layer_has_its_outputs(make, regularizer):
    copy = regularize(make(), regularizer(0.1, scale_free=True, granularity="per_channel"))
    found = {
        path: kernels(layer)[0][1].regularizer.channel_axis
        for path, layer in leaf_layers(copy)
        if kernels(layer) and path in AXES
    }
    assert found and found == {path: AXES[path] for path in found}


def test_a_transposed_convolution_has_its_channels_in_the_middle():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2DTranspose(5, 2, name="up")])
    copy = regularize(model, R2Linf(granularity="per_channel"))
    assert copy.get_layer("up").kernel.regularizer.channel_axis == -2
    kept = regularize(model, R2Linf(granularity="per_channel", channel_axis=0))
    assert kept.get_layer("up").kernel.regularizer.channel_axis == 0


def test_one_argument_for_kernels_with_channels_on_different_axes_is_refused():
    with pytest.raises(ValueError, match=r"kernel_regularizer of mha.*different axes.*per_tensor"):
        regularize(attention_net(), R2Linf(granularity="per_channel"))
