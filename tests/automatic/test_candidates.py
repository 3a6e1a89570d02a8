"""The rows of a folder: those that this call may choose from, and mistakes in the files that hold them."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from r2keras._models.walk import view_of
from r2keras.automatic.candidates import ADAROUND, FLOAT, QUICK, SUFFIXES, TRAINED, Candidates
from r2keras.automatic.judge import Judge
from r2keras.automatic.settings import checked_settings
from r2keras.specs import PaletteSpec, QuantSpec, Recipe

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


def net(activation="relu"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, activation, name="a"), keras.layers.Dense(3, "softmax", name="b")]
    )


def opened(folder, model=None, **given):
    """Returns the candidates of a folder."""
    given = {"bits": (8, 4), "palettes": True, "integer": False, "train": 5} | given
    settings = checked_settings(None, 0.1, target="cpu", **given)
    model = model or net()
    judge = Judge(model, [[X[16:]]], None, None)
    return Candidates(model, view_of(model), settings, [[X[:16]]], judge, folder, False)


def row(folder, number, steps, spec, key=None, integer=False):
    """Returns a row whose files exist, empty."""
    recipe = None if spec is None else Recipe([("^(a|b)$", spec), (".*", QuantSpec(8, activation_bits=8))])
    for suffix in SUFFIXES:
        (folder / f"{number}.tflite").with_suffix(suffix).touch()
    found = dict.fromkeys(("bytes", "quality", "drop", "noise", "error", "seconds"), 0.0)
    found |= {"key": key or steps, "name": str(number), "steps": steps, "file": f"{number}.tflite"}
    return found | {"integer": integer, "recipe": None if recipe is None else recipe.to_dict()}


@pytest.fixture
def filled(tmp_path):
    """A folder with rows of many kinds."""
    opened(tmp_path)
    rows = [
        row(tmp_path, 0, FLOAT, None),
        row(tmp_path, 1, QUICK, QuantSpec(8)),
        row(tmp_path, 2, ADAROUND, QuantSpec(4)),
        row(tmp_path, 3, ADAROUND, PaletteSpec(num_bits=4)),
        row(tmp_path, 4, TRAINED, QuantSpec(8), key=f"{TRAINED}, 5 epochs, abc"),
        row(tmp_path, 5, FLOAT, None, integer=True),
        row(tmp_path, 6, QUICK, QuantSpec(8, activation_bits=8), integer=True),
    ]
    (tmp_path / "candidates.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, "01234"),
        ({"bits": (8,)}, "014"),
        ({"bits": (4,)}, "023"),
        ({"palettes": False}, "0124"),
        ({"train": None}, "0123"),
        ({"train": 6}, "0123"),
        ({"integer": True, "palettes": False}, "56"),
    ],
)
def test_rows_of_another_call_are_chosen_from_if_this_one_could_make_them(filled, given, names):
    assert "".join(row["name"] for row in opened(filled, **given).rows) == names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_without_its_files_does_not_count(filled, suffix):
    (filled / "2.tflite").with_suffix(suffix).unlink()
    assert [row["name"] for row in opened(filled).rows] == ["0", "1", "3", "4"]


def test_a_folder_of_equal_weights_and_another_activation_is_refused(filled):
    other = net("tanh")
    other.set_weights(net().get_weights())
    with pytest.raises(ValueError, match="another model"):
        opened(filled, other)


@pytest.mark.parametrize("name", ["candidates.json", "settings.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '{"a": NaN}', '[{"a": 1}]'])
def test_a_damaged_file_is_named_in_one_sentence(filled, name, text):
    (filled / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is damaged .*delete this one") as error:
        opened(filled)
    assert "\n" not in str(error.value)
