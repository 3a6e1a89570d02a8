"""The plan of quantized activations on every kind of graph, and its use by prepare, finalize and calibrate."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import CompressionRecord, QuantSpec, Recipe, activation_plan, calibrate, finalize, prepare
from r2keras.layers import GridActivation, QuantizeActivation

pytestmark = pytest.mark.backends

ALL = Recipe([(".*", QuantSpec(num_bits=4, activation_bits=4))])
SHAPE = (6, 6, 3)
X = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype("float32")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def block(x, name, activation=True):
    x = layers.Conv2D(4, 3, padding="same", name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def residual():
    x = inputs = keras.Input(SHAPE, name="image")
    x = block(x, "stem")
    y = block(block(x, "a"), "b", activation=False)
    y = layers.ReLU(name="sum_relu")(layers.Add(name="sum")([x, y]))
    y = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(y))
    return keras.Model(inputs, layers.Softmax(name="soft")(layers.Dense(2, name="head")(y)), name="net")


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE, name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Dropout(0.5, name="drop"),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.LeakyReLU(name="leaky"),
            layers.GlobalAveragePooling2D(name="gap"),
            layers.Dense(3, activation="gelu", name="hidden"),
            layers.Dense(2, name="head"),
        ]
    )


def nested():
    inner_in = keras.Input(SHAPE, name="inner_in")
    inner = keras.Model(inner_in, block(inner_in, "in", activation=False), name="body")
    tail = keras.Sequential(
        [layers.Flatten(name="flat"), layers.Dense(3, name="d1"), layers.ReLU(name="r1")], name="tail"
    )
    x = inputs = keras.Input(SHAPE, name="image")
    x = layers.ReLU(name="outer_relu")(inner(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(tail(x)), name="net")


def operators():
    x = inputs = keras.Input((5,), name="image")
    x = layers.Dense(4, name="one")(x)
    y = layers.Dense(4, name="two")(x)
    z = ops.relu(x + y)
    return keras.Model(inputs, [layers.Dense(2, name="head")(z), layers.Dense(1, name="other")(x)], name="net")


def shared():
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    tower = layers.Dense(4, activation="relu", name="tower")
    x = layers.Concatenate(name="both")([tower(left), tower(right)])
    return keras.Model([left, right], layers.Dense(2, name="head")(x), name="net")


PLANS = {
    residual: {"stem_relu": True, "a_relu": True, "b_bn": False, "sum_relu": True},
    sequential: {"conv": True, "leaky": False, "hidden": False},
    nested: {"outer_relu": True, "tail/r1": True},
    shared: {"tower": True},
}


@pytest.mark.parametrize("make", PLANS)
def test_plan(make):
    plan = activation_plan(make(), ALL)
    assert {path: spec.unsigned for path, spec in plan.items()} == PLANS[make]


def test_operators_are_seen():
    plan = activation_plan(operators(), ALL)
    assert [spec.unsigned for spec in plan.values()] == [False, False, True]
    assert list(plan)[:2] == ["one", "two"] and "relu" in list(plan)[2]


ENDS = {
    residual: ["head"],
    sequential: ["gap", "head"],
    nested: ["head"],
    shared: ["head"],
    operators: ["head", "other"],
}


@pytest.mark.parametrize("make", ENDS)
def test_output_bits_are_for_the_end_and_averages_of_all(make):
    model = make()
    plan, more = activation_plan(model, ALL), activation_plan(model, ALL, output_bits=8)
    assert {path: spec for path, spec in more.items() if path in plan} == plan
    assert {path: spec.num_bits for path, spec in more.items() if path not in plan} == dict.fromkeys(ENDS[make], 8)
    student = prepare(model, ALL, output_bits=8)
    found = {path.removesuffix("_quantized") for path, x in leaves(student) if isinstance(x, QuantizeActivation)}
    assert found == set(more) and student.output_shape == model.output_shape


def test_output_bits_alone_and_where_they_cannot_be():
    weights = Recipe([(".*", QuantSpec(num_bits=4))])
    ends = [keras.Input((4, 4, 1)), layers.AveragePooling2D(2, name="part"), layers.AveragePooling2D(2, name="all")]
    net = keras.Sequential([*ends, layers.Dense(2, name="d"), layers.ReLU(name="r")])
    found = activation_plan(net, weights, output_bits=4)
    assert {path: spec.unsigned for path, spec in found.items()} == {"all": False, "r": True}
    with pytest.raises(ValueError, match="`output_bits`"):
        activation_plan(net, weights, output_bits=9)
    states = keras.Sequential([keras.Input((5, 3)), layers.GRU(4, name="cell")], name="states")
    with pytest.raises(
        ValueError, match=r"`output_bits`. Expected None for the model 'states', of which they quantize"
    ):
        prepare(states, weights, output_bits=8)


def test_output_bits_leave_integers_alone():
    inputs = keras.Input((6,))
    logits = layers.Dense(4, name="d")(inputs)
    model = keras.Model(inputs, [logits, ops.reshape(ops.argmax(logits, -1), (-1, 1))])
    assert list(activation_plan(model, Recipe([(".*", QuantSpec(num_bits=8))]), output_bits=8)) == ["d"]


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "tanh"])
def test_a_last_function_gets_a_layer_of_its_own(function):
    x = inputs = keras.Input(SHAPE, name="image")
    ends = [layers.Dense(2, activation=function, name=name)(layers.Flatten()(x)) for name in ("one", "two")]
    model = keras.Model(inputs, ends, name="net")
    recipe = Recipe([(".*", QuantSpec(num_bits=8))])
    assert list(activation_plan(model, recipe, output_bits=8)) == ["one", "two"]
    small, record = calibrate(model, recipe, X, output_bits=8)
    order = [layer.name for layer in small.layers if "two" in layer.name]
    assert order == ["two", "two_quantized", f"two_{function}"]
    assert model.get_layer("two").activation.__name__ == function
    for ours, theirs in zip(small(X), model(X), strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=0.1)
    grid = record.activations["two"]
    before = array(keras.Model(small.inputs, small.get_layer("two_quantized").output)(X))
    codes = before / grid.scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    np.testing.assert_allclose(array(getattr(keras.activations, function)(before)), array(small(X)[1]), atol=1e-6)
    student = prepare(model, recipe, output_bits=8)
    assert student.get_layer(f"one_{function}").activation.__name__ == function


@pytest.mark.parametrize("make", [*PLANS, operators])
@pytest.mark.parametrize("input_bits", [None, 8])
def test_prepare_inserts_the_plan(make, input_bits):
    model = make()
    plan = activation_plan(model, ALL, input_bits=input_bits)
    assert (set(plan) >= {x.name for x in model.inputs}) == (input_bits is not None)
    student = prepare(model, ALL, input_bits=input_bits)
    found = {path: layer for path, layer in leaves(student) if isinstance(layer, QuantizeActivation)}
    assert {path.removesuffix("_quantized"): layer.spec for path, layer in found.items()} == plan
    text = []
    student.summary(print_fn=lambda line, **_: text.append(line), line_length=200, expand_nested=True)
    assert all(path.rpartition("/")[2] in "\n".join(text) for path in found)
    assert type(student) is type(model) and student.name == model.name
    assert student.input_shape == model.input_shape and student.output_shape == model.output_shape


def leaves(model, prefix=""):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


@pytest.mark.parametrize("make", [residual, nested])
def test_float_copy_computes_the_same(make):
    """With ranges that are only observed, what is inserted changes nothing but weights."""
    model = make()
    plain = prepare(model, Recipe([(".*", QuantSpec(num_bits=4))]))
    student = prepare(model, ALL, input_bits=8)
    for _, layer in leaves(student):
        if isinstance(layer, QuantizeActivation):
            layer.observe()
    np.testing.assert_array_equal(array(student(X, training=False)), array(plain(X, training=False)))


@pytest.mark.parametrize("make", [residual, sequential, nested])
@pytest.mark.usefixtures("eager")
def test_trains_saves_and_finalizes(make, tmp_path):
    student = prepare(make(), ALL, input_bits=8)
    how = {"run_eagerly": False} if make is nested else {}
    student.compile(keras.optimizers.SGD(1e-3), loss="mse", **how)
    student.fit(X, X[:, 0, 0, :2], batch_size=8, epochs=1, verbose=0)
    student.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(array(again(X)), array(student(X)))
    model, record = finalize(again)
    kept = {p.removesuffix("_quantized"): x for p, x in leaves(model) if isinstance(x, GridActivation)}
    assert set(record.activations) == set(kept) == set(activation_plan(make(), ALL, input_bits=8))
    assert all(not layer.weights for layer in kept.values())
    np.testing.assert_allclose(array(model(X)), array(student(X)), atol=0.05)
    record.save(tmp_path / "r.npz")
    assert CompressionRecord.load(tmp_path / "r.npz").activations == record.activations
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.keras")(X)), array(model(X)))


@pytest.mark.parametrize("method", ["ste", "lsq", "ewgs", "pact", "dorefa"])
def test_calibrate_sets_ranges(method):
    model = residual()
    recipe = Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8, activation_method=method))])
    small, record = calibrate(model, recipe, X, input_bits=8)
    assert set(record.activations) == {"image", *PLANS[residual]}
    assert record.activations["stem_relu"].zero_point == -128
    if method == "ste":
        np.testing.assert_allclose(array(small(X)), array(model(X)), atol=0.05)
    values = array(small.get_layer("sum_relu_quantized")(np.linspace(-1, 9, 50, dtype="float32")))
    grid = record.activations["sum_relu"]
    codes = values / grid.scale + grid.zero_point
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)


def test_the_first_rule_that_matches_the_group_decides():
    low, high = QuantSpec(num_bits=4, activation_bits=2), QuantSpec(num_bits=4, activation_bits=8)
    bits = lambda *rules: {p: s.num_bits for p, s in activation_plan(residual(), Recipe(rules)).items()}  # noqa: E731
    assert bits(("stem", high), (".*", low)) == {"stem_relu": 8, "a_relu": 2, "b_bn": 2, "sum_relu": 2}
    assert bits(("a_relu", None), (".*_conv", low)) == {"stem_relu": 2, "b_bn": 2, "sum_relu": 2}
    assert bits(("sum$", high), (".*_conv", low)) == {"stem_relu": 2, "a_relu": 2, "b_bn": 2, "sum_relu": 8}
    assert bits(("stem", QuantSpec(num_bits=4)), (".*", low))["sum_relu"] == 2
    assert "stem_relu" not in bits(("stem", QuantSpec(num_bits=4)), (".*", low))
    assert isinstance(prepare(residual(), Recipe([("a_relu", None), (".*_conv", low)])), keras.Model)


def test_many_residual_sums_without_a_rule_are_asked_once_each():
    x = inputs = keras.Input((4,))
    for _ in range(40):
        # Each sum asks both of its inputs, which lead to the sum before: 2^40 questions if no answer is kept.
        x = layers.Add()([x, layers.Dense(4)(x)])
    x = layers.ReLU(name="relu")(layers.Dense(4, name="tail")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    recipe = Recipe([("tail", QuantSpec(num_bits=8, activation_bits=8))])
    assert list(activation_plan(model, recipe)) == ["relu"]


def test_weights_alone_stay_as_before():
    recipe = Recipe([(".*", QuantSpec(num_bits=4))])
    assert activation_plan(residual(), recipe) == {}
    assert not [x for _, x in leaves(prepare(residual(), recipe)) if isinstance(x, QuantizeActivation)]


def test_a_rule_whose_activation_bits_come_to_nothing_is_told():
    spec = QuantSpec(num_bits=4, activation_bits=4)
    with pytest.warns(UserWarning, match="activation_bits of the recipe's rule 'head' quantize nothing"):
        prepare(residual(), Recipe([("head", spec), (".*", spec)]))
    cell = keras.Sequential([keras.Input((5, 3)), layers.GRU(4, name="cell"), layers.Dense(2, name="head")])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prepare(residual(), Recipe([("stem|head", spec), (".*", spec)]))
        prepare(residual(), Recipe([("head", QuantSpec(num_bits=8)), (".*", spec)]))
        prepare(cell, Recipe([("cell", spec)]))
        prepare(residual(), Recipe([("head", spec), (".*", spec)]), output_bits=8)


def test_codes_fitted_at_run_time_are_for_states_alone():
    spec = QuantSpec(num_bits=4, activation_bits=4, activation_method="alternating")
    assert spec.activation() is None
    with pytest.raises(ValueError, match=r"under activation_method='alternating' a recurrent one"):
        activation_plan(residual(), Recipe([(".*", spec)]))
    cell = keras.Sequential([keras.Input((5, 3)), layers.GRU(4, name="cell"), layers.Dense(2, name="head")])
    with pytest.warns(UserWarning, match="rule 'head' quantize nothing"):
        assert activation_plan(cell, Recipe([("head", spec), ("cell", spec)])) == {}


@pytest.mark.slow_elsewhere
def test_bad_input():
    spec = QuantSpec(num_bits=4, activation_bits=4)
    with pytest.raises(ValueError, match="no activation of 'net' can be quantized"):
        prepare(residual(), Recipe([("head", spec)]))
    with pytest.raises(ValueError, match="matches nothing"):
        prepare(residual(), Recipe([("nowhere", spec), (".*", spec)]))
    with pytest.raises(ValueError, match="input_bits"):
        prepare(residual(), ALL, input_bits=1)
    with pytest.raises(ValueError, match="has no range yet"):
        finalize(prepare(residual(), ALL))
    with pytest.raises(ValueError, match="ranges of 3 activations"):
        calibrate(sequential(), ALL)
    with pytest.raises(ValueError, match="compressed already"):
        prepare(calibrate(sequential(), ALL, X)[0], ALL)


@pytest.mark.parametrize("rule", ["percentile", "min_max", "mse"])
def test_inputs_and_outputs_follow_the_rule_of_the_layers_beside_them(rule):
    """The rule of the layer that an input feeds, past a Flatten; of the layer that an output comes from."""
    image, table, unruled = (keras.Input(shape, name=name) for shape, name in (((4, 2), "i"), ((3,), "t"), ((3,), "u")))
    first = layers.Dense(3, name="first", activation="relu")(layers.Flatten()(image))
    second = layers.Dense(3, name="second", activation="relu")(table)
    third = layers.Dense(3, name="third", activation="relu")(unruled)
    outputs = layers.Softmax()(layers.Dense(2, name="head")(layers.Concatenate()([first, second, third])))
    recipe = Recipe(
        [
            ("first|head", QuantSpec(num_bits=8, activation_bits=8, activation_range=rule)),
            ("second", QuantSpec(num_bits=8, activation_bits=4, activation_method="lsq")),
            ("third", QuantSpec(num_bits=8)),
        ]
    )
    plan = activation_plan(keras.Model([image, table, unruled], outputs), recipe, input_bits=8, output_bits=8)
    ranges = {name: plan[name].range for name in ("i", "t", "u", "head")}
    assert ranges == {"i": rule, "t": "moving_average", "u": "moving_average", "head": rule}
    assert all(plan[name].method == "ste" for name in ranges)


def test_the_input_of_a_layer_whose_rule_matches_its_activation_follows_it():
    recipe = Recipe([("stem_relu", QuantSpec(activation_bits=8, activation_range="percentile")), (".*", None)])
    assert activation_plan(residual(), recipe, input_bits=8)["image"].range == "percentile"
