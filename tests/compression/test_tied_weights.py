"""Weights that two layers share: kept one weight, or refused by name before any training."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe, budget
from r2keras._models import walk
from r2keras._models.either_keras import read_model
from tests import nets, own_layers

pytestmark = pytest.mark.backends
FOUR = Recipe([(".*", QuantSpec(num_bits=4))])


def inputs_of(model):
    return np.arange(48).reshape(8, 6) % 20 if model.inputs[0].dtype == "int32" else nets.inputs_of(model)


@pytest.mark.parametrize("net", [own_layers.words, own_layers.decoder])
def test_a_tied_weight_stays_one_through_training_record_and_files(net, tmp_path):
    model = nets.shaken(net())
    x, source = inputs_of(model), model.layers[1].name
    student = r2keras.prepare(model, FOUR)
    assert len(student.trainable_weights) == len(model.trainable_weights)
    student.compile("sgd", "mse")
    student.fit(x, np.zeros_like(nets.arrays(model(x))[0]), verbose=0)
    small, record = r2keras.finalize(student)
    assert [name.split("/")[0] for name in record.tensors] == [source]
    assert small.get_layer("tied").source is small.get_layer(source)
    assert small.count_params() == model.count_params() == record.num_values
    # Both layers see the quantized weight in training.
    np.testing.assert_allclose(nets.arrays(small(x))[0], nets.arrays(student(x))[0], rtol=1e-4, atol=1e-5)

    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects=own_layers.OBJECTS)
    np.testing.assert_array_equal(nets.arrays(loaded(x))[0], nets.arrays(student(x))[0])
    again, _ = r2keras.finalize(loaded)
    assert again.get_layer("tied").source is again.get_layer(source)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe([(".*", QuantSpec(num_bits=8))], steps=["fold_batch_norm", "correct_bias"]),
        Recipe([(".*", PaletteSpec(num_bits=6, min_size=0))]),
    ],
    ids=["steps", "palettes"],
)
def test_calibrate_keeps_the_tie(recipe):
    model = nets.shaken(own_layers.decoder())
    x = nets.inputs_of(model, 32)
    small, record = r2keras.calibrate(model, recipe, x)
    # Folding the normalization would change the weights of the decoder too.
    assert small.get_layer("norm") is not None and list(record.tensors) == ["encoder/kernel"]
    assert small.get_layer("tied").source is small.get_layer("encoder")
    first, second = (np.ravel(nets.arrays(m(x))[0]) for m in (small, model))
    assert np.corrcoef(first, second)[0, 1] > 0.98


def test_a_tied_weight_is_named_counted_and_regularized_once():
    model = nets.shaken(own_layers.words())
    assert [kernel.full_name for kernel in walk.view_of(model).kernels] == ["table/embeddings"]
    assert [name for name, _ in read_model(model).weights] == ["table/embeddings", "tied/bias"]
    assert budget.footprint(model).bytes == 4 * model.count_params()
    regularized = r2keras.regularize(model, "l2")
    assert regularized.get_layer("tied").source is regularized.get_layer("table")
    assert len(regularized.losses) == 1


def test_an_untied_layer_that_holds_an_uncompressed_one_keeps_it():
    model = own_layers.decoder()
    student = r2keras.prepare(
        keras.Model(model.input, layers.Dense(2, name="head")(model.output)), Recipe([("head", QuantSpec(num_bits=4))])
    )
    assert student.get_layer("tied").source is student.get_layer("encoder")


def test_widening_a_tied_layer_is_refused():
    with pytest.raises(ValueError, match="'tied', whose weights are tied to those of 'encoder'"):
        r2keras.widen(own_layers.decoder(), 2.0)


class ByWeight(layers.Layer):
    """A layer that takes the weight out of the other layer."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.taken = lambda: source.embeddings

    def build(self, input_shape):
        self.table, self.taken = self.taken(), None

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table))


class Unserialized(layers.Layer):
    """A layer that Keras cannot write down."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.source.embeddings))


def through_function():
    return own_layers.words(
        lambda table, name: layers.Lambda(lambda x: ops.matmul(x, ops.transpose(table.embeddings)), name=name)
    )


def through_call():
    x, table = keras.Input((8,)), layers.Dense(8, name="table")
    hidden = table(x)
    return keras.Model(x, ops.matmul(hidden, table.kernel))


def through_parts():
    shared, x = layers.Dense(8), keras.Input((8,))
    first, second = own_layers.Taking(shared, name="table"), own_layers.Taking(shared, name="tied")
    return keras.Model(x, second(first(x)))


@pytest.mark.parametrize(
    "net",
    [
        lambda: own_layers.words(ByWeight),
        lambda: own_layers.words(Unserialized),
        through_function,
        through_call,
        through_parts,
    ],
    ids=["weight", "no config", "function", "call", "parts"],
)
def test_what_cannot_be_kept_is_refused_with_both_names(net):
    with pytest.raises(ValueError, match=r"'(tied|matmul\w*)', whose weights are tied to those of 'table'"):
        r2keras.prepare(net(), FOUR)
