"""Complete searches on tiny models: in this process, stopped and resumed, in two processes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import r2keras
from r2keras.search import load, run, training, worker


def labels(outcome, state="complete"):
    return sorted(row["label"] for row in outcome.rows if row["state"] == state)


def test_every_candidate_is_trained_and_the_front_is_saved(search, tmp_path):
    asked = search(widths=(1.5,), max_drop=1.0, epochs=1)
    found = run(asked, tmp_path)
    assert labels(found) == ["float, width 1.5", "ste, 2 bits, width 1.5", "ste, 4 bits, width 1.5"]
    assert found.left == 0
    saved = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert len(saved) == 2 * len(found.front)
    row = found.chosen
    model = keras.models.load_model(row["path"], compile=False)
    record = r2keras.CompressionRecord.load(row["path"].replace(".keras", ".record.npz"))
    assert np.array_equal(model.get_layer("head").kernel.numpy(), record.tensors["head/kernel"].values())
    assert (r2keras.report.summarize(record).ideal_bytes + 4 * (8 + 3)) <= row["bytes"]
    assert load(tmp_path).to_dict() == found.to_dict()


def test_a_stopped_search_goes_on(search, tmp_path, monkeypatch):
    asked, calls, whole = search(epochs=1), [], training.train

    def train(*args):
        calls.append(args[2].label)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(worker, "train", train)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path)
    first = load(tmp_path)
    assert labels(first) == ["float, width 1"]
    assert first.left == 2
    again = run(asked, tmp_path)
    assert "float, width 1" not in calls[1:]
    assert labels(again) == ["float, width 1", "ste, 2 bits, width 1", "ste, 4 bits, width 1"]
    assert run(asked, tmp_path).rows == again.rows
    assert len(calls) == 4


def test_a_candidate_that_cannot_be_trained_is_told_and_the_others_go_on(search, tmp_path, monkeypatch):
    whole = training.train

    def train(asked, model, candidate, *rest):
        if candidate.num_bits == 2:
            raise ValueError("The loss became NaN.")
        return whole(asked, model, candidate, *rest)

    monkeypatch.setattr(worker, "train", train)
    found = run(search(epochs=1), tmp_path)
    assert [row["reason"] for row in found.rows if row["state"] == "failed"] == ["The loss became NaN"]
    assert labels(found) == ["float, width 1", "ste, 4 bits, width 1"]


@pytest.mark.slow
def test_two_processes_train_each_candidate_once(search, tmp_path):
    found = run(search(epochs=1), tmp_path, jobs=2)
    assert labels(found) == ["float, width 1", *(f"ste, {bits} bits, width 1" for bits in (2, 4))]
    assert len({row["trial"] for row in found.rows}) == 3


def test_filters_are_searched_as_units_are(folder, search, tmp_path):
    image = {"model": folder / "image.keras", "data": folder / "image.npz", "methods": ("lsq",), "activation_bits": 4}
    found = run(search(**image, bits=(2,), widths=(1.5,), epochs=1), tmp_path)
    assert labels(found) == ["float, width 1.5", "lsq, 2 bits, width 1.5"]
    assert found.controls[0]["bytes"] == 4 * (9 * 6 + 4 * 6 + 9 * 6 + 6 + 6 * 3 + 3)
    model = keras.models.load_model(found.front[0]["path"], compile=False)
    assert (model.get_layer("conv").filters, model.get_layer("deep").kernel.shape) == (6, (3, 3, 6, 1))
    record = r2keras.CompressionRecord.load(found.front[0]["path"].replace(".keras", ".record.npz"))
    assert all(np.unique(tensor.codes).size <= 4 for tensor in record.tensors.values()) and record.activations


def test_states_fitted_at_run_time_can_be_asked_for(folder, search, tmp_path):
    text = {"model": folder / "text.keras", "data": folder / "text.npz", "length": 10, "metric": "perplexity"}
    asked = search(**text, bits=(2,), epochs=1, activation_bits=3, activation_method="alternating")
    found = run(asked, tmp_path)
    model = keras.models.load_model(found.front[0]["path"], compile=False)
    assert model.get_layer("lstm").specs.state == r2keras.QuantSpec(num_bits=3, method="alternating")


def test_language_model_is_judged_by_perplexity(folder, search, tmp_path):
    text = {"model": folder / "text.keras", "data": folder / "text.npz", "length": 10, "metric": "perplexity"}
    found = run(search(**text, bits=(4,), widths=(1.5,), epochs=1), tmp_path)
    assert labels(found) == ["float, width 1.5", "ste, 4 bits, width 1.5"]
    assert all(1 < row["perplexity"] < 30 for row in found.rows)


@pytest.mark.parametrize("softmax", [True, False])
def test_perplexity_is_the_exponential_of_the_mean_cross_entropy(search, softmax):
    rng = np.random.default_rng(0)
    last = "softmax" if softmax else None
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation=last)])
    x, y = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 4, 40)
    kernel, bias = (np.asarray(w) for w in model.get_weights())
    logits = (x @ kernel + bias).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.exp(-np.log(chances[np.arange(40), y]).mean())
    data = training.SearchData(x, y, x, y)
    asked = search(metric="perplexity")
    assert training._evaluate(model, asked, data, not softmax) == pytest.approx(expected, rel=1e-5)
    assert training._evaluate(model, search(), data, not softmax) == pytest.approx((chances.argmax(-1) == y).mean())


def test_float_control_starts_from_the_trained_weights(search, folder):
    model = keras.models.load_model(folder / "m.keras")
    asked = search(learning_rate=1e-12, epochs=1, widths=(1, 2))
    data = training.SearchData(*[np.zeros((4, 6), "float32"), np.zeros(4, int)] * 2)
    control = r2keras.search.space.Candidate("float", 32, 2.0)
    wide = training.train(asked, model, control, data, lambda *_: None).model
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(wide(x), model(x), atol=1e-5)
    assert wide.get_layer("hidden").units == 16
