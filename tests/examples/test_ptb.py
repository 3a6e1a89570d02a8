"""The Penn Treebank example: its fast step against plain Keras, its rows, and runs as a person starts them."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

from tests.scripts import run

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from ptb_lib import rows  # noqa: E402
from ptb_lib.softmax import Sampler, full_loss, sampled_loss  # noqa: E402

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from ptb_lib.export import export, one_row
    from ptb_lib.model import BATCH, build, latent_weights, perplexity, set_ranges
    from ptb_lib.recurrence import recurrence
    from ptb_lib.step import CLIP, Step
    from ptb_lib.training import load_checkpoint, save_checkpoint, scalars

    from r2keras import QuantSpec, finalize

WORDS, UNITS, LENGTH = 40, 6, 5
FLOAT = {
    "data": "text",
    "method": "float",
    "weight_bits": 32,
    "activation_bits": 32,
    "width": 1.0,
    "units": 300,
    "regularizer": "none",
    "seed": 0,
    "start_epochs": 0,
    "epochs": 5,
    "perplexity": 100.0,
    "bytes": 8000,
    "counted": "all weights, float",
}


def start(*flags, **options):
    """Runs the example; returns its exit code, standard output and standard error."""
    return run("examples/ptb_lstm.py", *flags, **options)


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
            {"num_bits": 3, "method": "balanced"},
            {"num_bits": 8, "range": "min_max"},
            {"num_bits": 4, "method": "lsq"},
        ],
        ids=lambda weights: weights.get("method", "ste"),
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
        save_checkpoint(tmp_path / "a.npz", build(WORDS, UNITS, 0.0), [5.0])
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
        save_checkpoint(tmp_path / "a.npz", first, [5.0])
        load_checkpoint(tmp_path / "a.npz", second)
        assert len(scalars(first)) == 4
        for name, variable in scalars(first).items():
            assert np.array_equal(variable, scalars(second)[name])

    def test_checkpoint_of_something_else(self, tmp_path):
        np.savez(tmp_path / "a.npz", kernel=np.zeros(3))
        with pytest.raises(ValueError, match="it lacks embedding, history"):
            load_checkpoint(tmp_path / "a.npz", build(WORDS, UNITS, 0.0))


@pytest.fixture
def near(monkeypatch):
    """Lets TensorFlow's converter run in this process, where it is loaded already."""

    def converted(folder, signature):
        return tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"), signature_keys=[signature]).convert()

    monkeypatch.setattr("r2keras.export.convert.convert_apart", converted)


STATE = {"num_bits": 2, "method": "alternating"}


class TestExport:
    @pytest.mark.parametrize(
        ("weights", "state"),
        [(None, None), ({"num_bits": 2, "method": "alternating"}, STATE), ({"num_bits": 4}, None), (None, STATE)],
        ids=["float", "alternating", "grid", "state"],
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


class TestRows:
    def test_a_run_replaces_its_own_row(self, tmp_path):
        path = tmp_path / "rows.json"
        other = FLOAT | {"seed": 1}
        for row in (FLOAT, other, FLOAT | {"perplexity": 99.0}):
            rows.add_row(path, row)
        assert rows.read_rows(path) == [other, FLOAT | {"perplexity": 99.0}]
        assert [name.name for name in tmp_path.iterdir()] == ["rows.json"]

    @pytest.mark.parametrize("content", ["[{", "{}", '[{"seed": 0}]', "[3]"])
    def test_damaged_file(self, tmp_path, content):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(ValueError, match="choose another --results"):
            rows.read_rows(tmp_path / "rows.json")

    def test_front_and_table(self):
        small = FLOAT | {
            "method": "alternating",
            "weight_bits": 2,
            "activation_bits": 3,
            "perplexity": 101.0,
            "bytes": 800,
        }
        bad = FLOAT | {"method": "ste", "weight_bits": 4, "activation_bits": 4, "perplexity": 120.0, "bytes": 1200}
        assert rows.front([FLOAT, bad, small]) == [small, FLOAT]
        lines = rows.table([bad, small, FLOAT]).splitlines()
        assert len(lines) == 5 and "| float | 32 / 32 |" in lines[2]
        assert "| +1.0 % | 800 | 10.0 |" in lines[4]

    def test_table_shows_files_where_rows_have_them(self):
        file = {"file_bytes": 8100, "file_perplexity": 100.25, "keras_perplexity": 100.5}
        lines = rows.table([FLOAT | file, FLOAT | {"seed": 1}]).splitlines()
        assert lines[0].endswith("| file bytes | file / Keras |")
        assert lines[2].endswith("| 8,100 | 100.250 / 100.500 |") and lines[3].endswith("| - | - |")


@pytest.mark.slow
class TestProgram:
    def test_float_then_few_bits_then_the_table(self, tmp_path):
        folder = tmp_path / "out"
        code, out, error = start("--smoke", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "Validation perplexity" in out, error
        (checkpoint,) = folder.glob("*.npz")
        few = ("--smoke", f"--out={folder}", f"--start_from={checkpoint}", "--weight_bits=2", "--activation_bits=3")
        code, out, error = start(*few, "--width=1.5", cwd=tmp_path)
        assert code == 0, error
        found = json.loads((folder / "results.json").read_text())
        assert [(row["method"], row["units"], row["start_epochs"]) for row in found] == [
            ("float", 12, 0),
            ("alternating", 18, 1),
        ]
        assert found[1]["bytes"] < found[0]["bytes"] and found[0]["shortened"]
        code, again, _ = start(*few, "--width=1.5", cwd=tmp_path)
        assert code == 0 and "Epoch" not in again and again.splitlines()[-1] == out.splitlines()[-1]
        code, out, error = start(*few, "--width=1.5", "--export", "--export_words=60", cwd=tmp_path)
        assert code == 0 and "Epoch" not in out and "words" in out.splitlines()[-1], error
        (row,) = [row for row in json.loads((folder / "results.json").read_text()) if row["units"] == 18]
        assert row["file_words"] == 60 and row["perplexity"] == found[1]["perplexity"]
        assert row["file_perplexity"] == pytest.approx(row["keras_perplexity"], rel=1e-3)
        assert [path.stat().st_size for path in folder.glob("*.tflite")] == [row["file_bytes"]]
        code, out, _ = start("--table", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "| alternating | 2 / 3 | 1.5 | 18 |" in out and (folder / "results.svg").is_file()
        # Without its row the finished run has no epoch left to train: it is measured again from the checkpoint.
        (folder / "results.json").unlink()
        code, out, _ = start("--smoke", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "Epoch" not in out and (folder / "results.json").is_file()
        assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width=0.001"], "gives zero units out of 300"),
        (["--weight_bits=9"], "expected 1 to 8, or 32"),
        (["--activation_bits=1"], "expected 2 to 8, or 32"),
        (["--method=alternating"], "does not go with --weight_bits=32"),
        (["--epochs=0"], "expected at least 1"),
        (["--export_words=-1"], "expected at least 0"),
        (["--dropout=1"], "out of range"),
        (["--method=nothing"], "should be one of"),
        (["stray"], "write --flag=value"),
    ],
)
def test_bad_flags_are_one_sentence_and_quick(flags, words, tmp_path):
    code, out, error = start(*flags, f"--out={tmp_path / 'out'}")
    assert (code, out, error.count("\n")) == (2, "", 1) and words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--start_from=nowhere.npz"], 2, "train the float network first"),
        (["--data_dir=nowhere"], 1, "is missing"),
        (["--table"], 2, "has no rows yet"),
    ],
)
def test_missing_files_are_one_sentence(flags, code, words, tmp_path):
    found, _, error = start("--smoke", *flags, f"--out={tmp_path / 'out'}")
    assert found == code and error.count("\n") == 1 and words in error
