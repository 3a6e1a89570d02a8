"""Layers split into what integer operators compute, and the grids in between."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import QuantSpec, Recipe, activation_plan, calibrate, finalize, prepare
from r2keras._models.walk import view_of
from r2keras.compression.activation_plan import with_layers_to_round
from r2keras.compression.traced_functions import traced
from r2keras.layers import GridActivation

pytestmark = pytest.mark.backends

SHAPE = (6, 6, 3)
X = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype("float32")


def recipe(bits=8, pattern=".*"):
    return Recipe([(pattern, QuantSpec(num_bits=8, activation_bits=bits))])


def plan(make, bits=8, **options):
    """Returns the ranges of a model's planned activations by path."""
    found = activation_plan(make(), recipe(bits), **options)
    return {path: spec.range if spec.range in ("sigmoid", "tanh") else "data" for path, spec in found.items()}


def net(build):
    """Returns a function that makes a model."""

    def make():
        inputs = keras.Input(SHAPE, name="image")
        return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten(name="flat")(build(inputs))))

    return make


def conv(name, activation="relu", size=1):
    return layers.Conv2D(4, size, padding="same", activation=activation, name=name)


@net
def functions(x):
    x = conv("a", "swish")(x)
    x = layers.PReLU(name="slopes")(conv("b", "gelu")(x))
    x = conv("c", "tanh")(layers.ReLU(max_value=6.0, name="clip")(conv("d", None)(x)))
    x = layers.Activation("swish", name="gate")(layers.BatchNormalization(name="norm")(x))
    return layers.AveragePooling2D(2, name="pool")(x)


@net
def separable(x):
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu", bias_initializer="ones", name="sep")(x)
    return layers.Reshape((4, -1), name="lines")(x)


def bent(x):
    return ops.tanh(x) * x


def gated(x):
    return ops.relu(x) * ops.sigmoid(0.5 * x)


@net
def own_functions(x):
    x = layers.Activation(gated, name="gate")(conv("b", None)(conv("a", bent)(x)))
    x = layers.Lambda(lambda t: 2.0 * t + 1.0, name="affine")(conv("c", None)(x))
    return layers.Lambda(lambda t: ops.maximum(t, ops.tanh(t)), name="most")(conv("d", None)(x))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_of_the_caller_have_a_grid_at_every_operation():
    own = ["a", "a_function/multiply", "b", "gate/multiply", "gate/relu", "gate/multiply_1"]
    rest = ["c", "affine", "d", "most/maximum"]
    fixed = {"a_function/tanh": "tanh", "gate/sigmoid": "sigmoid", "most/tanh": "tanh"}
    assert plan(own_functions) == {**dict.fromkeys([*own, *rest], "data"), **fixed}
    assert list(plan(own_functions, bits=4)) == ["a", "gate", "c", "affine", "d", "most"]


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t * np.ones(4, "float32"),
        lambda t: layers.Dense(4)(t),
        lambda t: t if float(t[0, 0, 0, 0]) > 0 else -t,
        lambda t: ops.mean(t, axis=-1, keepdims=True) * 2.0,
        lambda t: t,
        lambda t: (t - 1.0) / 3.0,
    ],
)
def test_functions_that_cannot_be_taken_apart(function):
    layer = layers.Activation(lambda t: ops.tanh(t) * t)
    layer(keras.Input((2, 2, 4)))
    assert traced(function, "own", layer) is None
    assert traced(layer.activation, "own", layer).name == "own"


def test_functions_keep_masks():
    inputs = keras.Input((4, 2))
    x = layers.Dense(3, activation=bent, name="a")(layers.Masking(name="mask")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.LSTM(2, name="lstm")(x)))
    assert not [path for path in activation_plan(model, recipe()) if "_function" in path]


def test_grids_where_integer_operators_round():
    expected = ["a", "a_silu/product", "b", "b_gelu", "slopes", "clip", "c", "norm", "gate/product", "pool"]
    fixed = {"a_silu/sigmoid": "sigmoid", "c_tanh": "tanh", "gate/sigmoid": "sigmoid"}
    assert plan(functions) == {**dict.fromkeys(expected, "data"), **fixed}
    assert plan(separable) == {"sep/depthwise_kernel": "data", "sep/pointwise_kernel": "data"}
    few = list(plan(functions, bits=4))
    assert few == ["a", "b", "slopes", "clip", "c", "gate"] and list(plan(separable, bits=4)) == ["sep"]


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("make", [functions, separable, own_functions])
def test_the_split_model_computes_the_same(make):
    model = make()
    split = with_layers_to_round(view_of(model), recipe(), None).model
    expected, found = (ops.convert_to_numpy(each(X)) for each in (model, split))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    untouched = view_of(model)
    assert with_layers_to_round(untouched, recipe(bits=4), None) is untouched


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("pattern", ["sep$", "sep/depthwise_kernel", "^sep"])
def test_rules_for_a_separable_convolution_hold_for_its_parts(pattern):
    rules = recipe(pattern=pattern)
    student = prepare(separable(), rules, input_bits=8)
    student(X, training=True)
    small, record = finalize(student)
    parts = {"sep/depthwise_kernel/kernel", "sep/pointwise_kernel/kernel"}
    assert set(record.tensors) == (parts if "/" not in pattern else {min(parts)})
    assert {"image", "sep/depthwise_kernel"} <= set(record.activations)
    assert view_of(small).instances(GridActivation)


def branches(x):
    left, right = conv("left")(x), layers.MaxPooling2D(3, 1, "same", name="pool")(conv("right")(x))
    both = layers.Concatenate(name="both")([left, right])
    return layers.Concatenate(name="all")([both, conv("third", "tanh")(x)])


def dense_block(x):
    x = conv("stem")(x)
    for name in ("one", "two"):
        x = layers.Concatenate(name=f"{name}_join")([x, conv(name)(x)])
    return x


def shared(x):
    tower = conv("tower")
    return layers.Maximum(name="most")([tower(x), tower(layers.ReLU(name="r")(x))])


def averaged(x):
    return layers.Concatenate(name="join")(
        [layers.AveragePooling2D(2, name="mean")(conv("a")(x)), conv("b")(x[:, ::2, ::2])]
    )


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (branches, ["third", "third_tanh", "all"]),
        (dense_block, ["stem", "one_join", "two_join"]),
        (shared, ["r", "most"]),
    ],
)
def test_branches_that_are_joined_share_the_grid_of_the_result(build, expected):
    assert set(plan(net(build))) == set(expected)
    assert "both" not in plan(net(build), bits=4) and len(plan(net(build), bits=4)) >= 2


def test_averaged_branches_round_before_the_average():
    found = plan(net(averaged))
    assert "a" in found and "join" in found and not {"b", "mean"} & set(found)


def test_joined_ends_and_inputs():
    def make():
        inputs = [keras.Input((4,), name=name) for name in ("x", "y")]
        x = layers.Concatenate(name="ins")(inputs)
        return keras.Model(inputs, layers.Concatenate(name="outs")([layers.Dense(2, name=n)(x) for n in "ab"]))

    assert set(plan(make, input_bits=8, output_bits=8)) == {"x", "y", "ins", "outs"}
    assert set(plan(make, input_bits=8)) == {"x", "y", "ins"}


def test_masks_get_no_grid():
    def masked(x):
        return ops.where(x > 0.1, layers.Conv2D(3, 1, name="a")(x), x) * ops.cast(x < 1.0, "float32")

    assert all(name.startswith(("a", "where", "multiply", "cast")) for name in plan(net(masked)))
    calibrate(net(masked)(), recipe(), X, input_bits=8)


def test_prescribed_grids_and_rounded_slopes():
    keras.utils.set_random_seed(0)
    model = functions()
    model.get_layer("slopes").alpha.assign(np.random.default_rng(0).uniform(-0.1, 0.4, (1, 6, 6, 4))[0])
    small, record = calibrate(model, recipe(), X, input_bits=8)
    sigmoid, tanh = record.activations["a_silu/sigmoid"], record.activations["c_tanh"]
    assert (sigmoid.zero_point, tanh.zero_point) == (-128, 0)
    np.testing.assert_allclose([256 * sigmoid.scale, 128 * tanh.scale], 1, rtol=1e-6)
    slopes = np.asarray(ops.convert_to_numpy(small.get_layer("slopes").alpha), np.float64)
    steps = 127 * slopes / np.abs(slopes).max()
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps - np.rint(steps)).max() < 1e-4 < np.ptp(slopes)
