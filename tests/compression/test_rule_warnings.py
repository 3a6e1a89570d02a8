"""Warnings of rules that do something else than they seem to: never apply, or take layers of longer names."""

import re
import warnings

import keras
import pytest

from r2keras import QuantSpec, Recipe, prepare

pytestmark = pytest.mark.backends


def test_a_rule_that_never_applies_is_told():
    parts = [keras.layers.Dense(4, name=name) for name in ("dense", "middle", "head")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    rules = [(".*", QuantSpec(num_bits=4)), ("dense", QuantSpec(num_bits=8))]
    with pytest.warns(UserWarning, match=r"rule 2 of 2, 'dense', never applies.*Move it up"):
        prepare(model, Recipe(rules))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prepare(model, Recipe(rules[::-1]))
        prepare(model, Recipe.uniform(num_bits=4))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("conv2d", "names the layer 'conv2d', and also takes 'conv2d_1', 'conv2d_10'"),
        ("head|conv2d_1", "names the layer 'conv2d_1', and also takes 'conv2d_10'.*'\\^conv2d_1\\$'"),
        ("^conv2d", None),
        ("^conv2d$", None),
        ("conv", None),
        ("conv2d_10|head", None),
        ("conv2d.*", None),
        (".*", None),
    ],
)
def test_a_name_that_takes_longer_names_is_told(pattern, told):
    parts = [keras.layers.Dense(4, name=name) for name in ("conv2d", "conv2d_1", "conv2d_10", "head")]
    model = keras.Sequential([keras.Input((4,)), *parts, keras.layers.ReLU(name="head_relu")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(model, Recipe([(pattern, QuantSpec(num_bits=4))]))
    texts = [str(warning.message) for warning in caught if "names the layer" in str(warning.message)]
    assert len(texts) == (told is not None)
    assert all(re.search(told, text) for text in texts)


def test_a_name_whose_longer_names_have_rules_of_their_own_is_fine():
    parts = [keras.layers.Dense(4, name=name) for name in ("conv2d", "conv2d_1")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    rules = [("conv2d_1", QuantSpec(num_bits=4)), ("conv2d", QuantSpec(num_bits=8))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prepare(model, Recipe(rules))
