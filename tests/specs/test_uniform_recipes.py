"""Recipe.uniform, Recipe.int8 and the rule for the first and last kernels."""

import json

import pytest

from r2keras.specs import EDGES, PaletteSpec, QuantSpec, Recipe

pytestmark = pytest.mark.backends


@pytest.mark.parametrize(
    ("recipe", "rules"),
    [
        (Recipe.uniform(), [(EDGES, QuantSpec(8)), (".*", QuantSpec(4))]),
        (Recipe.uniform(2, edges=None), [(".*", QuantSpec(2))]),
        (Recipe.uniform(8), [(".*", QuantSpec(8))]),
        (
            Recipe.uniform(3, 6, 8, method="lsq"),
            [
                (EDGES, QuantSpec(6, activation_bits=8, method="lsq")),
                (".*", QuantSpec(3, activation_bits=8, method="lsq")),
            ],
        ),
        (Recipe.uniform(2, None, method="ternary"), [(".*", QuantSpec(2, method="ternary"))]),
        (Recipe.int8(), [(".*", QuantSpec(8, activation_bits=8))]),
    ],
)
def test_rules(recipe, rules):
    assert recipe == Recipe(rules)


def test_steps_are_kept():
    assert Recipe.uniform(2, steps=["adaround", "correct_bias"]).steps == ("adaround", "correct_bias")
    assert Recipe.int8(["fold_batch_norm"]).steps == ("fold_batch_norm",)
    assert Recipe.uniform(2, steps="auto").steps == ("auto",)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"edges": 0}, ValueError, "`edges`. Expected an integer from 1 to 8"),
        ({"edges": "8"}, TypeError, "`edges`"),
        ({"num_bits": 9}, ValueError, "`num_bits`"),
        ({"num_bits": 2, "method": "ternary"}, ValueError, "`edges`. Expected None, or bits that method='ternary'"),
        ({"bits": 2}, TypeError, "bits"),
        ({"steps": ["adarond"]}, ValueError, "Did you mean 'adaround'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        Recipe.uniform(**arguments)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_the_rule_for_the_edges_is_saved(tmp_path, suffix):
    recipe = Recipe.uniform(4, steps=["adaround"])
    recipe.save(tmp_path / f"r{suffix}")
    assert Recipe.load(tmp_path / f"r{suffix}") == recipe
    assert EDGES in (tmp_path / f"r{suffix}").read_text()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_rule_for_the_edges_stands_alone():
    for pattern in ("<edges>|conv", "^<edges>$"):
        with pytest.raises(ValueError, match=r"rules\[0\]\[0\].*alone.*Write two rules"):
            Recipe([(pattern, None)])


def test_names_alone_do_not_show_the_edges():
    recipe = Recipe([("conv", QuantSpec(2)), *Recipe.uniform(4).rules])
    assert recipe.match("conv1") == QuantSpec(2)
    with pytest.raises(ValueError, match="the first and last kernels, which depend on the model"):
        recipe.match("dense")


def test_print_shows_rules_and_steps():
    recipe = Recipe(
        [
            (EDGES, QuantSpec(8)),
            ("norm", None),
            ("lstm", PaletteSpec(num_bits=3)),
            (".*", QuantSpec(4, symmetric=False)),
        ],
        ["adaround"],
    )
    lines = [" ".join(line.split()) for line in str(recipe).splitlines()]
    assert "<edges> 8 bits float ste" in lines
    assert "norm float float" in lines
    assert "lstm 3 bits float palette" in lines
    assert ".* 4 bits float ste symmetric=False, narrow_range=False" in lines
    assert "Steps: adaround" in lines


def test_only_the_bits_are_positional():
    assert QuantSpec(4) == QuantSpec(num_bits=4)
    with pytest.raises(TypeError, match="positional"):
        QuantSpec(4, "lsq")
    with pytest.raises(TypeError, match="multiple values"):
        QuantSpec(4, num_bits=4)
