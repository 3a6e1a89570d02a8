"""Layers made of layers, with and without `build`, names and configs, through every function."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras._models import walk
from r2keras.regularizers import R2Margin
from tests import nets, own_layers

pytestmark = pytest.mark.backends
EIGHT = Recipe([(".*", QuantSpec(num_bits=8))])


def counted_on():
    """Makes Keras count on, so that copies have other numbers in their names."""
    layers.Dense(2), own_layers.Block(), keras.Sequential()


def correlation(first, second):
    return np.corrcoef(*(np.concatenate([np.ravel(a) for a in nets.arrays(x)]) for x in (first, second)))[0, 1]


def names(model):
    return [kernel.full_name for kernel in walk.view_of(model).kernels]


@pytest.mark.parametrize("net", [own_layers.stack, own_layers.given, own_layers.pair, own_layers.steps])
@pytest.mark.usefixtures("eager")
def test_layers_made_of_layers_are_prepared_trained_saved_and_finalized(net, tmp_path):
    counted_on()
    model = nets.shaken(net())
    x = nets.inputs_of(model)
    counted_on()
    student = r2keras.prepare(model, EIGHT)
    assert correlation(student(x), model(x)) > 0.999
    student.compile("sgd", "mse")
    latent = {name: np.array(kernel) for name, kernel in by_name(student).items()}
    student.fit(x, np.zeros_like(nets.arrays(model(x))[0]), verbose=0)
    assert all((np.array(kernel) != latent[name]).any() for name, kernel in by_name(student).items())

    small, record = r2keras.finalize(student)
    assert list(record.tensors) == names(model) == names(small) == names(student)
    np.testing.assert_allclose(nets.arrays(small(x))[0], nets.arrays(student(x))[0], rtol=1e-4, atol=1e-5)

    student.save(tmp_path / "student.keras")
    counted_on()
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects=own_layers.OBJECTS)
    np.testing.assert_array_equal(nets.arrays(loaded(x))[0], nets.arrays(student(x))[0])
    assert list(r2keras.finalize(loaded)[1].tensors) == names(model)


def by_name(model):
    return {kernel.full_name: kernel.variable for kernel in walk.view_of(model).kernels}


def test_names_follow_the_layers_and_count_within_one():
    counted_on()
    found = names(
        keras.Sequential([keras.Input((6,)), own_layers.Deep(name="deep"), own_layers.Repeated(name="twice")])
    )
    parts = ["block/dense_1/kernel", "block/dense/kernel", "half/variable", "half/dense_2/kernel"]
    assert found[:4] == [f"deep/{name}" for name in parts]
    assert found[-4:] == ["twice/w", "twice/w_1", "twice/proj/kernel", "twice/proj/kernel_1"]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8))], steps=["fold_batch_norm", "correct_bias"]),
        Recipe([(".*", PaletteSpec(num_bits=6, min_size=0))], steps=["sensitivity", "reestimate_batch_norm"]),
    ],
    ids=["steps", "palettes"],
)
def test_layers_made_of_layers_are_calibrated(recipe):
    x = keras.Input((6,))
    inner = layers.BatchNormalization()(layers.Dense(6)(own_layers.Block()(x)))
    model = nets.shaken(keras.Model(x, layers.Dense(3, name="head")(inner)))
    data = nets.inputs_of(model, 32)
    small, record = r2keras.calibrate(model, recipe, data)
    assert sorted(record.tensors) == sorted(names(model))
    assert correlation(small(data), model(data)) > 0.98


def test_the_other_functions_accept_layers_made_of_layers():
    model = nets.shaken(keras.Sequential([keras.Input((6,)), own_layers.Block(), own_layers.Bare(), layers.Dense(3)]))
    x = nets.inputs_of(model)
    with pytest.warns(UserWarning, match="no regularizer argument"):
        regularized = r2keras.regularize(model, R2Margin(0.01))
    np.testing.assert_array_equal(nets.arrays(regularized(x))[0], nets.arrays(model(x))[0])
    assert r2keras.footprint(model, EIGHT).bytes < r2keras.footprint(model).bytes


def test_frozen_parts_stay_frozen():
    block = own_layers.Half(name="half")
    model = keras.Sequential([keras.Input((6,)), block, layers.Dense(3)])
    block.norm.trainable = block.inner.trainable = False
    student = r2keras.prepare(model, EIGHT)
    small, _ = r2keras.finalize(student)
    assert len(student.trainable_weights) == len(small.trainable_weights) == len(model.trainable_weights) == 3
    assert not small.get_layer("half").norm.trainable
