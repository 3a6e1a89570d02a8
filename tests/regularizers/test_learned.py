"""The learned scalars: trained, saved, cloned, frozen, and one per weight."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.regularizers import R2Linf, R2Margin, R2SoftMinMax
from tests import nets

pytestmark = pytest.mark.backends

LEARNED = {
    "margin": lambda **options: R2Margin(0.1, margin=1.0, **options),
    "sharpness": lambda **options: R2SoftMinMax(0.1, **options),
}
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.normal(size=(32, 4)).astype("float32")


def small_model(make, trainable=True, **compile_options):
    layers = [keras.layers.Dense(4, kernel_regularizer=make(), trainable=trainable, name="head")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError(), **compile_options)
    return model


def scalar(model, name):
    return np.array(ops.convert_to_numpy(getattr(model.layers[-1].kernel_regularizer, name)))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}])
def test_training_moves_the_scalar(name, dim, how):
    if keras.backend.backend() == "torch" and how.get("jit_compile"):
        pytest.skip("torch compiles with a C++ compiler, which need not be there")
    model = small_model(lambda: LEARNED[name](dim=dim), **how)
    start = scalar(model, name)
    assert start.shape == (() if dim == 1 else (dim,))
    history = model.fit(X, Y, epochs=2, verbose=0)
    assert np.all(np.isfinite(scalar(model, name))) and np.all(scalar(model, name) != start)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.usefixtures("eager")
def test_a_saved_model_restores_the_scalar(name, suffix, tmp_path):
    model = small_model(LEARNED[name])
    model.fit(X, Y, verbose=0)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert scalar(loaded, name) == scalar(model, name)
    np.testing.assert_array_equal(nets.outputs(loaded, X), nets.outputs(model, X))
    loaded.compile(optimizer="sgd", loss=keras.losses.MeanSquaredError())
    loaded.fit(X, Y, verbose=0)
    assert scalar(loaded, name) != scalar(model, name)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.usefixtures("eager")
def test_weights_files_restore_the_scalar(name, tmp_path):
    model, other = small_model(LEARNED[name]), small_model(LEARNED[name])
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert scalar(other, name) == scalar(model, name)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.usefixtures("eager")
def test_a_clone_has_its_own_scalar(name):
    model = small_model(LEARNED[name])
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    start = scalar(model, name)
    clone.compile(optimizer="sgd", loss=keras.losses.MeanSquaredError())
    clone.fit(X, Y, verbose=0)
    assert scalar(model, name) == start != scalar(clone, name)


@pytest.mark.parametrize("name", LEARNED)
def test_a_frozen_layer_freezes_the_scalar(name):
    model = small_model(LEARNED[name])
    assert [w.name for w in model.trainable_weights] == ["kernel", "bias", name]
    model.layers[-1].trainable = False
    assert model.trainable_weights == [] and model.losses == []
    model.layers[-1].trainable = True
    assert [w.name for w in model.trainable_weights] == ["kernel", "bias", name]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.usefixtures("eager")
def test_a_layer_constructed_frozen_does_not_move_the_scalar(name):
    frozen = keras.layers.Dense(6, kernel_regularizer=LEARNED[name](), trainable=False)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), frozen])
    model.compile(optimizer="sgd", loss=keras.losses.MeanSquaredError())
    start = scalar(model, name)
    model.fit(X, X, verbose=0)
    assert model.losses == [] and scalar(model, name) == start


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_two_scalars_in_one_layer_are_kept_apart(suffix, tmp_path):
    def make():
        layer = keras.layers.LSTM(3, kernel_regularizer=R2Margin(), recurrent_regularizer=R2Margin())
        return keras.Sequential([keras.Input((4, 6)), layer])

    model = make()
    cell = model.layers[0].cell
    cell.kernel_regularizer.margin.assign(3.0)
    cell.recurrent_regularizer.margin.assign(4.0)
    path = tmp_path / f"model{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
        loaded = make()
        loaded.load_weights(path)
    else:
        model.save(path)
        loaded = keras.models.load_model(path)
    cell = loaded.layers[0].cell
    assert float(ops.convert_to_numpy(cell.kernel_regularizer.margin)) == 3.0
    assert float(ops.convert_to_numpy(cell.recurrent_regularizer.margin)) == 4.0


@pytest.mark.parametrize("name", LEARNED)
def test_one_instance_refuses_a_second_weight(name):
    shared = LEARNED[name]()
    inner = [keras.layers.Dense(6, kernel_regularizer=shared, name=f"layer{i}") for i in range(2)]
    model = keras.Sequential([keras.Input((6,)), *inner])
    model.compile(optimizer="sgd", loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match=r"layer0/kernel.*layer1/kernel.*r2keras\.regularize"):
        model.fit(X, X, verbose=0)


def test_an_instance_may_move_on_when_its_weight_is_gone():
    shared = R2Margin()
    for _ in range(2):
        variable = keras.Variable(RNG.normal(size=(4, 4)))
        shared(variable)
        shared(variable)
        del variable


@pytest.mark.parametrize("make", [R2Linf, lambda: R2SoftMinMax(learn_sharpness=False)])
def test_without_a_learned_scalar_an_instance_may_be_shared(make, tmp_path):
    shared = make()
    layer = keras.layers.MultiHeadAttention(2, 3, kernel_regularizer=shared)
    tokens = keras.Input((5, 6))
    hidden = keras.layers.Dense(6, kernel_regularizer=shared)(layer(tokens, tokens))
    model = keras.Model(tokens, hidden)
    assert len(model.losses) == 5 and len(model.trainable_weights) == 10
    model.save(tmp_path / "model.keras")
    assert len(keras.models.load_model(tmp_path / "model.keras").losses) == 5


@pytest.mark.parametrize(
    ("name", "policy"),
    [("margin", "mixed_float16"), ("sharpness", "mixed_bfloat16"), ("sharpness", "float16"), ("margin", "bfloat16")],
)
@pytest.mark.usefixtures("eager")
def test_low_precision_policies_keep_the_scalar_in_float32(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model(LEARNED[name])
    finally:
        keras.config.set_dtype_policy("float32")
    start = scalar(model, name)
    model.fit(X, Y, epochs=2, verbose=0)
    assert model.layers[-1].kernel_regularizer.weights[0].dtype == "float32"
    assert np.isfinite(scalar(model, name)) and scalar(model, name) != start


@pytest.mark.parametrize("scale_free", [False, True])
def test_an_overshot_margin_comes_back_in_training(scale_free):
    model = small_model(lambda: R2Margin(0.1, scale_free=scale_free))
    model.layers[-1].kernel_regularizer.margin.assign(50.0)
    model.compile(optimizer=keras.optimizers.Adam(0.5), loss=keras.losses.MeanSquaredError())
    model.fit(np.tile(X, (150, 1)), np.tile(Y, (150, 1)), verbose=0)
    kernel = ops.convert_to_numpy(model.layers[-1].kernel)
    assert scalar(model, "margin") < 2.0 * np.abs(kernel).max() / kernel.std()


def test_margin_starts_inside_the_weights_it_is_given():
    uniform, normal = RNG.uniform(-1, 1, (50, 4)), RNG.normal(size=(50, 4))
    regularizer = R2Margin(dim=2)
    regularizer.initialize(normal.astype("float32"))
    assert ops.convert_to_numpy(regularizer.margin) == pytest.approx([2.0, 2.0])
    regularizer.initialize(uniform.astype("float32"))
    largest = np.abs(uniform.reshape(-1, 2)).max(axis=0) / uniform.std()
    assert ops.convert_to_numpy(regularizer.margin) == pytest.approx(largest, rel=1e-5)


def test_sharpness_goes_back_to_its_start():
    regularizer = R2SoftMinMax(sharpness=3.0)
    regularizer.sharpness.assign(9.0)
    regularizer.initialize(np.ones((2, 2), "float32"))
    assert float(ops.convert_to_numpy(regularizer.sharpness)) == 3.0


def test_a_negative_sharpness_counts_as_its_magnitude():
    w = RNG.normal(size=(40,)).astype("float32")
    regularizer = R2SoftMinMax(1.0, sharpness=0.5)
    before = float(ops.convert_to_numpy(regularizer(w)))
    regularizer.sharpness.assign(-0.5)
    assert float(ops.convert_to_numpy(regularizer(w))) == before
