"""Batch-norm re-estimation against the same computation in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, finalize, prepare
from r2keras._models import walk
from r2keras.calibration import batch_norm, reestimate_batch_norm
from tests import nets

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(8)
BATCHES = [RNG.normal(1.0, 2.0, (samples, 5)).astype("float32") for samples in (8, 8, 3)]


def net(trainable=True):
    """Dense, norm, ReLU, dropout, dense, norm: random weights and statistics."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, name="one"),
            layers.BatchNormalization(name="norm1", epsilon=0.01, trainable=trainable),
            layers.ReLU(),
            layers.Dropout(0.9),
            layers.Dense(3, name="two"),
            layers.BatchNormalization(name="norm2", scale=False, trainable=trainable),
        ]
    )
    return nets.shaken(model)


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable), np.float64)


def normalized(h, norm, values):
    """Normalises with the statistics of all data, which go into `values`."""
    mean, variance = h.mean(axis=0), h.var(axis=0)
    values.append((mean, variance))
    scale = array(norm.gamma) if norm.scale else 1.0
    return (h - mean) / np.sqrt(variance + norm.epsilon) * scale + array(norm.beta)


def measured(model, batches):
    """The statistics of both norms on all samples, layer by layer."""
    one, norm1, two, norm2 = (model.get_layer(name) for name in ("one", "norm1", "two", "norm2"))
    found = []
    x = np.concatenate(batches)
    h = np.maximum(normalized(x @ array(one.kernel) + array(one.bias), norm1, found), 0.0)
    normalized(h @ array(two.kernel) + array(two.bias), norm2, found)
    return found


def check(model, expected):
    for name, (mean, variance) in zip(("norm1", "norm2"), expected, strict=True):
        np.testing.assert_allclose(array(model.get_layer(name).moving_mean), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(array(model.get_layer(name).moving_variance), variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainable", [True, False])
def test_statistics_are_those_of_all_samples_without_dropout(trainable):
    model = net(trainable)
    others = {path: value for path, value in nets.weights_of(model).items() if "moving" not in path}
    expected = measured(model, BATCHES)
    assert reestimate_batch_norm(model, BATCHES) == 2
    check(model, expected)
    after = nets.weights_of(model)
    assert all(np.array_equal(after[path], value) for path, value in others.items())


def test_measuring_again_gives_the_same():
    model = net()
    expected = measured(model, BATCHES)
    for _ in range(2):
        reestimate_batch_norm(model, BATCHES)
    check(model, expected)


@pytest.mark.parametrize("batch_size", [1, 5, 19])
def test_batches_have_no_effect(batch_size):
    model, x = net(), np.concatenate(BATCHES)
    reestimate_batch_norm(model, x, batch_size=batch_size)
    check(model, measured(net(), [x]))


def test_data_that_need_too_much_memory_are_measured_in_parts(monkeypatch):
    """Each part is normalized by its own statistics: those of the first norm are exact."""
    monkeypatch.setattr(batch_norm, "MAX_BYTES", 0)
    model, x = net(), np.concatenate(BATCHES)
    reestimate_batch_norm(model, x, batch_size=10)
    found = [array(model.get_layer(name).moving_mean) for name in ("norm1", "norm2")]
    (first, _), (second, _) = measured(net(), [x])
    np.testing.assert_allclose(found[0], first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], second, atol=0.5)
    assert not np.allclose(found[1], second, rtol=1e-4, atol=1e-5)


def test_batches_of_the_data_give_the_same_bits():
    x = np.concatenate(BATCHES)
    found = []
    for data in (x, [x[i : i + 1] for i in range(len(x))], iter([x[10:], x[:10]]), x[::-1]):
        model = net()
        reestimate_batch_norm(model, data)
        found.append([array(weight) for weight in model.weights])
    for other in found[1:]:
        assert all(np.array_equal(one, first) for one, first in zip(other, found[0], strict=True))


def test_sorted_arrays_are_shuffled():
    """One batch a class would leave out what differs between the classes."""
    x = np.sort(RNG.normal(size=(256, 1)).astype("float32"), axis=0)
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization(name="norm")])
    reestimate_batch_norm(model, x, batch_size=64)
    assert array(model.get_layer("norm").moving_variance)[0] == pytest.approx(x.var(), rel=0.1)


def test_with_a_reference_only_the_change_is_carried_over():
    model, reference = net(), net()
    reference.get_layer("one").kernel.assign(array(reference.get_layer("one").kernel) * 0.8 + 0.05)
    before = [(array(n.moving_mean), array(n.moving_variance)) for n in map(model.get_layer, ("norm1", "norm2"))]
    untouched = nets.weights_of(reference)
    after, floats = measured(model, BATCHES), measured(reference, BATCHES)
    reestimate_batch_norm(model, BATCHES, reference=reference)
    check(
        model,
        [
            (mean + mean_q - mean_f, variance * var_q / var_f)
            for (mean, variance), (mean_q, var_q), (mean_f, var_f) in zip(before, after, floats, strict=True)
        ],
    )
    assert all(np.array_equal(untouched[path], value) for path, value in nets.weights_of(reference).items())


def test_a_dead_channel_keeps_its_variance():
    model, reference = net(), net()
    for one in (model, reference):
        kernel = array(one.get_layer("one").kernel)
        kernel[:, 0] = 0.0
        one.get_layer("one").kernel.assign(kernel)
    start = array(model.get_layer("norm1").moving_variance)[0]
    reestimate_batch_norm(model, BATCHES, reference=reference)
    assert array(model.get_layer("norm1").moving_variance)[0] == start
    assert all(np.isfinite(value).all() for value in nets.weights_of(model).values())


def test_the_same_model_as_reference_changes_nothing():
    model = net()
    before = nets.weights_of(model)
    reestimate_batch_norm(model, BATCHES, reference=net())
    for path, value in nets.weights_of(model).items():
        np.testing.assert_allclose(value, before[path], rtol=1e-6)


def test_norms_of_nested_and_frozen_models_are_measured():
    x = keras.Input((5,))
    block = keras.Model(x, layers.BatchNormalization(name="norm")(layers.Dense(4, name="dense")(x)), name="block")
    block.trainable = False
    model = nets.shaken(keras.Sequential([keras.Input((5,)), block]))
    layers_by_path = dict(walk.leaf_layers(model))
    dense, norm = layers_by_path["block/dense"], layers_by_path["block/norm"]
    h = BATCHES[0] @ array(dense.kernel) + array(dense.bias)
    assert reestimate_batch_norm(model, BATCHES[:1]) == 1
    np.testing.assert_allclose(array(norm.moving_mean), h.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(norm.moving_variance), h.var(axis=0), rtol=1e-4, atol=1e-5)
    assert not norm.trainable


def test_a_norm_used_twice_takes_both_uses_together():
    x = keras.Input((4,))
    norm = layers.BatchNormalization(name="norm", center=False, scale=False)
    model = keras.Model(x, layers.Add()([norm(x), norm(layers.Rescaling(2.0)(x))]))
    data = RNG.normal(3.0, 1.0, (16, 4)).astype("float32")
    reestimate_batch_norm(model, [data[:8], data[8:]])
    both = np.concatenate([data, 2 * data])
    np.testing.assert_allclose(array(norm.moving_mean), both.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(array(norm.moving_variance), both.var(axis=0), rtol=1e-4)


def test_masked_steps_do_not_count():
    steps = keras.Input((4, 2))
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(steps, norm(layers.Masking()(steps)))
    data = RNG.normal(3.0, 1.0, (6, 4, 2)).astype("float32")
    data[:4, 1:] = 0.0
    reestimate_batch_norm(model, data, batch_size=1)
    valid = data[np.any(data, axis=-1)]
    np.testing.assert_allclose(array(norm.moving_mean), valid.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(array(norm.moving_variance), valid.var(axis=0), rtol=1e-3)


def test_a_model_without_norms_needs_no_data():
    assert reestimate_batch_norm(nets.nested(), None) == 0


def test_no_data_is_refused():
    with pytest.raises(ValueError, match=r"`data`.*2 batch-norm layers.*batch_norm='keep'"):
        reestimate_batch_norm(net(), None)


def test_a_student_is_measured_on_its_quantized_weights():
    """At the end of training: the same as measuring the finalized model."""
    data = np.concatenate(BATCHES)
    student = prepare(net(), Recipe([(".*", QuantSpec(num_bits=2))]))
    wanted = finalize(student)[0]
    assert reestimate_batch_norm(wanted, data) == reestimate_batch_norm(student, data) == 2
    for name in ("norm1", "norm2"):
        for got, expected in zip(
            finalize(student)[0].get_layer(name).non_trainable_variables,
            wanted.get_layer(name).non_trainable_variables,
            strict=True,
        ):
            np.testing.assert_allclose(array(got), array(expected), rtol=1e-5, atol=1e-6)
