"""EWGSDelta: traces against known Hessians, gradients, schedule, states, bad input."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import r2keras
from r2keras.callbacks import EWGSDelta
from r2keras.callbacks.curvature import ewgs_kernels
from r2keras.callbacks.gradients import gradient_function

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(4)
EYE = np.eye(4, dtype="float32")
CURVATURES = RNG.uniform(0.2, 2.0, (4, 5)).astype("float32")


def array(tensor):
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")), np.float64)


def quadratic(curvatures, outputs):
    """With one-hot inputs outputs are weights, and the Hessian of this loss is the diagonal of the curvatures."""
    return ops.sum(curvatures * outputs * outputs) / 2


def prepared(model, **options):
    student = r2keras.prepare(model, r2keras.Recipe([(".*", r2keras.QuantSpec(**{"method": "ewgs", **options}))]))
    student.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    return student


def two_kernels(**options):
    inputs = keras.Input((4,))
    parts = [layers.Dense(size, use_bias=False, name=name)(inputs) for name, size in (("a", 3), ("b", 2))]
    return prepared(keras.Model(inputs, layers.Concatenate()(parts)), **options)


def quantizer_of(student, name):
    return student.get_layer(name).quantizers["kernel"]


def parts_of(student, name):
    """Returns a kernel's grid values, and the distance of its outermost levels for each weight."""
    layer, quantizer = student.get_layer(name), quantizer_of(student, name)
    weight = layer.layer.kernel.value
    spans = (2**quantizer.spec.num_bits - 1) * array(quantizer.grid(weight)[0])
    return array(quantizer(weight)), np.broadcast_to(spans, tuple(weight.shape))


def estimate(student, *arguments, **options):
    """Returns one estimate, without training."""
    callback = EWGSDelta(*arguments, **options)
    callback.set_model(student)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    return callback.deltas


@pytest.mark.parametrize("num_bits", [1, 2, 4])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("batch_size", [4, 2])
def test_a_diagonal_hessian_is_exact_with_one_vector(num_bits, granularity, batch_size):
    student = two_kernels(num_bits=num_bits, granularity=granularity)
    deltas = estimate(student, EYE, CURVATURES, quadratic, samples=1, batch_size=batch_size)
    for name, columns in (("a", slice(0, 3)), ("b", slice(3, 5))):
        values, spans = parts_of(student, name)
        found = []
        for start in range(0, 4, batch_size):
            # The rows of the kernel whose inputs are not in the batch have neither gradient nor curvature.
            curvatures = np.zeros((4, 5))
            curvatures[start : start + batch_size] = CURVATURES[start : start + batch_size]
            curvatures = curvatures[:, columns]
            found.append((curvatures * spans**2).mean() / (3 * (curvatures * spans * values).std()))
        assert deltas[f"{name}/kernel"] == pytest.approx(np.mean(found), rel=1e-4)
        assert array(quantizer_of(student, name).delta) == pytest.approx(deltas[f"{name}/kernel"])


def test_a_full_hessian_is_met_on_average():
    x = RNG.normal(size=(40, 4)).astype("float32")
    student = two_kernels(num_bits=2, granularity="per_tensor")
    deltas = estimate(student, x, np.zeros((40, 5)), "mse", samples=60)
    values, spans = parts_of(student, "a")
    # L = mean((x w)^2) over 40 * 5 outputs: every column of w has the Hessian 2 x'x / 200.
    hessian = 2 * x.T.astype(np.float64) @ x / 200
    size = 3 * (spans * (hessian @ values)).std()
    assert deltas["a/kernel"] == pytest.approx((spans**2).mean() * np.trace(hessian) / 4 / size, rel=0.1)


def test_only_curvature_upwards_counts():
    student = two_kernels(num_bits=2)
    quantizer_of(student, "a").delta.assign(0.5)
    deltas = estimate(student, EYE, CURVATURES, lambda y, p: -quadratic(y, p), samples=1)
    assert deltas == {"a/kernel": 0.0, "b/kernel": 0.0} and array(quantizer_of(student, "a").delta) == 0.0


def test_a_kernel_without_a_gradient_gets_zero():
    deltas = estimate(two_kernels(num_bits=2), EYE, CURVATURES, lambda y, p: quadratic(y[:, :3], p[:, :3]), samples=1)
    assert deltas["b/kernel"] == 0.0 < deltas["a/kernel"]


def test_states_stay_and_random_numbers_repeat():
    parts = [layers.Dropout(0.5), layers.Dense(6, name="a"), layers.BatchNormalization(), layers.Dense(5, name="b")]
    student = prepared(keras.Sequential([keras.Input((4,)), *parts]), num_bits=2)
    before = [array(v) for v in student.variables]
    deltas = estimate(student, np.tile(EYE, (8, 1)), np.tile(CURVATURES, (8, 1)), quadratic, samples=4)
    # Masks that differ between the two ends of a difference would put 1 / step = 128 into it.
    assert all(0.0 <= delta < 20.0 for delta in deltas.values())
    changed = [v.name for v, old in zip(student.variables, before, strict=True) if not np.array_equal(array(v), old)]
    assert changed == ["delta", "delta"]


class Spy(keras.callbacks.Callback):
    """Notes at which epochs the strengths were set, and overwrites them."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer, self.epochs = quantizer, []

    def on_epoch_end(self, epoch, logs=None):
        if array(self.quantizer.delta) != 0.125:
            self.epochs.append(epoch)
        self.quantizer.delta.assign(0.125)


def test_training_goes_on_with_estimates_every_other_epoch():
    student = two_kernels(num_bits=2)
    callback, spy = EWGSDelta(EYE, CURVATURES, quadratic, every=2, samples=1), Spy(quantizer_of(student, "a"))
    kernel = array(student.get_layer("a").layer.kernel)
    history = student.fit(EYE, CURVATURES, epochs=5, verbose=0, callbacks=[callback, spy])
    assert spy.epochs == [0, 2, 4]
    assert np.isfinite(history.history["loss"]).all() and history.history["loss"][-1] < history.history["loss"][0]
    assert not np.array_equal(array(student.get_layer("a").layer.kernel), kernel)
    assert r2keras.finalize(student)[1].tensors.keys() == callback.deltas.keys()


@pytest.mark.slow_elsewhere
def test_recurrent_and_nested_kernels_and_quantized_activations():
    block = keras.Sequential([keras.Input((3, 4)), layers.LSTM(3, name="lstm")], name="block")
    parts = [layers.Dense(4, activation="relu", name="hidden"), layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((3, 4)), block, *parts])
    ewgs = r2keras.QuantSpec(num_bits=2, method="ewgs")
    quantized = r2keras.QuantSpec(num_bits=2, method="ewgs", activation_bits=2)
    recipe = [("hidden", quantized), ("recurrent", ewgs), (".*", r2keras.QuantSpec(num_bits=8))]
    student = r2keras.prepare(model, r2keras.Recipe(recipe))
    x, y = RNG.normal(size=(8, 3, 4)), RNG.integers(0, 2, (8,))
    deltas = estimate(student, x, y, keras.losses.SparseCategoricalCrossentropy(from_logits=True), samples=2)
    assert set(deltas) == {"block/lstm/lstm_cell/recurrent_kernel", "hidden/kernel"}
    assert all(np.isfinite(delta) for delta in deltas.values())


def test_gradients_of_several_tensors():
    points = [RNG.normal(size=shape).astype("float32") for shape in ((3, 2), (4,), (2,))]
    found = gradient_function(lambda t, c: ops.sum(t[0] ** 3) + c * ops.sum(t[1]))(points, 2.0)
    np.testing.assert_allclose(found[0], 3 * points[0] ** 2, rtol=1e-5)
    np.testing.assert_array_equal(found[1], np.full(4, 2.0))
    np.testing.assert_array_equal(found[2], np.zeros(2))
    np.testing.assert_array_equal(gradient_function(lambda t: ops.ones(()))(points[1:2])[0], np.zeros(4))


def test_frozen_kernels_are_left_out():
    student = two_kernels(num_bits=2)
    student.get_layer("b").trainable = False
    assert [kernel.full_name for kernel in ewgs_kernels(student)] == ["a/kernel"]
    student.get_layer("a").trainable = False
    with pytest.raises(ValueError, match="no trained kernel that EWGS quantizes"):
        estimate(student, EYE, CURVATURES, quadratic)


def test_a_model_without_ewgs_is_refused():
    with pytest.raises(ValueError, match=r"no trained kernel that EWGS quantizes.*Leave out EWGSDelta"):
        two_kernels(method="lsq").fit(EYE, CURVATURES, verbose=0, callbacks=[EWGSDelta(EYE, CURVATURES, "mse")])


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"infinite gradients for a/kernel"):
        estimate(two_kernels(num_bits=2), EYE, CURVATURES, lambda y, p: ops.sum(p / (y * 0.0)))


BAD = [
    ({"every": 0}, "every"),
    ({"every": 1.5}, "every"),
    ({"every": True}, "every"),
    ({"samples": 0}, "samples"),
    ({"batch_size": 0}, "batch_size"),
    ({"seed": -1}, "seed"),
    ({"x": EYE[:0]}, "x"),
    ({"x": []}, "x"),
    ({"x": EYE * np.nan}, "x"),
    ({"y": CURVATURES[:3]}, "y"),
    ({"y": None}, "y"),
    ({"loss": None}, "loss"),
    ({"loss": 3}, "loss"),
]


@pytest.mark.parametrize(("options", "name"), BAD)
def test_bad_arguments_are_named(options, name):
    with pytest.raises((TypeError, ValueError), match=f"argument `{name}`"):
        EWGSDelta(**{"x": EYE, "y": CURVATURES, "loss": "mse", **options})
