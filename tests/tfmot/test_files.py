"""Saving and loading of models in TFMOT's wrappers: the formats that work, and errors for the others."""

import numpy as np
import pytest
import tf_keras

from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.tfmot import finalize, load, save, scope
from tests.tfmot.nets import X, Y, applied, outputs, tiny, trained

METHODS = Recipe(
    [
        ("conv", QuantSpec(num_bits=2, method="ewgs", activation_bits=4, activation_method="pact")),
        ("head", PaletteSpec(num_bits=2, min_size=0)),
    ]
)


@pytest.fixture(scope="module")
def qat():
    return trained(tiny(), METHODS, input_bits=8)


def assert_same(first, second):
    np.testing.assert_array_equal(outputs(first), outputs(second))


def test_a_saved_model_comes_back_trains_on_and_is_finalized(qat, tmp_path):
    save(qat, tmp_path / "qat")
    again = load(tmp_path / "qat")
    assert_same(again, qat)
    ours, theirs = (finalize(model)[1] for model in (again, qat))
    for name, tensor in theirs.tensors.items():
        np.testing.assert_array_equal(ours.tensors[name].values(), tensor.values())
    assert ours.activations == theirs.activations
    again.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = outputs(again)
    again.fit(X, Y, verbose=0)
    assert (outputs(again) != before).any()


def test_weights_go_into_a_model_made_again(qat, tmp_path):
    save(qat, tmp_path / "qat.weights.h5")
    again = applied(tiny(), METHODS, input_bits=8)
    assert (outputs(again) != outputs(qat)).any()
    again.load_weights(tmp_path / "qat.weights.h5")
    assert_same(again, qat)


def test_a_clone_with_the_weights_is_the_same(qat):
    with scope():
        clone = tf_keras.models.clone_model(qat)
    # TFMOT's wrappers list the same weights in another order when they are built from a config.
    old, new = (
        {(layer.name, v.name.rpartition("/")[2]): v for layer in model.layers for v in layer.weights}
        for model in (qat, clone)
    )
    assert set(old) == set(new)
    for key, variable in new.items():
        variable.assign(old[key])
    assert_same(clone, qat)


@pytest.mark.parametrize("name", ["qat.keras", "qat.h5"])
def test_files_that_tfmot_cannot_read_are_refused(name, qat, tmp_path):
    with pytest.raises(ValueError, match="cannot read its own wrappers back"):
        save(qat, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net"])
def test_a_finalized_model_goes_into_every_file(qat, name, tmp_path):
    model = finalize(qat)[0]
    model.save(tmp_path / name, **({} if "." in name else {"save_format": "tf"}))
    assert_same(tf_keras.models.load_model(tmp_path / name), model)


def test_no_saved_model_is_said(tmp_path):
    with pytest.raises(OSError, match="is not a SavedModel"):
        load(tmp_path)
