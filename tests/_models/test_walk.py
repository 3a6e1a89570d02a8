"""Walking and copying a model: names, order, sharing, freezing, compile settings, and errors."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras._models import rebuild, values, walk
from tests import nets

pytestmark = pytest.mark.backends


def no_change(path, layer):
    return None


def layer_tree(model):
    """Classes and names of the layers, nested ones in brackets."""
    return [
        (type(x).__name__, x.name, layer_tree(x) if isinstance(x, keras.Model) else x.trainable)
        for x in model.layers
        if not isinstance(x, layers.InputLayer)
    ]


@pytest.mark.parametrize("net", nets.KERNELS)
def test_kernels_are_found_by_their_names(net):
    found = [f"{path}/{name}" for path, layer in walk.leaf_layers(net()) for name, _ in walk.kernels(layer)]
    assert found == nets.KERNELS[net]


@pytest.mark.parametrize("net", nets.KERNELS)
def test_a_copy_is_the_same_model_with_weights_of_its_own(net):
    model = nets.shaken(net())
    before = nets.weights_of(model)
    copy = rebuild.rebuild(model, no_change)
    assert type(copy) is type(model) and copy.name == model.name
    assert layer_tree(copy) == layer_tree(model)
    assert not {id(v) for v in copy.weights} & {id(v) for v in model.weights}
    for first, second in zip(model.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (first, second)))
    x = nets.inputs_of(model)
    for first, second in zip(nets.arrays(model(x)), nets.arrays(copy(x)), strict=True):
        np.testing.assert_array_equal(first, second)
    after = nets.weights_of(model)
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_replace_sees_every_leaf_once():
    seen = []
    rebuild.rebuild(nets.branched(), lambda path, layer: seen.append((path, type(layer).__name__)))
    named = [path for path, kind in seen if kind != "InputLayer"]
    assert sorted(named) == ["join", "left", "right", "shared"]


def test_a_shared_layer_is_replaced_by_one_layer():
    copy = rebuild.rebuild(
        nets.branched(),
        lambda path, layer: layers.Dense(5, name="shared", activation="relu") if path == "shared" else None,
    )
    assert len(copy.get_layer("shared")._inbound_nodes) == 2
    assert len([layer for layer in copy.layers if layer.name == "shared"]) == 1


@pytest.mark.parametrize("how", ["layer", "nested", "model"])
def test_frozen_layers_stay_frozen(how):
    model = nets.nested()
    {"layer": model.layers[-1], "nested": model.get_layer("block"), "model": model}[how].trainable = False
    copy = rebuild.rebuild(model, no_change)
    assert [v.path for v in copy.trainable_weights] == [v.path for v in model.trainable_weights]
    assert layer_tree(copy) == layer_tree(model)


def test_compile_settings_are_kept_and_the_optimizer_starts_afresh():
    model, x = nets.nested(), nets.inputs_of(nets.nested())
    model.compile(optimizer=keras.optimizers.Adam(0.125), loss=keras.losses.LogCosh(), metrics=["mae"])
    model.fit(x, np.zeros((8, 4)), verbose=0)
    copy = rebuild.rebuild(model, no_change)
    assert copy.compiled and copy.optimizer is not model.optimizer
    assert isinstance(copy.optimizer, keras.optimizers.Adam)
    assert float(keras.ops.convert_to_numpy(copy.optimizer.learning_rate)) == 0.125
    assert int(copy.optimizer.iterations) == 0 < int(model.optimizer.iterations)
    assert copy.evaluate(x, np.ones((8, 4)), verbose=0) == pytest.approx(model.evaluate(x, np.ones((8, 4)), verbose=0))


def test_names_of_inputs_are_kept():
    copy = rebuild.rebuild(nets.branched(), no_change)
    assert [x.name for x in copy.inputs] == ["first", "second"]


def own_loss(wanted, given):
    return keras.ops.mean(keras.ops.abs(wanted - given))


class OwnLoss(keras.losses.Loss):
    def call(self, wanted, given):
        return own_loss(wanted, given)


SETTINGS = [{"loss": own_loss}, {"loss": OwnLoss()}, {"loss": "mse", "metrics": [own_loss, "mae"]}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_losses_and_metrics_that_nobody_registered_are_kept(settings):
    model, x = nets.nested(), nets.inputs_of(nets.nested())
    model.compile(optimizer="sgd", **settings)
    copy = rebuild.rebuild(model, no_change)
    assert copy.evaluate(x, np.ones((8, 4)), verbose=0) == pytest.approx(model.evaluate(x, np.ones((8, 4)), verbose=0))


def own_activation(x):
    return 3.0 * x


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(4, activation=own_activation),
        lambda: layers.Activation(own_activation),
        lambda: layers.Lambda(own_activation),
        lambda: layers.Lambda(lambda x, factor: factor * x, arguments={"factor": 2.0}, name="scaled"),
    ],
)
def test_functions_that_nobody_registered_are_kept(make):
    model = keras.Sequential([keras.Input((6,)), make()])
    copy, x = rebuild.rebuild(model, no_change), nets.inputs_of(model)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(nets.arrays(copy(x)), nets.arrays(model(x)))


def test_an_uncompiled_model_stays_so():
    assert not rebuild.rebuild(nets.plain(), no_change).compiled


def test_adapted_normalization_is_carried_over():
    x = np.random.default_rng(0).normal(5.0, 3.0, (32, 4, 3)).astype("float32")
    norm = layers.Normalization(axis=(1, 2))
    norm.adapt(x)
    model = keras.Sequential([keras.Input((4, 3)), norm, layers.Flatten(), layers.Dense(2)])
    copy = rebuild.rebuild(model, no_change)
    np.testing.assert_array_equal(nets.arrays(copy(x)), nets.arrays(model(x)))
    assert [name for _, layer in walk.leaf_layers(model) for name, _ in walk.kernels(layer)] == ["kernel"]


def test_inputs_in_a_dictionary_stay_one():
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), name="a")}
    joined = layers.Concatenate()([inputs["b"], inputs["a"]])
    model = keras.Model(inputs, {"y": layers.Dense(2, name="head")(joined)})
    copy = rebuild.rebuild(model, no_change)
    x = {"a": np.ones((4, 2), "float32"), "b": np.zeros((4, 3), "float32")}
    np.testing.assert_array_equal(*[keras.ops.convert_to_numpy(m(x)["y"]) for m in (model, copy)])


def test_low_precision_weights_are_carried_over():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="bfloat16")])
    copy = rebuild.rebuild(nets.shaken(model), no_change)
    kernel = copy.layers[-1].kernel
    assert kernel.dtype == "bfloat16"
    np.testing.assert_array_equal(values.to_numpy(kernel), values.to_numpy(model.layers[-1].kernel))


class Forgetful(layers.Layer):
    """A layer whose config does not say how wide it is."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def get_config(self):
        return {"name": self.name}

    def build(self, input_shape):
        self.mixing = self.add_weight(name="mixing", shape=(input_shape[-1], self.units))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.mixing)


def test_a_config_that_forgets_is_refused_by_name():
    model = keras.Sequential([keras.Input((6,)), Forgetful(5, name="odd")])
    with pytest.raises(ValueError, match=r"odd \(Forgetful\).*mixing.*get_config"):
        rebuild.rebuild(model, no_change)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def subclassed_inside():
    x = keras.Input((6,))
    return keras.Model(x, Subclassed(name="own")(x))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Subclassed(name="own"), TypeError, "subclassed Subclassed 'own'.*keras.Input"),
        (subclassed_inside, TypeError, "subclassed Subclassed 'own'"),
        (lambda: keras.Sequential([layers.Dense(3)], name="raw"), ValueError, "'raw', which is not built.*keras.Input"),
        (lambda: object(), TypeError, r"`model`.*Keras 3 model.*r2keras\.tfmot"),
        (lambda: layers.Dense(3), TypeError, "`model`.*Keras 3 model"),
        (lambda: "model.keras", TypeError, "`model`.*Keras 3 model.*keras.saving.load_model"),
        (lambda: (object(), object()), TypeError, "`model`.*Keras 3 model.*without its record"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        rebuild.rebuild(make(), no_change)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_are_counted(bad):
    with pytest.raises(ValueError, match="The weight stem/kernel has 2 NaN or infinite values of 6"):
        values.check_finite("stem/kernel", np.array([[1.0, bad, 2.0], [0.0, 0.0, bad]]))


class Block(layers.Layer):
    """A layer whose layers and last weight have no names of their own, so that Keras numbers them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(6), layers.Dense(6)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build(input_shape)
        self.mixing = self.add_weight(shape=(6, 6))

    def call(self, inputs):
        return keras.ops.matmul(self.second(self.first(inputs)), self.mixing)


def test_names_that_keras_counts_up_are_counted_in_the_layer():
    names = ["block/variable", "block/dense/kernel", "block/dense_1/kernel"]
    for _ in range(2):
        model = keras.Sequential([keras.Input((6,)), Block(name="block")])
        assert [kernel.full_name for kernel in walk.view_of(model).kernels] == names
        assert [kernel.full_name for kernel in walk.view_of(rebuild.rebuild(model)).kernels] == names


def test_a_layer_with_names_that_keras_counts_up_is_compressed_and_loaded_again(tmp_path):
    model = keras.Sequential([keras.Input((6,)), Block(name="block")])
    student = r2keras.prepare(model, r2keras.Recipe([("block", r2keras.QuantSpec(num_bits=4))]))
    small, record = r2keras.finalize(student)
    assert set(record.tensors) == {kernel.full_name for kernel in walk.view_of(small).kernels}
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects={"Block": Block})
    x = nets.inputs_of(model)
    np.testing.assert_array_equal(nets.arrays(loaded(x)), nets.arrays(student(x)))


def test_a_name_that_the_config_keeps_stays():
    inner = layers.Dense(3)
    model = keras.Sequential([keras.Input((5, 6)), layers.TimeDistributed(inner, name="steps")])
    assert [kernel.full_name for kernel in walk.view_of(model).kernels] == [f"steps/{inner.name}/kernel"]


def test_a_view_is_walked_once():
    model = nets.nested()
    view = walk.view_of(model)
    assert walk.view_of(view) is view
    assert view.layers == tuple(walk.leaf_layers(model))
    assert [k.variable is v for k, v in zip(view.kernels, model.weights, strict=False)]
    assert {path for path, _ in view.instances(layers.Dense)} <= set(view.layers_by_path)


@pytest.mark.parametrize("sequential", [True, False])
def test_dropped_layers_pass_their_input_on(sequential):
    inputs, parts = keras.Input((6,)), [layers.Dense(4, name="a"), layers.ReLU(name="r"), layers.Dense(2, name="b")]
    model = keras.Sequential([inputs, *parts])
    if not sequential:
        model = keras.Model(inputs, parts[2](parts[1](parts[0](inputs))))
    copy, x = rebuild.rebuild(model, drop={"r"}), nets.inputs_of(model)
    assert "r" not in [layer.name for layer in copy.layers]
    np.testing.assert_allclose(nets.arrays(copy(x))[0], nets.arrays(parts[2](parts[0](x)))[0], rtol=1e-6)


class Halved(layers.Layer):
    """A layer that does not say which shape it returns."""

    def call(self, inputs):
        return 0.5 * inputs


def test_a_model_whose_shapes_keras_cannot_infer_is_copied():
    model = keras.Sequential([keras.Input((2, 6)), layers.Dense(4), layers.TimeDistributed(Halved())])
    copy, x = rebuild.rebuild(model), np.ones((3, 2, 6), "float32")
    np.testing.assert_array_equal(nets.arrays(copy(x)), nets.arrays(model(x)))
