"""`compress`: limits are kept by files that were run, work continues, and what was found can be made again."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil

import keras
import numpy as np
import pytest

import r2keras
from r2keras.automatic.candidates import Candidates
from r2keras.export import LiteRTModel
from tests.automatic.nets import trained

CALL = {"max_drop": 0.02, "bits": (8, 2), "palettes": False, "progress": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A compression with labels, and its folder."""
    model, x, y = trained()
    folder = tmp_path_factory.mktemp("small")
    return r2keras.compress(model, x, **CALL, labels=y, folder=folder), folder


def test_the_drop_is_that_of_the_file(small):
    result, _ = small
    assert result.is_met
    judged = result.num_samples
    assert 200 <= judged < 400
    assert result.path.stat().st_size == result.chosen["bytes"] < result.rows[0]["bytes"] / 3
    assert result.verification.agreement == 1.0
    assert result.rows[0]["name"] == "float"
    assert {row["steps"] for row in result.rows} == {"float", "bias correction", "AdaRound"}
    smallest = min(row["bytes"] for row in result.rows if row["drop"] <= 0.02)
    assert result.chosen["bytes"] == smallest


def test_folder_has_the_files_and_they_agree(small):
    _, folder = small
    names = {path.name for path in folder.iterdir()}
    assert {"model.tflite", "model.keras", "model.record.npz", "recipe.yaml", "results.json", "report.html"} <= names
    stored = keras.models.load_model(folder / "model.keras")
    record = r2keras.CompressionRecord.load(folder / "model.record.npz")
    for name, tensor in record.tensors.items():
        layer = name.split("/")[0]
        assert np.array_equal(np.asarray(stored.get_layer(layer).kernel), tensor.values())
    assert json.loads((folder / "results.json").read_text())["is_met"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "Sensitivity of each layer" in page


def test_the_recipe_makes_the_model_again(small):
    result, folder = small
    model, x, _ = trained()
    recipe = r2keras.Recipe.load(folder / "recipe.yaml")
    assert recipe == result.recipe
    _, record = r2keras.calibrate(model, recipe, x[:100], progress=False)
    assert {n: t.spec for n, t in record.tensors.items()} == {n: t.spec for n, t in result.record.tensors.items()}


def test_the_same_call_makes_nothing_again(small, monkeypatch):
    result, folder = small
    model, x, y = trained()
    monkeypatch.setattr(Candidates, "_added", lambda *given: pytest.fail("a candidate was made again"))
    again = r2keras.compress(model, x, **CALL, labels=y, folder=folder)
    assert again.chosen == result.chosen
    assert again.sensitivity == result.sensitivity


@pytest.mark.slow
def test_another_limit_uses_the_candidates_of_the_folder(small):
    result, folder = small
    model, x, y = trained()
    limit = result.chosen["bytes"] + 400
    found = r2keras.compress(model, x, **CALL | {"max_drop": None}, max_bytes=limit, labels=y, folder=folder)
    assert found.chosen["bytes"] <= limit
    assert found.chosen["quality"] >= result.chosen["quality"]


@pytest.mark.slow
def test_a_candidate_that_was_deleted_is_made_again(small, tmp_path):
    result, folder = small
    shutil.copytree(folder, tmp_path / "copy")
    model, x, y = trained()
    (tmp_path / "copy" / result.chosen["file"]).unlink()
    again = r2keras.compress(model, x, **CALL, labels=y, folder=tmp_path / "copy")
    assert result.chosen["file"] not in {row["file"] for row in again.rows}
    assert result.chosen["recipe"] in [row["recipe"] for row in again.rows]
    assert again.is_met


def test_a_model_that_takes_and_gives_dicts(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = {"second": keras.Input((4,), name="second"), "first": keras.Input((6,), name="first")}
    both = keras.layers.Concatenate()([*inputs.values()])
    outputs = {"z": keras.layers.Dense(3, name="head")(both), "a": keras.layers.Dense(2, name="other")(both)}
    random = np.random.default_rng(0)
    data = {"first": random.normal(size=(32, 6)), "second": random.normal(size=(32, 4))}
    given = {"bits": (8,), "palettes": False, "target": "any", "progress": False}
    result = r2keras.compress(keras.Model(inputs, outputs), data, max_drop=0.3, folder=tmp_path, **given)
    assert result.metric == "output_error"
    assert result.rows[0]["error"] < 1e-9
    assert result.verification.relative_difference < 1e-5


class Scaled(keras.layers.Dense):
    """An own class that is not registered."""


def doubled(x):
    return 2 * x


def test_own_classes_and_functions_need_not_be_registered(tmp_path):
    keras.utils.set_random_seed(0)
    own = [Scaled(8, activation=doubled, name="own"), keras.layers.Lambda(lambda x: x + 1, output_shape=(8,))]
    model = keras.Sequential([keras.Input((6,)), *own, keras.layers.Dense(3, name="head")])
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    given = {"bits": (8,), "palettes": False, "target": "any", "progress": False}
    result = r2keras.compress(model, x, max_drop=0.3, folder=tmp_path, **given)
    assert result.verification.relative_difference < 1e-5
    assert isinstance(result.model.get_layer("own"), Scaled)


def test_folder_of_another_run_is_refused(small):
    _, folder = small
    model, x, y = trained()
    with pytest.raises(ValueError, match="another model, other data or another target"):
        r2keras.compress(model, x[:300], labels=y[:300], max_drop=0.02, folder=folder, progress=False)


@pytest.mark.slow
def test_limits_that_nothing_meets_give_the_nearest(tmp_path):
    model, x, _ = trained()
    given = {"bits": (4,), "palettes": False, "progress": False}
    result = r2keras.compress(model, x, max_bytes=4000, max_drop=0.0, folder=tmp_path, **given)
    assert not result.is_met
    assert result.text.startswith("Nothing meets at most 4,000 bytes and a drop of at most 0. The nearest is")
    assert result.path.exists()


def test_integer_files_for_microcontrollers(tmp_path):
    model, x, y = trained()
    result = r2keras.compress(
        model, x, labels=y, max_drop=0.05, bits=(8,), target="mcu", folder=tmp_path, progress=False
    )
    assert result.is_met
    assert result.record.activations
    assert all(spec is None or spec.activation_bits == 8 for _, spec in result.recipe.rules)


def test_training_makes_a_smaller_file(tmp_path):
    keras.utils.set_random_seed(0)
    inner = keras.layers.Dense(24, activation="relu")
    model = keras.Sequential([keras.Input((12,)), inner, keras.layers.Dense(4, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(48, 12)).astype("float32")
    given = {"metric": "agreement", "max_drop": 0.0, "bits": (8, 1), "palettes": False, "progress": False}
    result = r2keras.compress(model, x, **given, train=1, folder=tmp_path)
    others = [row["bytes"] for row in result.rows if row["steps"] == "AdaRound" and row["drop"] <= 0]
    (first, *_) = (row for row in result.rows if row["steps"] == "distillation")
    assert first["bytes"] < min(others)
    assert result.chosen["bytes"] == min(row["bytes"] for row in result.rows[1:] if row["drop"] <= 0)


@pytest.mark.slow
def test_two_inputs_and_a_recurrent_layer(tmp_path):
    keras.utils.set_random_seed(0)
    words, image = keras.Input((5, 6), name="words"), keras.Input((8,), name="image")
    both = keras.layers.Concatenate()([keras.layers.LSTM(8, name="lstm")(words), image])
    model = keras.Model([words, image], keras.layers.Dense(3, name="head")(both))
    random = np.random.default_rng(0)
    data = {"words": random.normal(size=(64, 5, 6)), "image": random.normal(size=(64, 8))}
    given = {"bits": (8,), "palettes": False, "target": "any", "progress": False}
    result = r2keras.compress(model, data, max_drop=0.3, folder=tmp_path, **given)
    assert {"lstm/lstm_cell/kernel", "head/kernel"} <= set(result.record.tensors)
    assert len(LiteRTModel(result.path).inputs) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "max_bytes, max_drop or both"),
        ({"max_bytes": 0}, "`max_bytes`"),
        ({"max_bytes": 300}, "at least the [0-9,]+ bytes"),
        ({"max_drop": -0.1}, "`max_drop`"),
        ({"max_drop": 0.1, "bits": (16,)}, "`bits`"),
        ({"max_drop": 0.1, "target": "ethos-u"}, "Compress for 'mcu'"),
        ({"max_drop": 0.1, "target": "gpu"}, "`target`"),
        ({"max_drop": 0.1, "target": "mcu", "integer": False}, "`integer`"),
        ({"max_drop": 0.1, "target": "mcu", "palettes": True}, "`palettes`"),
        ({"max_drop": 0.1, "train": 0}, "`train`"),
        ({"max_drop": 0.1, "labels": np.zeros(7, int)}, "one label per sample"),
        ({"max_drop": 0.1, "metric": "f1"}, "`metric`"),
    ],
)
def test_mistake_is_told_before_any_work(given, words, tmp_path):
    model, x, _ = trained()
    with pytest.raises(ValueError, match=words.replace("`", ".")) as error:
        r2keras.compress(model, x, folder=tmp_path / "out", progress=False, **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", [r2keras.sensitivity, functools.partial(r2keras.compress, max_drop=0.1)])
def test_a_model_without_kernels_is_refused(call):
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()], name="net")
    with pytest.raises(ValueError, match=r"Expected a model with kernels.* 'net', which has none"):
        call(model, np.zeros((32, 4), np.float32), progress=False)


def test_without_the_extra_the_work_is_kept_and_only_the_page_is_missing(small, tmp_path, monkeypatch):
    _, folder = small
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "report.html").unlink()
    model, x, y = trained()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name))
    result = r2keras.compress(model, x, **CALL, labels=y, folder=tmp_path / "copy")
    assert result.is_met
    assert not (tmp_path / "copy" / "report.html").exists()


def test_too_few_samples_are_refused():
    model, x, _ = trained()
    with pytest.raises(ValueError, match="at least 16 samples"):
        r2keras.compress(model, x[:9], max_drop=0.1, progress=False)
