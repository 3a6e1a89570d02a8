"""Files that revision 7e44a2a wrote (tests/fixtures/make.py) still load and give the same numbers."""

from __future__ import annotations

import functools
import io
import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import r2keras

FOLDER = Path(__file__).resolve().parent / "fixtures"
FACTS = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
with np.load(FOLDER / "expected.npz") as _file:
    EXPECTED = dict(_file)

MODELS = sorted(name for name in FACTS if name.startswith("models/"))
RECORDS = sorted(name for name in FACTS if name.startswith("records/"))
RECIPES = sorted(name for name in FACTS if name.startswith("recipes/"))
STUDY = sorted(name for name in EXPECTED if name.startswith("search/"))
OTHERS = {"make.py", "expected.json", "expected.npz", "search/results.json", "search/study/search.json"}
OTHERS |= {"search/study/journal.log", "tfmot/recipe.yaml", "tfmot/qat.zip", "tfmot/finalized.keras"}


@functools.cache
def loaded(name):
    """A model as it is in its file, which no test changes."""
    return keras.models.load_model(FOLDER / name)


def output(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


def assert_near(received, expected):
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)


def test_every_file_is_covered():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    records = {name.replace(".keras", ".record.npz") for name in STUDY}
    covered = OTHERS | records | {*MODELS, *RECORDS, *RECIPES, *STUDY}
    assert {name for name in files if "__pycache__" not in name} == covered


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same(name):
    model = loaded(name)
    assert len(model.weights) == FACTS[name]["weights"]
    assert_near(output(model, EXPECTED[f"inputs/{FACTS[name]['input']}"]), EXPECTED[name])


def names_modules(name):
    """Whether a file names modules of r2keras; a finalized model may be all Keras' own."""
    with zipfile.ZipFile(FOLDER / name) as file:
        return b'"module": "r2keras.' in file.read("config.json")


@pytest.mark.parametrize("name", filter(names_modules, MODELS))
def test_a_model_loads_after_its_modules_have_moved(name, tmp_path):
    path = tmp_path / "moved.keras"
    with zipfile.ZipFile(FOLDER / name) as old, zipfile.ZipFile(path, "w") as new:
        for part in old.namelist():
            data = old.read(part)
            if part == "config.json":
                data = data.replace(b'"module": "r2keras.', b'"module": "r2keras.moved.')
            new.writestr(part, data)
    model = keras.models.load_model(path, compile=False)
    assert_near(output(model, EXPECTED[f"inputs/{FACTS[name]['input']}"]), EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in MODELS if f"{name[:-6]}_finalized.keras" in MODELS])
def test_a_student_is_finalized_to_the_same_record(name):
    _, record = r2keras.finalize(loaded(name))
    expected = r2keras.CompressionRecord.load(FOLDER / "records" / f"{Path(name).stem}.record.npz")
    assert list(record.tensors) == list(expected.tensors)
    for full, tensor in expected.tensors.items():
        assert record.tensors[full].spec == tensor.spec
        for part, array in tensor.arrays().items():
            check = assert_near if array.dtype.kind == "f" else np.testing.assert_array_equal
            check(record.tensors[full].arrays()[part], array)
    assert record.kept_float == expected.kept_float
    assert record.activations.keys() == expected.activations.keys()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_the_same(name, tmp_path):
    record, facts = r2keras.CompressionRecord.load(FOLDER / name), FACTS[name]
    assert {full: tensor.spec.kind for full, tensor in record.tensors.items()} == facts["kinds"]
    assert {full: tensor.ideal_bits for full, tensor in record.tensors.items()} == facts["ideal_bits"]
    assert (record.kept_float, record.notes) == (facts["kept_float"], facts["notes"])
    assert (record.num_values, record.model_name) == (facts["num_values"], facts["model_name"])
    grids = {full: [grid.scale, grid.zero_point, grid.num_bits] for full, grid in record.activations.items()}
    assert grids == facts["activations"]
    for full, tensor in record.tensors.items():
        np.testing.assert_array_equal(tensor.values(), EXPECTED[f"{name}/{full}"])
    record.save(tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again, np.load(FOLDER / name) as old:
        assert set(again) == set(old)
        for key in set(old) - {"record.json"}:
            np.testing.assert_array_equal(again[key], old[key])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_the_same(name, tmp_path):
    recipe = r2keras.Recipe.load(FOLDER / name)
    assert recipe.to_dict() == FACTS[name]
    if "whole" in name:
        again = tmp_path / Path(name).name
        recipe.save(again)
        assert again.read_bytes() == (FOLDER / name).read_bytes()


def test_a_study_has_the_same_rows(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    shutil.copytree(FOLDER / "search", tmp_path / "search")
    monkeypatch.chdir(tmp_path / "search")
    outcome, facts = r2keras.search.load("study"), FACTS["search/results.json"]
    assert json.loads(json.dumps(list(outcome.rows))) == facts["rows"]
    outcome.save("again.json")
    again, old = (json.loads(Path(name).read_text(encoding="utf-8")) for name in ("again.json", "results.json"))
    assert again.pop("text") and old.pop("text")  # a sentence, whose words may change
    assert again == old


@pytest.mark.parametrize("name", STUDY)
def test_a_model_of_a_study_computes_the_same(name):
    model = keras.models.load_model(FOLDER / name, compile=False)
    assert_near(output(model, EXPECTED["inputs/study"]), EXPECTED[name])
    record = r2keras.CompressionRecord.load(FOLDER / name.replace(".keras", ".record.npz"))
    weights = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}
    for full, tensor in record.tensors.items():
        np.testing.assert_array_equal(weights[full], tensor.values())


@pytest.fixture(scope="module")
def tfmot_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfmot")
    with zipfile.ZipFile(io.BytesIO((FOLDER / "tfmot" / "qat.zip").read_bytes())) as archive:
        archive.extractall(folder)
    return folder


def test_a_saved_model_of_tfmot_computes_the_same_and_is_finalized(tfmot_files):
    from r2keras import tfmot

    qat = tfmot.load(tfmot_files / "saved_model")
    x = EXPECTED["inputs/images"]
    assert_near(qat(x, training=False).numpy(), EXPECTED["tfmot/qat"])
    final, record = tfmot.finalize(qat)
    assert_near(final(x, training=False).numpy(), EXPECTED["tfmot/finalized"])
    for full, tensor in record.tensors.items():
        assert_near(tensor.values(), EXPECTED[f"records/tfmot.record.npz/{full}"])


def test_weights_of_tfmot_go_into_a_model_made_again(tfmot_files):
    import tensorflow_model_optimization
    import tf_keras

    from r2keras.tfmot import LowBitScheme, annotate

    inputs = tf_keras.layers.Input((6, 6, 2), name="image")
    x = tf_keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = tf_keras.layers.ReLU(name="relu")(tf_keras.layers.BatchNormalization(name="norm")(x))
    x = tf_keras.layers.GlobalAveragePooling2D(name="mean")(x)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(3, name="head")(x), name="tiny")
    recipe = r2keras.Recipe.load(FOLDER / "tfmot" / "recipe.yaml")
    apply = tensorflow_model_optimization.quantization.keras.quantize_apply
    qat = apply(annotate(model, recipe), scheme=LowBitScheme(recipe, input_bits=8))
    qat.load_weights(tfmot_files / "qat.weights.h5")
    assert_near(qat(EXPECTED["inputs/images"], training=False).numpy(), EXPECTED["tfmot/qat"])


def test_a_finalized_model_of_tfmot_computes_the_same():
    import tf_keras

    from r2keras import tfmot  # noqa: F401

    model = tf_keras.models.load_model(FOLDER / "tfmot" / "finalized.keras")
    assert_near(model(EXPECTED["inputs/images"], training=False).numpy(), EXPECTED["tfmot/finalized"])
