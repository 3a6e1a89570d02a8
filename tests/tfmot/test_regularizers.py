"""The tf_keras regularizers: values equal to the Keras 3 ones, and scalars that train and survive every wrapper."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import r2keras
from r2keras import tfmot as r2
from tests import oracles_range_loss as oracle

RNG = np.random.default_rng(3)
W = RNG.normal(size=(3, 5, 6)) * np.linspace(0.5, 2.0, 6)
STD, SD = W.std(), [part.std() for part in oracle.channels(W)]
CHANNELS = {"granularity": "per_channel", "channel_axis": -1}
# name, arguments, the loss of a weight for a learned scalar (None: there is none).
CASES = {
    "linf": ("R2Linf", {"dim": 2}, lambda w, _: oracle.linf(w, 2)),
    "linf scale-free": ("R2Linf", {"scale_free": True}, lambda w, _: oracle.linf(w / w.std())),
    "linf channels": ("R2Linf", CHANNELS, lambda w, _: oracle.by_channel(lambda p, _: np.abs(p).max(), w)),
    "kurtosis": ("Kurtosis", {"target": 2.0}, lambda w, _: (oracle.kurtosis(w) - 2.0) ** 2),
    "margin": ("R2Margin", {"margin": 1.2}, lambda w, m: oracle.margin(w, m * STD)),
    "margin vectors": ("R2Margin", {"margin": 1.2, "dim": 2}, lambda w, m: oracle.margin(w, m * STD, 2)),
    "margin scale-free": ("R2Margin", {"margin": 1.2, "scale_free": True}, lambda w, m: oracle.margin(w / w.std(), m)),
    "margin channels": (
        "R2Margin",
        {"margin": 1.2, **CHANNELS},
        lambda w, m: oracle.by_channel(lambda p, c: oracle.margin(p, m * SD[c]), w),
    ),
    "sharpness": ("R2SoftMinMax", {"sharpness": 3.0}, lambda w, a: oracle.soft_min_max(w, a)),
    "sharpness fixed": ("R2SoftMinMax", {"scale_free": True}, lambda w, _: oracle.soft_min_max(w / w.std(), 5.0)),
    "sharpness channels": (
        "R2SoftMinMax",
        {"sharpness": 3.0, **CHANNELS},
        lambda w, a: oracle.by_channel(lambda p, _: oracle.soft_min_max(p, a), w),
    ),
}
LEARNED = {
    "margin": lambda **options: r2.R2Margin(0.5, margin=1.0, **options),
    "sharpness": lambda **options: r2.R2SoftMinMax(0.5, **options),
}
X, Y = RNG.normal(size=(16, 6, 6, 2)).astype("float32"), RNG.normal(size=(16, 3)).astype("float32")


def small_model():
    layers = [
        tf_keras.Input((6, 6, 2)),
        tf_keras.layers.Conv2D(4, 3, kernel_regularizer=LEARNED["margin"](), name="conv"),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(3, kernel_regularizer=LEARNED["sharpness"](), name="head"),
    ]
    return trained(tf_keras.Sequential(layers))


def trained(model, callbacks=(), run_eagerly=True):
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    model.fit(X, Y, verbose=0, callbacks=list(callbacks))
    return model


def scalars(model) -> dict[str, float]:
    found = {name: [v for v in model.weights if v.name.endswith(f"/{name}:0")] for name in ("margin", "sharpness")}
    return {name: float(variable) for name, (variable,) in found.items()}


def assert_moved(model, start: dict[str, float]) -> None:
    now = scalars(model)
    assert np.isfinite(list(now.values())).all()
    assert all(now[name] != start[name] for name in now)


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_gradients_are_those_of_keras_3_and_of_the_formula(case):
    name, options, formula = CASES[case]
    theirs, ours = getattr(r2keras, name)(0.7, **options), getattr(r2, name)(0.7, **options)
    assert ours.get_config() == theirs.get_config()
    weight, learned = tf.Variable(W), getattr(ours, "trainable_weights", [])
    with tf.GradientTape() as tape:
        loss = ours(weight)
    gradients = tape.gradient(loss, [weight, *learned])
    parameter = keras.Variable(W, dtype="float64")
    with tf.GradientTape() as tape:
        same = theirs(parameter)
    others = tape.gradient(same, [parameter.value, *(v.value for v in getattr(theirs, "trainable_weights", []))])
    assert float(loss) == float(same)
    for mine, other in zip(gradients, others, strict=True):
        np.testing.assert_array_equal(mine, other)

    scalar = float(options.get("margin", options.get("sharpness", 0.0)))
    assert float(loss) == pytest.approx(0.7 * formula(W, scalar), rel=1e-6)
    # The unit of a margin, which the gradient takes as a constant, is a constant of the formula too.
    step, place = 1e-6, np.unravel_index(np.abs(W).argmax(), W.shape)
    up, down = W.copy(), W.copy()
    up[place] += step
    down[place] -= step
    slope = 0.7 * (formula(up, scalar) - formula(down, scalar)) / (2 * step)
    assert gradients[0][place].numpy() == pytest.approx(slope, rel=1e-4)
    if learned:
        slope = 0.7 * (formula(W, scalar + step) - formula(W, scalar - step)) / (2 * step)
        assert np.sum(gradients[1]) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("name", ["R2Linf", "R2Margin", "R2SoftMinMax", "Kurtosis"])
def test_serialized_under_both_names(name):
    made = getattr(r2, name)(0.3)
    for written in (tf_keras.regularizers.serialize(made), {"class_name": name, "config": made.get_config()}):
        again = tf_keras.regularizers.deserialize(written)
        assert type(again) is type(made)
        assert again.get_config() == made.get_config()


def test_two_scalars_of_one_layer_have_names_of_their_own(tmp_path):
    made = tf_keras.layers.LSTM(3, kernel_regularizer=r2.R2Margin(), recurrent_regularizer=r2.R2Margin(margin=1.5))
    model = tf_keras.Sequential([tf_keras.Input((4, 2)), made])
    model.save(tmp_path / "model.h5")
    loaded = tf_keras.models.load_model(tmp_path / "model.h5")
    assert [float(v) for v in loaded.layers[0].weights[-2:]] == [2.0, 1.5]
    assert len(loaded.losses) == 2


@pytest.mark.parametrize("suffix", [".h5", ".keras", ""])
def test_a_saved_model_restores_and_trains_the_scalars(suffix, tmp_path):
    model = small_model()
    start = scalars(model)
    path = str(tmp_path / f"model{suffix}")
    model.save(path, save_format=None if suffix else "tf")
    loaded = tf_keras.models.load_model(path)
    assert scalars(loaded) == start
    np.testing.assert_array_equal(loaded(X), model(X))
    assert_moved(trained(loaded), start)


@pytest.mark.parametrize("suffix", [".weights.h5", ".ckpt"])
def test_weights_and_rebuild_restore_the_scalars(suffix, tmp_path):
    model = small_model()
    model.save_weights(str(tmp_path / f"model{suffix}"))
    rebuilt = tf_keras.models.clone_model(model)
    rebuilt.load_weights(str(tmp_path / f"model{suffix}"))
    assert scalars(rebuilt) == scalars(model)


def test_scalars_under_quantize_model_train_and_survive_a_saved_model(tmp_path):
    model = small_model()
    start = scalars(model)
    quantized = tfmot.quantization.keras.quantize_model(model)
    assert scalars(quantized) == start
    assert_moved(trained(quantized, run_eagerly=False), start)
    quantized.save(str(tmp_path / "saved"), save_format="tf")
    with tfmot.quantization.keras.quantize_scope():
        loaded = tf_keras.models.load_model(str(tmp_path / "saved"))
        rebuilt = tfmot.quantization.keras.quantize_model(model)
    rebuilt.set_weights(quantized.get_weights())
    assert scalars(loaded) == scalars(rebuilt) == scalars(quantized)


def test_scalars_under_cluster_weights_train_and_survive_the_strip():
    clustering = tfmot.clustering.keras
    model = small_model()
    start = scalars(model)
    start_at = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = clustering.cluster_weights(model, number_of_clusters=4, cluster_centroids_init=start_at)
    assert_moved(trained(clustered), start)
    stripped = clustering.strip_clustering(clustered)
    assert scalars(stripped) == scalars(clustered)
    assert len(np.unique(stripped.layers[0].kernel)) <= 4


def test_scalars_under_prune_low_magnitude_train_and_survive_the_strip():
    sparsity = tfmot.sparsity.keras
    model = small_model()
    start = scalars(model)
    pruned = sparsity.prune_low_magnitude(model, sparsity.ConstantSparsity(0.5, 0, frequency=1))
    assert_moved(trained(pruned, [sparsity.UpdatePruningStep()]), start)
    stripped = sparsity.strip_pruning(pruned)
    assert scalars(stripped) == scalars(pruned)
    assert np.mean(np.asarray(stripped.layers[0].kernel) == 0.0) == pytest.approx(0.5, abs=0.02)


def test_a_frozen_layer_freezes_its_scalar():
    model = small_model()
    model.get_layer("conv").trainable = False
    assert not any("margin" in v.name for v in model.trainable_weights)
    assert any("sharpness" in v.name for v in model.trainable_weights)


@pytest.mark.parametrize("name", LEARNED)
def test_mixed_precision_keeps_the_scalar_in_single_precision(name):
    layer = tf_keras.layers.Dense(3, kernel_regularizer=LEARNED[name](), dtype="mixed_float16")
    model = tf_keras.Sequential([tf_keras.Input((6,)), layer])
    model.compile("sgd", "mse")
    start = float(getattr(layer.kernel_regularizer, name))
    model.fit(X.reshape(-1, 6), np.zeros((len(X) * 12, 3), "float32"), verbose=0)
    scalar = getattr(layer.kernel_regularizer, name)
    assert scalar.dtype == tf.float32
    assert float(scalar) != start


@pytest.mark.parametrize("name", LEARNED)
def test_a_second_weight_is_refused(name):
    shared = LEARNED[name]()
    layers = [tf_keras.layers.Dense(4, kernel_regularizer=shared, name=f"dense{i}") for i in range(2)]
    model = tf_keras.Sequential([tf_keras.Input((4,)), *layers])
    with pytest.raises(ValueError, match=r"one weight .*dense0/kernel.*Received: w='dense1/kernel.*tfmot\.regularize"):
        _ = model.losses


def test_a_fixed_sharpness_serves_several_weights():
    shared = r2.R2SoftMinMax(scale_free=True)
    layers = [tf_keras.layers.Dense(4, kernel_regularizer=shared) for _ in range(2)]
    assert len(tf_keras.Sequential([tf_keras.Input((4,)), *layers]).losses) == 2


@pytest.mark.parametrize("name", ["R2Margin", "R2SoftMinMax"])
def test_the_regularizer_of_the_other_keras_is_refused(name):
    theirs = tf_keras.layers.Dense(2, kernel_regularizer=getattr(r2keras, name)())
    theirs.build((None, 3))
    with pytest.raises(ValueError, match=rf"a Keras 3 layer.*take r2keras\.tfmot\.{name}"):
        _ = theirs.losses
    ours = keras.layers.Dense(2, kernel_regularizer=getattr(r2, name)())
    ours.build((None, 3))
    with pytest.raises(ValueError, match=rf"a tf_keras layer.*Use r2keras\.{name} for layers of Keras 3"):
        _ = ours.losses


@pytest.mark.parametrize("options", [{"factor": -1.0}, {"dim": 0}, {"granularity": "per_row"}])
@pytest.mark.parametrize("name", ["R2Linf", "R2Margin", "R2SoftMinMax"])
def test_arguments_out_of_range_are_named(name, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        getattr(r2, name)(**options)
