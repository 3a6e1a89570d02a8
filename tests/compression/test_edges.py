"""The rule for the first and last kernels: which layers it finds, and the functions that take it."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, activation_plan, calibrate, finalize, footprint, prepare
from r2keras._models.walk import view_of
from r2keras.compression.edges import with_edges
from r2keras.compression.weight_plan import plan_of

pytestmark = pytest.mark.backends

EDGES = Recipe.uniform(4, activation_bits=8)
X = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype("float32")


def chain():
    parts = [layers.Conv2D(2, 3, name=name, activation="relu") for name in ("a", "b")]
    tail = [layers.BatchNormalization(name="n"), layers.Flatten(), layers.Dense(3, name="c"), layers.Softmax()]
    return keras.Sequential([keras.Input((6, 6, 3), name="x"), *parts, *tail])


def residual_with_two_heads():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(4, 3, padding="same", name="inner")(x)
    x = layers.Add()([layers.Conv2D(4, 1, name="shortcut")(x), y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, [layers.Dense(2, name="box")(x), layers.Dense(3, name="kind")(x)])


def nested_with_a_separable_layer():
    body_input = keras.Input((6, 6, 3))
    body = keras.Model(body_input, layers.SeparableConv2D(4, 3, name="sep")(body_input), name="body")
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Dense(4, name="dense")(layers.Flatten()(body(x)))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def shared():
    left, right = keras.Input((6,)), keras.Input((5,))
    tower = layers.Dense(4, name="tower")
    x = layers.Concatenate()([tower(layers.Dense(4, name="left")(left)), tower(layers.Dense(4, name="right")(right))])
    return keras.Model([left, right], layers.Dense(1, name="head")(x))


@pytest.mark.parametrize(
    ("make", "edges"),
    [
        (chain, {"a", "c"}),
        (residual_with_two_heads, {"stem", "box", "kind"}),
        (nested_with_a_separable_layer, {"body/sep", "head"}),
        (shared, {"left", "right", "head"}),
    ],
)
def test_layers_without_a_kernel_before_or_after_them(make, edges):
    view = view_of(make())
    plan = plan_of(view, with_edges(Recipe.uniform(4), view))
    assert {path for path, specs in plan.items() if {spec.num_bits for spec in specs.values()} == {8}} == edges
    assert {spec.num_bits for path in plan.keys() - edges for spec in plan[path].values()} == {4}


def test_earlier_rules_win():
    recipe = Recipe([("^a$", None), *Recipe.uniform(4).rules])
    plan = plan_of(view := view_of(chain()), with_edges(recipe, view))
    assert {path: spec.num_bits for path, specs in plan.items() for spec in specs.values()} == {"b": 4, "c": 8}


@pytest.mark.parametrize("widths", [[], [3], [3, 2]])
def test_a_model_without_inner_kernels_is_refused(widths):
    parts = [layers.Dense(width, name=f"d{number}") for number, width in enumerate(widths)]
    model = keras.Sequential([keras.Input((4,)), layers.ReLU(), *parts])
    for call in (prepare, footprint, activation_plan):
        with pytest.raises(ValueError, match=r"a kernel between its first and its last ones.*edges=None"):
            call(model, EDGES)


def test_every_function_takes_the_rule():
    model = chain()
    by_name = Recipe([("^[ac]$", QuantSpec(8, activation_bits=8)), (".*", QuantSpec(4, activation_bits=8))])
    assert footprint(model, EDGES) == footprint(model, by_name)
    assert activation_plan(model, EDGES) == activation_plan(model, by_name)
    record = finalize(prepare(model, Recipe.uniform(4)))[1]
    expected = finalize(prepare(model, Recipe([("^[ac]$", QuantSpec(8)), (".*", QuantSpec(4))])))[1]
    assert {n: t.spec for n, t in record.tensors.items()} == {n: t.spec for n, t in expected.tensors.items()}
    _, calibrated = calibrate(model, EDGES, X)
    same = calibrate(model, by_name, X)[1]
    for name, tensor in calibrated.tensors.items():
        np.testing.assert_array_equal(tensor.codes, same.tensors[name].codes)
    assert calibrated.activations == same.activations


@pytest.mark.slow_elsewhere
def test_the_rule_stays_where_a_layer_is_split():
    _, record = calibrate(nested_with_a_separable_layer(), EDGES, X)
    assert {name: tensor.spec.num_bits for name, tensor in record.tensors.items()} == {
        "body/sep/depthwise_kernel/kernel": 8,
        "body/sep/pointwise_kernel/kernel": 8,
        "dense/kernel": 4,
        "head/kernel": 8,
    }


def test_integer_sets_the_bits_of_both_ends():
    model = chain()
    for make in (
        lambda **ends: calibrate(model, Recipe.int8(), X, **ends)[1].activations,
        lambda **ends: [layer.name for layer in prepare(model, Recipe.int8(), **ends).layers],
    ):
        found, ends = make(integer=True), make(input_bits=8, output_bits=8)
        assert list(found) == list(ends) and "x" in str(found) and len(found) > len(make())


@pytest.mark.parametrize(
    ("recipe", "ends", "words"),
    [
        (Recipe.int8(), {"input_bits": 4}, "`input_bits`. Expected 8 or None with integer=True"),
        (Recipe.int8(), {"output_bits": 4}, "`output_bits`"),
        (Recipe.uniform(4), {}, r"`recipe`. Expected activation_bits=8 .* Use Recipe.int8\(\)"),
        (Recipe.uniform(4, activation_bits=4), {}, "activation_bits=8"),
    ],
)
def test_what_contradicts_integer_is_refused(recipe, ends, words):
    for call in (prepare, lambda *args, **kwargs: calibrate(*args, X, **kwargs)):
        with pytest.raises(ValueError, match=words):
            call(chain(), recipe, integer=True, **ends)
