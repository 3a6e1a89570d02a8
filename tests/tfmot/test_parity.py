"""For equal weights and specs, TFMOT's wrapper, Keras 3's and the oracle give the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras import ActivationSpec, PaletteSpec, QuantSpec
from r2keras.layers import FakeQuantize, Palettize, QuantizeActivation
from r2keras.specs import ACTIVATION_METHODS
from r2keras.tfmot import LowBitQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.quantizers import ActivationQuantizer
from tests import oracles_quantizers as oracles
from tests import reference
from tests.oracles_activations import UPSTREAM as OUTER
from tests.oracles_activations import data, learned_range, oracle
from tests.oracles_dkm import naive_dkm
from tests.quantizers.cases import CASES, SCALE_SHAPES, SHAPE, UPSTREAM, weights

GROUPS = {"per_tensor": {}, "per_channel": {}, "per_group": {"group_size": 2}}
STE = {
    "ste8": {"num_bits": 8, "range": "min_max"},
    "ste3": {"num_bits": 3, "range": "percentile", "percentile": 90.0},
    "ste2": {"num_bits": 2, "range": "mse"},
    "ste2tread": {"num_bits": 2, "range": "min_max", "levels": "mid_tread"},
    "asymmetric": {"num_bits": 4, "range": "min_max", "symmetric": False},
    "asymmetric_mse": {"num_bits": 4, "range": "mse", "symmetric": False},
}
TABLE = [
    *((case, "per_channel") for case in CASES),
    *((case, granularity) for case in ("lsq2", "ewgs2", "ternary") for granularity in ("per_tensor", "per_group")),
]
EYE = np.eye(SHAPE[0], dtype="float32")
PALETTES = {
    "scalar": {"num_bits": 2},
    "vector": {"num_bits": 3, "dim": 2},
    "int8": {"num_bits": 2, "table_dtype": "int8"},
    "scaled": {"num_bits": 2, "channel_scale": True},
    "grouped": {"num_bits": 1, "granularity": "per_group", "group_size": 2},
}


def wrapped(config, values):
    """A Dense layer with the given kernel in TFMOT's wrapper, built."""
    layer = tf_keras.layers.Dense(values.shape[1], name="dense")
    layer.build((None, values.shape[0]))
    layer.kernel.assign(values)
    wrapper = tfmot.quantization.keras.QuantizeWrapperV2(layer, config)
    wrapper.build((None, values.shape[0]))
    return wrapper


def keras3(kind, spec, values):
    """A Dense layer with the given kernel in a wrapper of Keras 3, built."""
    layer = keras.layers.Dense(values.shape[1], name="dense")
    layer.build((None, values.shape[0]))
    layer.kernel.assign(values)
    return kind(layer, spec)


def differentiated(layer, inputs, upstream, variables):
    """The outputs in training, and the gradients to variables."""
    with tf.GradientTape() as tape:
        outputs = layer(tf.constant(inputs), training=True)
        value = tf.reduce_sum(outputs * upstream)
    return outputs.numpy(), [np.asarray(g) for g in tape.gradient(value, variables)]


def both(config, wrapper, values, upstream=UPSTREAM):
    """Outputs for the identity, that is the quantized kernel, and all gradients by name: TFMOT's, then Keras 3's."""
    legacy = wrapped(config, values)
    (variable, _, scalars) = legacy._weight_vars[0]
    learned = {name: v for name, v in scalars.items() if v.trainable}
    ours = differentiated(legacy, EYE, upstream, [variable, *learned.values()])
    (quantizer,) = (getattr(wrapper, "quantizers", None) or wrapper.palettes).values()
    same = {v.name: v.value for v in quantizer.trainable_variables}
    theirs = differentiated(wrapper, EYE, upstream, [wrapper.layer.kernel.value, *same.values()])
    assert list(learned) == list(same)
    found = [(value, first, dict(zip(learned, rest, strict=True))) for value, (first, *rest) in (ours, theirs)]
    return *found, {name: v.numpy() for name, v in scalars.items()}


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert set(ours[2]) == set(theirs[2])
    for name, gradient in ours[2].items():
        np.testing.assert_array_equal(gradient, theirs[2][name])


@pytest.mark.parametrize(("case", "granularity"), TABLE)
def test_methods(case, granularity):
    spec = QuantSpec(**CASES[case][0], granularity=granularity, **GROUPS[granularity])
    w = weights()
    ours, theirs, scalars = both(LowBitQuantizeConfig.of(spec), keras3(FakeQuantize, spec, w), w)
    assert_same(ours, theirs)
    known = {name: scalars[name] for name in ours[2]}
    value, gradient, learned = oracles.by_block(CASES[case][1], w, UPSTREAM, SCALE_SHAPES[granularity], **known)
    np.testing.assert_allclose(ours[0], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], gradient, rtol=1e-4, atol=1e-5)
    for name, expected in learned.items():
        np.testing.assert_allclose(ours[2][name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("case", "granularity"), [*((c, "per_channel") for c in STE), ("ste2", "per_group")])
def test_straight_through(case, granularity):
    spec = QuantSpec(**STE[case], granularity=granularity, **GROUPS[granularity])
    w, limits, shape = weights(), (spec.quant_min, spec.quant_max), SCALE_SHAPES[granularity]
    ours, theirs, stored = both(LowBitQuantizeConfig.of(spec), keras3(FakeQuantize, spec, w), w)
    assert_same(ours, theirs)
    if spec.range == "min_max":
        rise = spec.levels == "mid_rise"
        symmetric = lambda: reference.symmetric_range(w, shape, *limits, rise)  # noqa: E731
        grid = symmetric() if spec.symmetric else reference.asymmetric_range(w, shape, *limits)
    elif spec.range == "mse":
        grid = stored["scale"], stored["zero_point"]
    else:
        return
    np.testing.assert_array_equal(ours[0], reference.fake_quantize(w, *grid, *limits))
    np.testing.assert_array_equal(ours[1], UPSTREAM * reference.passes(w, *grid, *limits))


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("method", ACTIVATION_METHODS)
def test_activations(method, unsigned):
    x, delta = data(unsigned), 0.2 if method == "ewgs" else None
    how = {"range": "min_max"} if method == "ste" else {}
    spec = ActivationSpec(num_bits=3, method=method, unsigned=unsigned, delta=delta, **how)
    quantizer, owner = ActivationQuantizer(spec), tf_keras.layers.Layer()
    state = quantizer.build(None, "output", owner)
    keras_layer = QuantizeActivation(spec)
    found = []
    for call, variables in (
        (lambda x: quantizer(x, True, state), [v for v in state.values() if v.trainable]),
        (lambda x: keras_layer(x, training=True), [v.value for v in keras_layer.trainable_variables]),
    ):
        call(tf.constant(x))
        point = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = call(point)
            total = tf.reduce_sum(value * OUTER)
        found.append([value, *tape.gradient(total, [point, *variables])])
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    value, to_x, *_ = oracle(x, *learned_range(method, x, unsigned), 3, delta=delta or 0.0)
    np.testing.assert_allclose(found[0][0].numpy(), value, atol=1e-5)
    np.testing.assert_allclose(found[0][1].numpy(), to_x, atol=1e-5)
    ours, theirs = quantizer.grid(state), keras_layer.grid()
    assert ours == theirs


@pytest.mark.parametrize("case", PALETTES)
def test_palettes(case):
    spec, w = PaletteSpec(**PALETTES[case], min_size=0), weights()
    legacy, modern = wrapped(PalettizeQuantizeConfig.of(spec), w), keras3(Palettize, spec, w)
    palette = modern.palettes["kernel"]
    (variable, _, state) = legacy._weight_vars[0]
    start = palette.codebook.numpy()
    np.testing.assert_array_equal(state["codebook"].numpy(), start)
    ours = differentiated(legacy, EYE, UPSTREAM, [variable])
    theirs = differentiated(modern, EYE, UPSTREAM, [modern.layer.kernel.value])
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1][0], theirs[1][0])
    np.testing.assert_array_equal(state["codebook"].numpy(), palette.codebook.numpy())
    hard = legacy(EYE, training=False).numpy()
    np.testing.assert_array_equal(hard, np.asarray(modern(EYE, training=False)))
    if case == "scalar":
        point = tf.constant(w.reshape(-1, 1))
        with tf.GradientTape() as tape:
            tape.watch(point)
            soft, book = naive_dkm(point, tf.constant(start[0]), spec.temperature, spec.updates)
            total = tf.reduce_sum(soft * UPSTREAM.reshape(-1, 1))
        np.testing.assert_allclose(ours[0], soft.numpy().reshape(w.shape), atol=1e-4)
        np.testing.assert_allclose(ours[1][0], tape.gradient(total, point).numpy().reshape(w.shape), atol=1e-3)
        np.testing.assert_allclose(palette.codebook.numpy()[0], book.numpy(), atol=1e-4)
