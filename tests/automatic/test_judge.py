"""What a drop is: accuracy, agreement, output error, or the caller's function."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from r2keras.automatic.judge import WORST, Judge, has_regression_loss, output_error

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
pytestmark = pytest.mark.backends


def net(units=3, activation=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation=activation)])


def test_error_of_probabilities_is_their_divergence():
    p, q = (np.random.default_rng(seed).dirichlet(np.ones(4), 10).astype("float32") for seed in (0, 1))
    expected = np.mean([sum(a * (np.log(a) - np.log(b))) for a, b in zip(p, q, strict=True)])
    assert output_error([p], [q]) == pytest.approx(expected, rel=1e-5)


def test_error_of_other_outputs_is_relative_to_their_variance():
    y = np.array([[0.0, 2.0], [4.0, 6.0]])
    assert output_error([y, y], [y, y + 1]) == pytest.approx(1 / 5)


def test_outputs_that_are_not_finite_are_far():
    assert output_error([np.zeros((2, 1))], [np.full((2, 1), np.nan)]) == WORST


def test_accuracy_drops_by_the_decisions_that_become_wrong():
    model = net()
    judge = Judge(model, [[X[:12]], [X[12:]]], np.argmax(keras.ops.convert_to_numpy(model(X)), axis=1), None)
    assert (judge.name, judge.float_quality, judge.num_samples) == ("accuracy", 1.0, 24)
    outputs = np.array(keras.ops.convert_to_numpy(model(X)))
    outputs[:6] = np.roll(outputs[:6], 1, axis=1)
    found = judge.of_outputs([outputs])
    assert (found.quality, found.drop) == (0.75, 0.25)
    assert found.noise == pytest.approx(np.std([1] * 6 + [0] * 18) / np.sqrt(24))


def test_agreement_needs_no_labels():
    judge = Judge(net(), [[X]], None, None)
    assert (judge.name, judge.judge(net()).drop) == ("agreement", 0.0)


@pytest.mark.parametrize(
    ("units", "activation", "is_regression", "name"),
    [
        (1, "sigmoid", False, "agreement"),
        (1, None, False, "output_error"),  # A number that is predicted: its sign decides nothing.
        (4, None, False, "output_error"),  # As many outputs as inputs: an autoencoder.
        (3, None, True, "output_error"),
    ],
)
def test_outputs_without_classes_are_judged_by_their_error(units, activation, is_regression, name):
    assert Judge(net(units, activation), [[X]], None, None, is_regression).name == name


def test_a_decision_that_never_changes_does_not_judge():
    model = net()
    model.layers[0].bias.assign([0.0, 100.0, 0.0])
    assert Judge(model, [[X]], None, None).name == "output_error"


@pytest.mark.parametrize(
    ("loss", "is_regression"),
    [
        ("mae", True),
        (keras.losses.Huber(), True),
        (keras.losses.mean_squared_error, True),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        (lambda labels, outputs: outputs, False),
        (None, False),
    ],
)
def test_the_loss_says_whether_numbers_are_predicted(loss, is_regression):
    model = net()
    model.compile(loss=loss)
    assert has_regression_loss(model) is is_regression


def test_two_functions_of_one_name_have_different_marks():
    labels = np.ones(24)
    first, same, other = (
        Judge(net(), [[X]], labels, function).mark
        for function in (lambda a, b: a.sum(), lambda a, b: a.sum(), lambda a, b: a.sum() * 2)
    )
    assert first == same != other


def test_expected_accuracy_is_the_float_probability_of_the_decisions():
    model = net(activation="softmax")
    p = np.asarray(keras.ops.convert_to_numpy(model(X)))
    judge = Judge(model, [[X]], None, None)
    assert (judge.name, judge.float_quality) == ("expected_accuracy", pytest.approx(p.max(axis=1).mean()))
    others = np.roll(p, 1, axis=1)
    expected = [p[i, others[i].argmax()] for i in range(24)]
    found = judge.of_outputs([others])
    assert found.quality == pytest.approx(np.mean(expected))
    assert found.noise == pytest.approx(np.std(p.max(axis=1) - expected) / np.sqrt(24), rel=1e-5)


def test_sequences_are_judged_by_their_error():
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(2)])
    judge = Judge(model, [[X.reshape(4, 6, 4)]], None, None)
    assert (judge.name, judge.float_quality) == ("output_error", 1.0)


def test_a_function_gets_labels_and_outputs():
    judge = Judge(net(), [[X]], np.ones(24), lambda labels, outputs: labels.sum() + outputs.shape[1])
    assert judge.float_quality == 27.0


def test_a_metric_of_keras_starts_anew_with_every_model():
    model = net()
    outputs = np.asarray(keras.ops.convert_to_numpy(model(X)))
    judge = Judge(model, [[X]], outputs.argmax(axis=1), keras.metrics.SparseCategoricalAccuracy())
    assert judge.float_quality == 1.0
    assert judge.of_outputs([-outputs]).quality == 0.0
    assert (judge.of_outputs([outputs]).quality, judge.name) == (1.0, "sparse_categorical_accuracy")


@pytest.mark.parametrize(
    ("labels", "metric", "words"),
    [
        (None, "accuracy", "`labels`. Expected labels"),
        (None, "f1", "`metric`"),
        (None, "expected_accuracy", "Add a softmax"),
        (np.full(24, 3), None, "from 0 to 2"),
        (np.ones((24, 3)), None, "Pass metric="),
        (np.ones(24), lambda labels, outputs: 1 / 0, "raises ZeroDivisionError"),
        (np.ones(24), lambda labels, outputs: np.nan, "finite number"),
    ],
)
def test_mistakes_are_told_before_any_work(labels, metric, words):
    with pytest.raises(ValueError, match=words.replace("`", ".")) as error:
        Judge(net(), [[X]], labels, metric)
    assert "\n" not in str(error.value)
