"""The Penn Treebank example's network: its fast step against plain Keras, checkpoints and file."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "examples"))

from ptb_lib.softmax import Sampler, full_loss, sampled_loss

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from ptb_lib.export import export, one_row
    from ptb_lib.model import BATCH, build, latent_weights, perplexity, set_ranges
    from ptb_lib.recurrence import recurrence
    from ptb_lib.stages import Stage, file_name, label
    from ptb_lib.step import CLIP, Step
    from ptb_lib.training import Schedule, load_checkpoint, read_stages, save_checkpoint, scalars, train

    from r2keras import QuantSpec, finalize
    from r2keras.workloads.text import Text

WORDS, UNITS, LENGTH = 40, 6, 5


@pytest.fixture
def window():
    """A window of words and the words that follow."""
    return np.random.default_rng(1).integers(0, WORDS, (2, BATCH, LENGTH)).astype(np.int32)


def spread(net):
    """Gives a net weights large enough for every part of it to matter."""
    rng = np.random.default_rng(2)
    for variable in latent_weights(net).values():
        variable.assign(rng.normal(size=variable.shape) * 0.6)
    set_ranges(net)
    return net


def loss_of(net, window):
    """The mean loss of a window in plain Keras."""
    logits = net(window[0], training=True)
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(window[1], logits, from_logits=True))


class TestRecurrence:
    def test_values_and_gradients_are_those_of_a_plain_loop(self):
        rng = np.random.default_rng(0)
        z, u, h, c = (tf.constant(rng.normal(size=s), "float32") for s in ((7, 2, 12), (3, 12), (2, 3), (2, 3)))

        def plain(z, u, h, c):
            states = []
            for pre in tf.unstack(z):
                i, f, g, o = tf.split(pre + h @ u, 4, axis=-1)
                c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
                h = tf.sigmoid(o) * tf.tanh(c)
                states.append(h)
            return tf.stack(states), c

        found = []
        for function in (plain, recurrence):
            with tf.GradientTape() as tape:
                tape.watch([z, u])
                states, cell = function(z, u, h, c)
                loss = tf.reduce_sum(tf.sin(3.0 * states))
            found.append([states, cell, *tape.gradient(loss, [z, u])])
        for expected, value in zip(*found, strict=True):
            np.testing.assert_allclose(value, expected, atol=2e-6)

    def test_states_go_through_the_rounding(self):
        z, u, zero = tf.ones((3, 2, 8)), tf.ones((2, 8)), tf.zeros((2, 2))
        states, _ = recurrence(z, u, zero, zero, lambda h: tf.round(4.0 * h) / 4.0)
        assert set(np.unique(4.0 * states.numpy())) <= {0.0, 1.0, 2.0, 3.0, 4.0}

    def test_commitment_adds_the_gradient_of_the_distance_from_the_rounded_states(self):
        rng, weight = np.random.default_rng(0), 0.7
        z, u, h, c = (tf.constant(rng.normal(size=s), "float32") for s in ((5, 2, 12), (3, 12), (2, 3), (2, 3)))

        def rounded(h):
            return h + tf.stop_gradient(tf.round(4.0 * h) / 4.0 - h)

        with tf.GradientTape() as tape:
            tape.watch([z, u])
            state, cell, loss = h, c, 0.0
            for pre in tf.unstack(z):
                i, f, g, o = tf.split(pre + state @ u, 4, axis=-1)
                cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
                before = tf.sigmoid(o) * tf.tanh(cell)
                state = rounded(before)
                gap = before - tf.stop_gradient(state)
                loss += tf.reduce_sum(tf.sin(3.0 * state)) + weight * tf.reduce_sum(gap**2) / (5 * 2)
        expected = tape.gradient(loss, [z, u])
        with tf.GradientTape() as tape:
            tape.watch([z, u])
            states, _ = recurrence(z, u, h, c, lambda h: tf.round(4.0 * h) / 4.0, weight)
            found = tf.reduce_sum(tf.sin(3.0 * states))
        for one, other in zip(expected, tape.gradient(found, [z, u]), strict=True):
            np.testing.assert_allclose(other, one, atol=2e-6)


class TestSoftmax:
    def test_sampled_sum_is_the_full_one_in_the_mean(self, monkeypatch):
        monkeypatch.setattr("ptb_lib.softmax.FREQUENT", 100)
        rng = np.random.default_rng(0)
        hidden, kernel = rng.normal(size=(30, 8)).astype("f4"), 0.5 * rng.normal(size=(8, 1000)).astype("f4")
        bias, words = rng.normal(size=1000).astype("f4"), rng.integers(0, 1000, 30).astype("i4")
        sampler, found = Sampler(1000, 0), []
        for _ in range(300):
            drawn = sampler.draw()
            inputs = (words, kernel.T[words], bias[words], drawn, kernel.T[drawn], bias[drawn] + sampler.log_weights)
            found.append(keras.ops.convert_to_numpy(sampled_loss(hidden, *inputs)))
        full = keras.ops.convert_to_numpy(full_loss(hidden, kernel, bias, words))
        np.testing.assert_allclose(np.mean(np.exp(found), axis=0), np.exp(full), rtol=0.15)

    def test_a_small_vocabulary_is_drawn_whole(self):
        sampler = Sampler(40, 0)
        assert sampler.draw().tolist() == list(range(40)) and not sampler.log_weights.any()

    def test_draws_stay_inside_the_vocabulary(self):
        sampler = Sampler(1234, 0)
        draws = [sampler.draw() for _ in range(30)]
        assert all(draw.max() < 1234 and len(np.unique(draw)) == len(sampler.log_weights) for draw in draws)
        assert len({draw.max() for draw in draws}) > 1


class TestStep:
    @pytest.mark.parametrize("sampled", [False, True])
    def test_moves_as_keras_would(self, window, sampled):
        net = spread(build(WORDS, UNITS, 0.0))
        expected = {}
        with tf.GradientTape() as tape:
            loss = loss_of(net, window)
        latent = latent_weights(net)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [v.value for v in latent.values()])]
        factor = 2.0 * min(1.0, CLIP / float(tf.linalg.global_norm(gradients)))
        for (name, variable), gradient in zip(latent.items(), gradients, strict=True):
            expected[name] = variable.numpy() - factor * gradient.numpy()
        sampler = Sampler(WORDS, 0)
        step = Step(net, sampler.log_weights if sampled else None, 0.0)
        found = step.run(tf.constant(window[0]), tf.constant(window[1]), tf.constant(sampler.draw()), tf.constant(2.0))
        step.store()
        assert float(found) == pytest.approx(float(loss), rel=1e-5)
        for name, value in expected.items():
            np.testing.assert_allclose(latent_weights(net)[name], value, atol=2e-5, err_msg=name)

    @pytest.mark.parametrize(
        "weights",
        [
            {"num_bits": 2, "method": "alternating"},
            {"num_bits": 4, "method": "lsq"},
        ],
        ids=lambda weights: weights["method"],
    )
    def test_computes_what_the_quantized_layers_compute(self, window, weights):
        net = spread(build(WORDS, UNITS, 0.0, QuantSpec(**weights), QuantSpec(num_bits=3, method="alternating")))
        expected = float(loss_of(net, window))
        sampler = Sampler(WORDS, 0)
        step = Step(net, sampler.log_weights, 0.0)
        found = step.run(tf.constant(window[0]), tf.constant(window[1]), tf.constant(sampler.draw()), tf.constant(0.5))
        assert float(found) == pytest.approx(expected, rel=1e-4)

    def test_state_is_kept_until_an_epoch_begins(self, window):
        step = Step(spread(build(WORDS, UNITS, 0.0)), None, 0.0)
        inputs = (*map(tf.constant, window), tf.zeros(0, tf.int32), tf.constant(0.0))
        first, second = float(step.run(*inputs)), float(step.run(*inputs))
        step.begin(0)
        assert first != second and float(step.run(*inputs)) == first

    def test_dropout_differs_from_step_to_step_and_from_epoch_to_epoch(self, window):
        step = Step(spread(build(WORDS, UNITS, 0.0)), None, 0.5)
        inputs = (*map(tf.constant, window), tf.zeros(0, tf.int32), tf.constant(0.0))

        def epoch(seed):
            step.begin(seed)
            return [float(step.run(*inputs)) for _ in range(3)]

        first, other, again = epoch(1), epoch(2), epoch(1)
        assert first == again and len({*first, *other}) == 6


@pytest.fixture
def short_windows(monkeypatch):
    """Trains and validates on windows of 4 words: TensorFlow traces every word of a window on its own."""
    for module in ("model", "training"):
        monkeypatch.setattr(f"ptb_lib.{module}.LENGTH", 4)


def test_training_goes_on_with_new_dropout_where_its_start_had_ended(tmp_path, monkeypatch, short_windows):
    """A mask that came with the same words in an earlier epoch is remembered."""
    seeds = []
    monkeypatch.setattr(Step, "begin", lambda step, seed: seeds.append(seed))
    text = Text(np.arange(81) % WORDS, np.arange(81) % WORDS, tuple(map(str, range(WORDS))), "numbers")
    options = {"rate": 1.0, "decay": 1.0, "dropout": 0.5, "sampled": True, "seed": 2}
    stages = (Stage(1, "float", UNITS, "none"), Stage(2, "float", UNITS, "linf"), Stage(3, "float", UNITS, "none"))
    calls = {"on_step": lambda *_: None, "on_epoch": lambda *_: None}
    for count in (1, 2, 3):
        path = tmp_path / f"{count}.npz"
        train(build(WORDS, UNITS, 0.5), text, Schedule(stages[:count], **options), path, **calls)
        assert read_stages(path) == stages[:count]
    assert seeds == [2000, 2001, 2002, 2003, 2004, 2005]


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path, short_windows):
    rng = np.random.default_rng(4)
    # Two windows of each row, and a word that no window takes.
    text = Text(rng.integers(0, WORDS, 181), rng.integers(0, WORDS, 181), tuple(map(str, range(WORDS))), "numbers")
    schedule = Schedule((Stage(3, "float", UNITS, "none"),), rate=1.0, decay=0.5, dropout=0.5, sampled=True, seed=2)

    def run(name, on_epoch):
        keras.utils.set_random_seed(1)
        path = tmp_path / name
        return train(build(WORDS, UNITS, 0.5), text, schedule, path, on_step=lambda *_: None, on_epoch=on_epoch)

    def stop(epoch, perplexity):
        raise KeyboardInterrupt

    whole = run("whole.npz", lambda *_: None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("cut.npz", stop)
    assert read_stages(tmp_path / "cut.npz") == (schedule.stages[0]._replace(epochs=2),)
    assert run("cut.npz", lambda *_: None) == pytest.approx(whole, rel=1e-6)
    for name, values in np.load(tmp_path / "whole.npz").items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(np.load(tmp_path / "cut.npz")[name], values, rtol=1e-5, atol=1e-7)


def test_names_of_stages():
    stages = (Stage(12, "float", 300, "none"), Stage(2, "float", 450, "linf"), Stage(1, "lsq", 450, "none"))
    assert label(stages, 450) == "12 float of 300 + 2 float, linf + 1 lsq" and label((), 450) == ""
    assert file_name(stages, 450) == "12x300+2linf+1lsq" and file_name((), 450) == "0"
    assert file_name(stages[:1], 300) == "12"


class TestModel:
    def test_perplexity_counts_every_word_once(self):
        net = spread(build(WORDS, UNITS, 0.5))
        ids = np.random.default_rng(3).integers(0, WORDS, 20 * 37 + 1)
        x, y = (ids[start : start + 20 * 37].reshape(20, 37) for start in (0, 1))
        logits = net(x, training=False)
        net.get_layer("lstm").reset_state()
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        assert perplexity(net, ids) == pytest.approx(float(np.exp(np.mean(loss))), rel=1e-5)

    def test_quantized_perplexity_is_that_of_the_finalized_model(self):
        net = spread(build(WORDS, UNITS, 0.5, QuantSpec(num_bits=2, method="alternating"), QuantSpec(num_bits=3)))
        ids = np.random.default_rng(3).integers(0, WORDS, 20 * 31 + 1)
        assert perplexity(net, ids) == pytest.approx(perplexity(finalize(net)[0], ids), rel=1e-6)

    def test_checkpoint_of_other_units(self, tmp_path):
        save_checkpoint(tmp_path / "a.npz", build(WORDS, UNITS, 0.0), [5.0], ())
        net = build(WORDS, UNITS, 0.0)
        assert load_checkpoint(tmp_path / "a.npz", net) == [5.0]
        for other, words in (
            (build(WORDS, UNITS + 1, 0.0), r"this run needs \(40, 7\)"),
            (build(WORDS + 1, UNITS, 0.0), r"embedding has the shape \(40, 6\) there"),
        ):
            with pytest.raises(ValueError, match=words):
                load_checkpoint(tmp_path / "a.npz", other)

    def test_checkpoint_keeps_what_quantizers_learned(self, tmp_path):
        spec = QuantSpec(num_bits=4, method="lsq")
        first, second = (build(WORDS, UNITS, 0.0, spec) for _ in range(2))
        for variable in scalars(first).values():
            variable.assign(variable * 3.0)
        save_checkpoint(tmp_path / "a.npz", first, [5.0], ())
        load_checkpoint(tmp_path / "a.npz", second)
        assert len(scalars(first)) == 4
        for name, variable in scalars(first).items():
            assert np.array_equal(variable, scalars(second)[name])

    def test_checkpoint_of_something_else(self, tmp_path):
        np.savez(tmp_path / "a.npz", kernel=np.zeros(3))
        with pytest.raises(ValueError, match="it lacks embedding, history"):
            load_checkpoint(tmp_path / "a.npz", build(WORDS, UNITS, 0.0))
        with pytest.raises(ValueError, match="it lacks stages"):
            read_stages(tmp_path / "a.npz")


STATE = {"num_bits": 2, "method": "alternating"}


class TestExport:
    @pytest.mark.parametrize(
        ("weights", "state"),
        [(None, None), ({"num_bits": 2, "method": "alternating"}, STATE), ({"num_bits": 4}, None)],
        ids=["float", "alternating", "grid"],
    )
    def test_file_has_the_perplexity_of_keras(self, weights, state, tmp_path, near):
        specs = [spec and QuantSpec(**spec) for spec in (weights, state)]
        net = spread(build(WORDS, UNITS, 0.5, *specs))
        ids = np.random.default_rng(3).integers(0, WORDS, 71)
        row = export(net, tmp_path / "a.tflite", ids, Console(quiet=True))
        assert row["file_perplexity"] == pytest.approx(row["keras_perplexity"], rel=1e-4)
        assert row["keras_alone_perplexity"] == pytest.approx(row["keras_perplexity"], rel=1e-2)
        assert row["file_words"] == 70 and row["file_bytes"] == (tmp_path / "a.tflite").stat().st_size
        assert row["file_ms_per_word"] > 0 and json.loads(json.dumps(row)) == row
        assert ("packed_bytes" in row) == (weights is not None)
        if weights is not None:
            assert row["packed_perplexity"] == pytest.approx(row["keras_alone_perplexity"], rel=0.05)

    def test_keras_side_is_the_loss_of_the_whole_text_in_one_stream(self):
        net = spread(build(WORDS, UNITS, 0.5))
        ids = np.random.default_rng(3).integers(0, WORDS, 71)
        copy = one_row(net)
        logits = copy(ids[None, :-1], training=False)
        loss = keras.losses.sparse_categorical_crossentropy(ids[None, 1:], logits, from_logits=True)
        assert perplexity(one_row(net), ids) == pytest.approx(float(np.exp(np.mean(loss))), rel=1e-5)

    def test_keras_starts_each_window_at_the_states_it_is_given(self):
        net, ids = one_row(spread(build(WORDS, UNITS, 0.5))), np.arange(60) % WORDS
        zero, ones = [np.zeros((1, UNITS))] * 2, [np.ones((1, UNITS))] * 2
        whole = perplexity(net, ids)
        assert perplexity(net, ids, [zero, zero]) != whole != perplexity(net, ids, [ones, zero])
        halves = [perplexity(net, ids[:31]), perplexity(net, ids[30:])]
        expected = np.exp((30 * np.log(halves[0]) + 29 * np.log(halves[1])) / 59)
        assert perplexity(net, ids, [zero, zero]) == pytest.approx(expected, rel=1e-5)
