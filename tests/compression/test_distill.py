"""Distillation: losses from the formulas, every kind of data, features, and a student that comes near its teacher."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import r2keras
from r2keras.compression import distill as module
from r2keras.compression.distill import distill

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype("float32")


def net(activation="softmax", seed=0):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(16, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3, activation=activation, name="head")])


def array(tensor):
    return ops.convert_to_numpy(tensor)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_targets_and_loss_are_the_formulas(activation, temperature):
    teacher, student = net(activation), net(activation, seed=1)
    targets = module._Targets(teacher, 1, temperature, 0.25)
    labels = np.arange(len(X)) % 3
    (found,) = targets.of(X, labels)
    logits = array(teacher(X)) if activation is None else np.log(array(teacher(X)))
    p = softmax(logits.astype(np.float64) / temperature)
    np.testing.assert_allclose(found, 0.25 * np.eye(3)[labels] + 0.75 * p, atol=1e-5)
    (loss,) = targets.losses((X, found), 1.0)
    outputs = array(student(X)).astype(np.float64)
    q = softmax((outputs if activation is None else np.log(outputs)) / temperature)
    expected = -(temperature**2) * np.sum(found * np.log(q), axis=-1)
    np.testing.assert_allclose(array(loss(ops.convert_to_tensor(found), student(X))), expected, rtol=2e-4)


def test_other_outputs_have_a_squared_loss_in_shares_of_the_variance():
    inputs = keras.Input((6,))
    teacher = keras.Model(inputs, layers.Reshape((2, 2))(layers.Dense(4)(inputs)))
    targets = module._Targets(teacher, 1, 1.0, 0.3)
    (found,) = targets.of(X, None)
    (loss,) = targets.losses((X, found), 1.0)
    values = array(loss(ops.convert_to_tensor(found), ops.convert_to_tensor(np.zeros_like(found))))
    np.testing.assert_allclose(values, np.mean(found**2, axis=(1, 2)) / np.var(found), rtol=1e-4)


def test_a_student_at_two_bits_comes_nearer_to_its_teacher_without_labels():
    teacher = net(None)
    student = r2keras.prepare(
        teacher, r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=2, granularity="per_tensor"))])
    )
    before = [array(v) for v in teacher.variables]

    def divergence(model):
        p, q = softmax(array(teacher(X))), softmax(array(model(X)))
        return np.mean(np.sum(p * np.log(p / q), axis=-1))

    distance = divergence(student)
    history = distill(student, teacher, X, epochs=40, batch_size=30, learning_rate=0.03, verbose=0)
    assert len(history.history["loss"]) == 40
    small, record = r2keras.finalize(student)
    assert divergence(small) < 0.8 * distance
    assert record.tensors["hidden/kernel"].spec.num_bits == 2
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, array(new))


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(30 * index, 30 * index + 30)
        return X[part], (np.arange(90) % 3)[part]


def parts():
    return (X[start : start + 30] for start in range(0, 90, 30))


@pytest.mark.parametrize(
    "data", [X, [X], parts, Pairs(), list(zip([X[:30], X[30:]], [[0] * 30, [1] * 60], strict=True))]
)
@pytest.mark.usefixtures("eager")
def test_every_kind_of_data(data):
    teacher, student = net(), net(seed=1)
    if isinstance(data, list) and isinstance(data[0], tuple):
        data = [(x, np.asarray(y)) for x, y in data]
    history = distill(student, teacher, data, epochs=2, batch_size=30, learning_rate=0.02, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.usefixtures("eager")
def test_features_pull_layers_together():
    teacher, student = net(), net(seed=1)

    def gap():
        watched = [keras.Model(m.inputs, m.get_layer("hidden").output) for m in (student, teacher)]
        return float(np.mean((array(watched[0](X)) - array(watched[1](X))) ** 2))

    before = gap()
    arguments = {"epochs": 8, "batch_size": 30, "learning_rate": 0.02, "verbose": 0}
    distill(student, teacher, X, features=["hidden"], feature_weight=10.0, **arguments)
    assert gap() < 0.7 * before


def test_callbacks_steps_and_another_optimizer():
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    student = net(seed=1)
    options = {"optimizer": keras.optimizers.SGD(0.1), "callbacks": [watch], "steps_per_epoch": 5, "verbose": 0}
    distill(student, net(), X, epochs=3, batch_size=30, **options)
    assert seen == [0, 1, 2]
    assert int(student.optimizer.iterations) == 15


@pytest.mark.parametrize(
    "arguments, error, expected",
    [
        ({"data": X[:0]}, ValueError, "at least one sample"),
        ({"labels": np.arange(89)}, ValueError, "of one length"),
        ({"labels": np.full(90, 7)}, ValueError, "class numbers from 0 to 2"),
        ({"labels": np.zeros(90)}, ValueError, "one class number"),
        ({"label_share": 2.0}, ValueError, "`label_share`"),
        ({"temperature": 0.0}, ValueError, "`temperature`"),
        ({"epochs": 0}, ValueError, "`epochs`"),
        ({"features": ["none"]}, ValueError, "'none'; the student has 'hidden', 'head'"),
        ({"data": iter([X])}, ValueError, "can be read once"),
        ({"data": lambda: iter([])}, ValueError, "a number of batches"),
        ({"data": parts, "labels": np.zeros(90, int)}, ValueError, "Yield pairs"),
        ({"teacher": "m.keras"}, TypeError, "`teacher`"),
        ({"teacher": keras.Sequential([keras.Input((6,)), layers.Dense(4)])}, ValueError, "the teacher's outputs"),
        ({"data": np.full((4, 6), np.nan, "float32")}, ValueError, "teacher"),
    ],
)
def test_bad_input(arguments, error, expected):
    student = net(seed=1)
    before = [array(v) for v in student.trainable_variables]
    with pytest.raises(error, match=expected):
        distill(**{"student": student, "teacher": net(), "data": X, "verbose": 0, **arguments})
    for old, new in zip(before, student.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, array(new))
