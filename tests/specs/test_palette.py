"""PaletteSpec: its meaning, errors, and its form in JSON, YAML and recipes."""

import dataclasses
import json

import pytest

from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.specs import SPEC_KINDS

pytestmark = pytest.mark.backends

BAD = [
    ({"num_bits": 0}, ValueError, "num_bits"),
    ({"num_bits": 9}, ValueError, "num_bits"),
    ({"num_bits": 2.0}, TypeError, "num_bits"),
    ({"dim": 0}, ValueError, "dim"),
    ({"dim": 9}, ValueError, "dim"),
    ({"dim": True}, TypeError, "dim"),
    ({"granularity": "per_channel"}, ValueError, "granularity"),
    ({"granularity": "per_group"}, ValueError, "Pass group_size"),
    ({"granularity": "per_group", "group_size": 6, "dim": 4}, ValueError, "a multiple of dim=4"),
    ({"granularity": "per_group", "group_size": 0}, ValueError, "group_size"),
    ({"group_size": 8}, ValueError, "per_group"),
    ({"channel_scale": 1}, TypeError, "channel_scale"),
    ({"table_dtype": "float23"}, ValueError, "Did you mean 'float32'"),
    ({"temperature": 0}, ValueError, "temperature"),
    ({"temperature": float("inf")}, ValueError, "temperature"),
    ({"temperature": "hot"}, TypeError, "temperature"),
    ({"final_temperature": 0.1}, ValueError, "anneal_steps"),
    ({"anneal_steps": 10}, ValueError, "final_temperature"),
    ({"final_temperature": -1.0, "anneal_steps": 10}, ValueError, "final_temperature"),
    ({"final_temperature": 0.1, "anneal_steps": 0}, ValueError, "anneal_steps"),
    ({"updates": 0}, ValueError, "updates"),
    ({"min_size": -1}, ValueError, "min_size"),
]

SPECS = [
    PaletteSpec(),
    PaletteSpec(num_bits=1, dim=8, table_dtype="int8"),
    PaletteSpec(num_bits=4, granularity="per_group", group_size=8, channel_scale=True, table_dtype="float16"),
    PaletteSpec(temperature=0.5, final_temperature=0.01, anneal_steps=100, updates=1, min_size=0),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD)
def test_bad_values_are_refused_by_name(arguments, error, match):
    with pytest.raises(error, match=match):
        PaletteSpec(**arguments)


@pytest.mark.parametrize("spec", SPECS)
def test_round_trips(spec):
    assert PaletteSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert dataclasses.replace(spec, min_size=7) != spec and hash(spec) == hash(dataclasses.replace(spec))


@pytest.mark.parametrize(("num_bits", "dim", "bits"), [(4, 1, 4.0), (4, 4, 1.0), (1, 8, 0.125), (8, 2, 4.0)])
def test_size_of_the_table_and_of_a_weight(num_bits, dim, bits):
    spec = PaletteSpec(num_bits=num_bits, dim=dim)
    assert (spec.entries, spec.bits_per_weight) == (2**num_bits, bits)


def test_the_default_temperature_follows_the_squared_error():
    assert [PaletteSpec(num_bits=b).temperature for b in (1, 2, 4)] == pytest.approx([0.1, 0.025, 0.4 / 256])
    assert PaletteSpec(num_bits=6).temperature == pytest.approx(0.4 / 256 * 0.36)
    assert PaletteSpec(num_bits=4, dim=2).temperature == pytest.approx(0.4 / 16)
    assert PaletteSpec(num_bits=2) == PaletteSpec(num_bits=2, temperature=0.4 / 16)


def test_recipes_know_palettes(tmp_path):
    recipe = Recipe([("head", SPECS[1]), ("norm", None), ("stem", QuantSpec()), (".*", SPECS[2])])
    for name in ("r.yaml", "r.json"):
        recipe.save(tmp_path / name)
        assert Recipe.load(tmp_path / name) == recipe
    (tmp_path / "by_hand.yaml").write_text('rules: [{match: "conv", palettize: {num_bits: 4, dim: 2}}]\n')
    assert Recipe.load(tmp_path / "by_hand.yaml").match("conv1") == PaletteSpec(num_bits=4, dim=2)
    assert SPEC_KINDS["palettize"] is PaletteSpec


def test_a_recipe_by_hand_is_told_what_is_wrong(tmp_path):
    (tmp_path / "r.yaml").write_text('rules: [{match: "conv", palettize: {num_bit: 4}}]\n')
    with pytest.raises(ValueError, match="Did you mean 'num_bits'"):
        Recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text('rules: [{match: "conv", palletize: {num_bits: 4}}]\n')
    with pytest.raises(ValueError, match="Did you mean 'palettize'"):
        Recipe.load(tmp_path / "r.yaml")
