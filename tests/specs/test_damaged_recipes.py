"""Damaged recipes: a clear ValueError or a recipe, never another exception, and little memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.specs.recipe_file import LONGEST, parse_yaml
from tests.damage import MANY, ODD_VALUES, QUICK, check_refusal, damaged_bytes, edited, examples, peak_megabytes

RECIPE = Recipe(
    [
        ("stem|head", QuantSpec(num_bits=8, activation_bits=8)),
        ("conv", QuantSpec(num_bits=2, method="ewgs", delta=0.5, channel_axis=-1)),
        ("dense", QuantSpec(num_bits=4, granularity="per_group", group_size=32, range="percentile")),
        ("embed", PaletteSpec(num_bits=4, dim=2, final_temperature=0.1, anneal_steps=10)),
        ("norm", None),
    ],
    steps=["fold_batch_norm", "adaround"],
)
ALIASES = b"""rules:
- {match: a, quantize: &eight {num_bits: 8}}
- {match: b, quantize: *eight}
- {match: c, quantize: {<<: *eight, num_bits: 4}}
- match: !!str 1
  palettize: {num_bits: 0x4, temperature: 1.5e-1}
- {match: "d", keep_float: yes}
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    for suffix in ("json", "yaml"):
        RECIPE.save(folder / f"r.{suffix}")
    return {"json": [(folder / "r.json").read_bytes()], "yaml": [(folder / "r.yaml").read_bytes(), ALIASES]}


def load(path, data):
    path.write_bytes(data)
    try:
        recipe = Recipe.load(path)
    except ValueError as error:
        check_refusal(error, path.name)
    else:
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def check(suffix, number, sources, tmp_path):
    before = peak_megabytes()

    @examples(number)
    @given(st.data())
    def run(data):
        if suffix == "json" and data.draw(st.booleans()):
            load(tmp_path / "r.json", json.dumps(data.draw(edited(RECIPE.to_dict()))).encode())
        else:
            source = data.draw(st.sampled_from(sources[suffix]))
            load(tmp_path / f"r.{suffix}", data.draw(damaged_bytes(source, text=True)))

    run()
    assert peak_megabytes() - before < 150


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_damaged_files(suffix, sources, tmp_path):
    check(suffix, QUICK, sources, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_many_damaged_files(suffix, sources, tmp_path):
    check(suffix, MANY, sources, tmp_path)


def bomb(first, line):
    """Returns nine levels of aliases, eight of each to the one before."""
    return "\n".join([first, *(line(old, new) for old, new in zip("abcdefgh", "bcdefghi", strict=True)), "rules: *i"])


DEEP = "\n".join(["a0: &a0 x", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 3000))])
HOSTILE = {
    "aliases of lists": (bomb("a: &a [x]", lambda o, n: f"{n}: &{n} [{','.join(['*' + o] * 8)}]"), "aliases"),
    "aliases of keys": (bomb("a: &a x", lambda o, n: f"{n}: &{n} {{p: *{o}, q: *{o}, r: *{o}, s: *{o}}}"), "aliases"),
    "merged mappings": (bomb("a: &a {x: 1}", lambda o, n: f"{n}: &{n} {{<<: [{','.join(['*' + o] * 8)}]}}"), "aliases"),
    "an alias in itself": ("rules: &a\n- *a", "within the value"),
    "chained aliases": (DEEP, "aliases that stand for"),
    "deep lists": ("[" * 100_000, "nested"),
    "deep blocks": ("- " * 100_000, "nested"),
    "deep keys": ("{a: " * 1000, "nested"),
    "many values": ("[x" + ",x" * 30_000 + "]", "more than 20,000 values"),
    "a long file": ("#" * (LONGEST + 1), "too long"),
    "a repeated key": ("rules: []\nrules: []", "'rules' is given twice"),
    "a repeated argument": ("rules: [{match: a, quantize: {num_bits: 4, num_bits: 2}}]", "'num_bits' is given twice"),
    "no boolean": ("a: !!bool foo", "'foo' is not of the type bool"),
    "no integer": ("a: !!int ''", "'' is not of the type int"),
    "no float": ("a: !!float foo", "'foo' is not of the type float"),
    "a date": ("rules: [{match: 2001-01-01, keep_float: true}]", "timestamp.*quotes"),
    "no date": ("a: !!timestamp foo", "timestamp"),
    "a set": ("a: !!set {b}", "type set"),
    "a long number": ("a: " + "1:" * 200 + "1", "too long"),
    "a long tag": ("a: !!" + "b" * 5000 + " c", "which a recipe does not have"),
    "a long key": ("rules: [{match: a, quantize: {" + "b" * 500_000 + ": c}}]", "expected"),
    "two documents": ("--- a\n--- b", "single document"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_cheaply(name, tmp_path):
    text, match = HOSTILE[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    before = peak_megabytes()
    with pytest.raises(ValueError, match=match) as caught:
        Recipe.load(path)
    check_refusal(caught.value, "r.yaml")
    assert peak_megabytes() - before < 100


def test_hostile_json_is_refused(tmp_path):
    for text in ("[" * 100_000, '{"a": ' * 100_000, '{"rules": 1, "rules": 2}', "NaN", "9" * 5000):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ValueError, match="not valid JSON") as caught:
            Recipe.load(tmp_path / "r.json")
        check_refusal(caught.value, "r.json")


def test_aliases_and_merges_of_people_load(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + ALIASES)
    rules = Recipe.load(tmp_path / "r.yaml").rules
    assert [pattern for pattern, _ in rules] == ["a", "b", "c", "1", "d"]
    assert [spec.num_bits for _, spec in rules if spec] == [8, 8, 4, 4]
    assert parse_yaml(b"{a: null, b: 1_000, c: .5, d: off}") == {"a": None, "b": 1000, "c": 0.5, "d": False}


@pytest.mark.parametrize(
    ("rules", "error", "name"),
    [
        ([("a", None), ("(", None)], ValueError, r"`rules\[1\]\[0\]`. Expected a regular expression"),
        ([("a", None), ("a", 8)], TypeError, r"`rules\[1\]\[1\]`. Expected a QuantSpec or PaletteSpec"),
        ([("a", None), 8], TypeError, r"`rules\[1\]`. Expected a pair"),
        ([("a{99999999999}", None)], ValueError, r"`rules\[0\]\[0\]`. Expected a regular expression"),
        ([("(" * 5000 + ")" * 5000, None)], ValueError, "nested too deeply"),
    ],
)
def test_a_bad_rule_is_named_by_its_place(rules, error, name):
    with pytest.raises(error, match=name):
        Recipe(rules)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (8, r"`rules\[1\]`"),
        ({"match": "(", "keep_float": True}, r"`rules\[1\].match`. Expected a regular expression"),
        ({"match": "a{99999999999}", "keep_float": True}, r"`rules\[1\].match`"),
        ({"match": 8, "keep_float": True}, r"`rules\[1\].match`"),
        ({"match": "a", "keep_float": 1}, r"`rules\[1\].keep_float`"),
        ({"match": "a", "quantise": {}}, r"rules\[1\].*Did you mean 'quantize'"),
        ({"match": "a", "quantize": 8}, r"`rules\[1\].quantize`"),
        ({"match": "a", "quantize": {"num_bits": 9}}, r"rules\[1\].quantize: .*`num_bits`"),
        ({"match": "a", "quantize": {"num_bits": "8"}}, r"rules\[1\].quantize: .*`num_bits`"),
    ],
)
def test_a_bad_rule_of_a_file_is_named_by_its_place(rule, name, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"rules": [{"match": "a", "keep_float": True}, rule]}))
    with pytest.raises(ValueError, match=rf"r\.json is not a recipe\. .*{name}"):
        Recipe.load(path)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_in_place_of_a_config(value):
    for config in (value, {"rules": value}, {"rules": [value]}, {"rules": [{"match": "a", "quantize": value}]}):
        try:
            Recipe.from_dict(config)
        except (ValueError, TypeError) as error:
            assert len(str(error)) < 1000


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"argument `path`. .* a recipe. .*r\.yaml', which does not exist"):
        Recipe.load(tmp_path / "r.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.yaml', which is a folder"):
        Recipe.load(tmp_path / "folder.yaml")
    with pytest.raises(TypeError, match="Expected a path"):
        Recipe.load(3)
