"""Candidates: their bytes, those over the budget, and those that no method supports."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from r2keras import footprint, widen
from r2keras.search.space import recipe_of, space_of


@pytest.fixture
def model(folder):
    return keras.models.load_model(folder / "m.keras")


def test_candidates_are_all_combinations_with_their_bytes(search, model):
    asked = search(bits=(2, 8), widths=(1, 2), methods=("ste", "palette"))
    space = space_of(asked, model)
    assert [c.label for c in space.candidates[:2]] == ["float, width 1", "float, width 2"]
    assert len(space.candidates) == 2 + 2 * 2 * 2
    one = next(c for c in space.candidates if (c.method, c.num_bits, c.width) == ("ste", 2, 2.0))
    assert one.bytes == footprint(widen(model, 2), recipe_of(asked, "ste", 2)).bytes
    assert (space.over_budget, space.undefined) == (0, 0)


def test_budget_leaves_candidates_out_and_counts_them(search, model):
    asked = search(bits=(2, 8), widths=(1, 2))
    sizes = sorted(c.bytes for c in space_of(asked, model).candidates if not c.is_control)
    space = space_of(search(bits=(2, 8), widths=(1, 2), max_bytes=sizes[1]), model)
    assert sorted(c.bytes for c in space.candidates if not c.is_control) == sizes[:2]
    assert space.over_budget == 2


def test_containers_count_three_bits_as_four(search, model):
    packed, contained = (
        space_of(search(bits=(3,), count=name), model).candidates[-1] for name in ("packed", "containers")
    )
    assert packed.bytes < contained.bytes == packed.container_bytes


def test_bits_that_a_method_does_not_have_are_counted(search, model):
    space = space_of(search(bits=(1, 2), methods=("binary", "ste")), model)
    assert [c.label for c in space.candidates[1:]] == [
        "binary, 1 bit, width 1",
        "ste, 1 bit, width 1",
        "ste, 2 bits, width 1",
    ]
    assert space.undefined == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"max_bytes": 50},
            r"No candidate fits max_bytes=50. Expected a budget of at least \d+.*\(ste, \d bits, width 1\)",
        ),
        ({"methods": ("binary",)}, r"None of the methods \['binary'\] supports any of the bits"),
        ({"match": "lstm", "widths": (2,)}, "Expected a layer that 'lstm' matches.*nothing to widen"),
        ({"widths": (0.01,), "start": "fresh"}, "a width of at least 1 for 'hidden', which has 8"),
        ({"granularity": "per_chanel"}, "Did you mean 'per_channel'"),
        ({"keep_float": "stem"}, "'stem', which matches nothing"),
    ],
)
def test_what_cannot_be_searched_is_told(search, model, settings, words):
    with pytest.raises(ValueError, match=words):
        space_of(search(**settings), model)


def test_embedding_tied_to_the_softmax_is_told(search):
    words = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(10, 4, name="words")
    out = embedding(layers.LSTM(4, return_sequences=True)(embedding(words)), reverse=True)
    with pytest.raises(ValueError, match="The embedding 'words' is tied to the softmax"):
        space_of(search(widths=(2,)), keras.Model(words, out))
