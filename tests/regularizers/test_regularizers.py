"""The regularizers as objects: values, options, configs, names, and every Keras argument that takes one."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax
from tests import oracles_range_loss as oracle
from tests.gradients import finite_differences, gradients

pytestmark = pytest.mark.backends

R2 = (R2Linf, R2Margin, R2SoftMinMax)
ALL = (*R2, Kurtosis)
GRANULARITIES = ("per_tensor", "per_channel")


def weights(*shape, std=0.3):
    return np.random.default_rng(3).normal(0.05, std, shape).astype("float32")


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("scale_free", [False, True])
def test_values_are_the_formulas(dim, scale_free):
    w = weights(20, 6)
    options = {"factor": 0.5, "dim": dim, "scale_free": scale_free}
    std = w.std(dtype=np.float64)
    unit, seen = (1.0, w / std) if scale_free else (std, w)
    expected = {
        R2Linf(**options): oracle.linf(seen, dim),
        R2Margin(**options): oracle.margin(seen, 2.0 * unit, dim),
        R2Margin(**options, margin=1.0): oracle.margin(seen, unit, dim),
        R2SoftMinMax(**options): oracle.soft_min_max(seen, 5.0 if scale_free else 0.1, dim),
        R2SoftMinMax(**options, sharpness=7.0, learn_sharpness=True): oracle.soft_min_max(seen, 7.0, dim),
    }
    for regularizer, value in expected.items():
        assert number(regularizer(w)) == pytest.approx(0.5 * value, rel=1e-5)


def by_channel(scale_free, axes):
    """Returns the regularizers for channels, each with its loss of one channel `(weights, standard deviation)`."""
    options = {"factor": 0.5, "scale_free": scale_free, "granularity": "per_channel", "channel_axis": axes}
    sharpness = 5.0 if scale_free else 0.1
    return {
        R2Linf(**options): lambda part, std: oracle.linf(part),
        R2Margin(**options): lambda part, std: oracle.margin(part, 2.0 * std),
        R2Margin(**options, margin=1.0): lambda part, std: oracle.margin(part, std),
        R2SoftMinMax(**options): lambda part, std: oracle.soft_min_max(part, sharpness),
        R2SoftMinMax(**options, sharpness=7.0, learn_sharpness=True): lambda part, std: oracle.soft_min_max(part, 7.0),
    }


def channel_weights(*shape):
    """Channels of very different spreads; the last one is all but dead."""
    spreads = np.geomspace(1.0, 0.05, shape[-1])
    spreads[-1] = 1e-4
    return (weights(*shape) * spreads).astype("float32")


@pytest.mark.parametrize("axes", [None, -1, 0, (0, -1)])
@pytest.mark.parametrize("scale_free", [False, True])
def test_per_channel_values_and_gradients_are_the_formulas(axes, scale_free):
    w = channel_weights(3, 5, 4)
    axis = -1 if axes is None else axes
    stds, floor = oracle.channel_units(w, axis), oracle.floor(w)
    for regularizer, loss in by_channel(scale_free, axes).items():

        def expected(v, loss=loss):
            # The gradient goes through a channel's own spread, and takes the bound of the tensor as a constant.
            divisors, units = (oracle.channel_units(v, axis, floor), [1.0] * 99) if scale_free else (None, stds)
            return 0.5 * oracle.by_channel(lambda part, c: loss(part, units[c]), v, axis, divisors)

        assert number(regularizer(w)) == pytest.approx(expected(w), rel=1e-5)
        (found,) = gradients(regularizer, w)
        (differences,) = finite_differences(expected, w, step=1e-8)
        np.testing.assert_allclose(found, differences, rtol=1e-3, atol=1e-4 * np.abs(differences).max())


@pytest.mark.parametrize("make", R2)
def test_per_channel_scale_free_form_does_not_see_the_scales(make):
    w = weights(40, 6)
    options = {"scale_free": True, "granularity": "per_channel"}
    values = [number(make(1.0, **options)(w * s)) for s in (1.0, 1e-3, np.array([1, 2, 3, 0.2, 9, 1], "float32"))]
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("make", R2)
def test_per_channel_is_about_as_strong_as_per_tensor(make):
    w = weights(144, 32)
    # A margin is compared where it comes to rest: with one or two weights outside, in all or per channel.
    margins = ({"margin": 3.5}, {"margin": 2.5}) if make is R2Margin else ({}, {})
    pairs = zip(GRANULARITIES, margins, strict=True)
    whole, apart = (make(scale_free=True, granularity=name, **margin) for name, margin in pairs)
    total = [np.abs(gradients(regularizer, w)[0]).sum() for regularizer in (whole, apart)]
    assert 0.4 < total[1] / total[0] < 2.0
    assert 0.5 < number(apart(w)) / number(whole(w)) < 1.1


@pytest.mark.parametrize("make", R2)
def test_a_dead_channel_gets_no_wild_gradient(make):
    w = weights(30, 8)
    (alive,) = gradients(make(1.0, scale_free=True, granularity="per_channel"), w)
    w[:, 3] *= 1e-8
    (found,) = gradients(make(1.0, scale_free=True, granularity="per_channel"), w)
    assert np.abs(found[:, 3]).max() < 150 * np.abs(alive).max()


def test_kurtosis_value_is_the_formula():
    w = weights(20, 6)
    assert number(Kurtosis(2.0, target=2.5)(w)) == pytest.approx(2.0 * (oracle.kurtosis(w) - 2.5) ** 2, rel=1e-4)


@pytest.mark.parametrize("make", [R2Linf, R2SoftMinMax, R2Margin])
def test_scale_free_form_does_not_see_the_scale(make):
    w = weights(200)
    values = [number(make(1.0, scale_free=True)(w * scale)) for scale in (1e-3, 1.0, 50.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("make", R2)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scale_free_form_leaves_the_scale_alone(make, granularity):
    w = weights(60, 5) + np.float32(0.01)
    (found,) = gradients(make(1.0, scale_free=True, granularity=granularity), w)
    axis = None if granularity == "per_tensor" else 0
    along = np.sum(found * w, axis)
    np.testing.assert_allclose(along / np.linalg.norm(found, axis=axis) / np.linalg.norm(w, axis=axis), 0.0, atol=1e-5)


@pytest.mark.parametrize("make", R2)
def test_scale_free_form_alone_does_not_flatten_a_kernel(make):
    regularizer, w = make(1.0, scale_free=True), weights(300)
    start = w.std(), np.abs(w).max() / w.std()
    for _ in range(200):
        (gradient,) = gradients(regularizer, w)
        w = w - np.float32(0.1 * start[0] ** 2) * gradient
    assert w.std() > 0.9 * start[0]
    assert np.abs(w).max() / w.std() < 0.8 * start[1]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_give_a_float32_loss(make, dtype):
    w = ops.cast(weights(70_000), dtype)
    loss = make(1.0)(w)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert number(loss) == pytest.approx(number(make(1.0)(ops.cast(w, "float32"))), rel=1e-5)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("scale_free", [False, True])
def test_constant_weights_are_harmless(make, value, scale_free):
    every = [{}] if make is Kurtosis else [{"scale_free": scale_free, "granularity": g} for g in GRANULARITIES]
    for regularizer in (make(**options) for options in every):
        harmless(regularizer, np.full((7, 3), value, "float32"))


def harmless(regularizer, w):
    assert np.isfinite(number(regularizer(w)))
    assert np.isfinite(gradients(regularizer, w)[0]).all()
    assert np.abs(gradients(regularizer, w)[0]).max() <= 1.0


@pytest.mark.parametrize("make", ALL)
def test_paper_defaults_and_the_factor_in_both_places(make):
    assert make().factor == (1.0 if make is Kurtosis else 0.01)
    assert make(0.2).factor == make(factor=0.2).factor == 0.2
    with pytest.raises(TypeError):
        make(0.2, 2)


WHOLE = {"granularity": "per_tensor", "channel_axis": None}
CONFIGS = [
    (R2Linf, {"factor": 0.1, "dim": 2, "scale_free": True, **WHOLE}),
    (R2Linf, {"factor": 0.1, "dim": 1, "scale_free": True, "granularity": "per_channel", "channel_axis": None}),
    (R2Margin, {"factor": 0.1, "dim": 2, "scale_free": True, **WHOLE, "margin": 3.0}),
    (
        R2Margin,
        {
            "factor": 0.1,
            "dim": 1,
            "scale_free": True,
            "granularity": "per_channel",
            "channel_axis": [-2, -1],
            "margin": 3.0,
        },
    ),
    (
        R2SoftMinMax,
        {"factor": 0.1, "dim": 2, "scale_free": False, **WHOLE, "sharpness": 9.0, "learn_sharpness": False},
    ),
    (R2SoftMinMax, {"factor": 0.1, "dim": 1, "scale_free": True, **WHOLE, "sharpness": None, "learn_sharpness": None}),
    (
        R2SoftMinMax,
        {
            "factor": 0.1,
            "dim": 1,
            "scale_free": True,
            "granularity": "per_channel",
            "channel_axis": 0,
            "sharpness": None,
            "learn_sharpness": None,
        },
    ),
    (Kurtosis, {"factor": 0.1, "target": 2.0}),
]


@pytest.mark.parametrize(("make", "config"), CONFIGS)
def test_config_is_the_arguments_and_comes_back(make, config):
    written = json.loads(json.dumps(keras.regularizers.serialize(make(**config))))
    assert written["config"] == config
    again = keras.regularizers.deserialize(written)
    assert type(again) is make and again.get_config() == config


@pytest.mark.parametrize("make", ALL)
def test_names_and_dicts_resolve(make):
    name = make.__name__
    for identifier in (
        name,
        f"r2keras>{name}",
        {"class_name": name, "config": {}},
        {"class_name": f"r2keras>{name}", "config": {}},
        keras.regularizers.serialize(make()),
        make,
    ):
        assert type(keras.regularizers.get(identifier)) is make
    assert type(keras.layers.Dense(2, kernel_regularizer=name).kernel_regularizer) is make


BAD = [
    ({"factor": -0.1}, "factor"),
    ({"factor": float("nan")}, "factor"),
    ({"factor": "0.1"}, "factor"),
    ({"factor": True}, "factor"),
    ({"dim": 0}, "dim"),
    ({"dim": 1.5}, "dim"),
    ({"scale_free": 1}, "scale_free"),
    ({"granularity": "per_group"}, "granularity"),
    ({"granularity": None}, "granularity"),
    ({"granularity": "per_channel", "dim": 2}, "dim"),
    ({"channel_axis": -1}, "channel_axis"),
    ({"granularity": "per_channel", "channel_axis": "last"}, "channel_axis"),
    ({"granularity": "per_channel", "channel_axis": True}, "channel_axis"),
    ({"granularity": "per_channel", "channel_axis": (0, 1.0)}, "channel_axis"),
    ({"granularity": "per_channel", "channel_axis": []}, "channel_axis"),
]
BAD = [(make, options, name) for make in R2 for options, name in BAD] + [
    (R2Margin, {"margin": 0.0}, "margin"),
    (R2SoftMinMax, {"sharpness": 0.0}, "sharpness"),
    (R2SoftMinMax, {"sharpness": -3.0}, "sharpness"),
    (R2SoftMinMax, {"sharpness": float("inf")}, "sharpness"),
    (R2SoftMinMax, {"learn_sharpness": "yes"}, "learn_sharpness"),
    (Kurtosis, {"factor": -1.0}, "factor"),
    (Kurtosis, {"target": -1.0}, "target"),
]


@pytest.mark.parametrize(("make", "options", "name"), BAD)
def test_bad_arguments_are_named(make, options, name):
    with pytest.raises(
        (TypeError, ValueError), match=f"Invalid value for argument `{name}`. Expected .* Received: {name}="
    ):
        make(**options)


PLACES = {
    "dense": (lambda r: keras.layers.Dense(4, kernel_regularizer=r()), (8, 6), 1),
    "einsum": (lambda r: keras.layers.EinsumDense("abc,cd->abd", (8, 4), kernel_regularizer=r()), (8, 6), 1),
    "conv": (lambda r: keras.layers.Conv1D(4, 3, kernel_regularizer=r()), (8, 6), 1),
    "depthwise": (lambda r: keras.layers.DepthwiseConv1D(3, depthwise_regularizer=r()), (8, 6), 1),
    "separable": (
        lambda r: keras.layers.SeparableConv1D(4, 3, depthwise_regularizer=r(), pointwise_regularizer=r()),
        (8, 6),
        2,
    ),
    "lstm": (lambda r: keras.layers.LSTM(4, kernel_regularizer=r(), recurrent_regularizer=r()), (8, 6), 2),
    "bidirectional": (lambda r: keras.layers.Bidirectional(keras.layers.GRU(4, kernel_regularizer=r())), (8, 6), 2),
    "embedding": (lambda r: keras.layers.Embedding(10, 4, embeddings_regularizer=r()), (8,), 1),
}


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("place", PLACES)
def test_every_place_takes_them(make, place):
    layer, shape, count = PLACES[place][0](make), PLACES[place][1], PLACES[place][2]
    model = keras.Sequential([keras.Input(shape), layer])
    expected = sum(number(v.regularizer(v)) for v in model.trainable_weights if v.regularizer is not None)
    assert len(model.losses) == count
    assert number(ops.sum(ops.stack(model.losses))) == pytest.approx(expected, rel=1e-5)
