"""Recipe: the first match wins; YAML and JSON; errors that name and explain bad files."""

import errno
import json
import os
import sys

import pytest

from r2keras.specs import QuantSpec, Recipe

pytestmark = pytest.mark.backends

TWO, FOUR, EIGHT = (QuantSpec(num_bits=bits) for bits in (2, 4, 8))

BAD_RULES = [
    ([], ValueError, "at least one"),
    ("conv", TypeError, "rules"),
    ({"conv": EIGHT}, TypeError, "rules"),
    (None, TypeError, "rules"),
    (EIGHT, TypeError, "rules"),
    ([EIGHT], TypeError, "pair"),
    (["ab"], TypeError, "pair"),
    ([("conv",)], TypeError, "pair"),
    ([(1, EIGHT)], TypeError, "pair"),
    ([("conv", 8)], TypeError, "QuantSpec"),
    ([("conv", QuantSpec)], TypeError, "QuantSpec"),
    ([("conv(", EIGHT)], ValueError, "regular expression"),
]

# What a person may write in a file, and a word of what they are told.
BAD_CONTENT = [
    (None, "rules"),
    ([], "rules"),
    ({}, "rules"),
    ({"rules": {}}, "rules"),
    ({"rules": [], "more": 1}, "rules"),
    ({"rules": [{"match": "conv", "quantize": {}}], "steps": ["adarond"]}, "Did you mean 'adaround'\\?$"),
    ({"rules": [{"match": "conv", "quantize": {}}], "steps": "adaround"}, "a list of names"),
    ({"rules": [{"match": "conv", "quantize": {}}], "steps": [["adaround"]]}, "one of"),
    ({"rules": [{"match": "conv", "quantize": {}}], "steps": ["correct_bias", "adaround"]}, "in the order"),
    ({"rules": []}, "at least one"),
    ({"rules": ["conv"]}, "match"),
    ({"rules": [{"match": "conv"}]}, "keep_float"),
    ({"rules": [{"quantize": {}}]}, "match"),
    ({"rules": [{"match": "conv", "quantize": {}, "keep_float": True}]}, "match"),
    ({"rules": [{"match": "conv", "keep_float": False}]}, "keep_float"),
    ({"rules": [{"match": "conv", "quantise": {}}]}, "Did you mean 'quantize'\\?$"),
    ({"rules": [{"match": "conv", "quantize": 8}]}, "mapping"),
    ({"rules": [{"match": "conv", "quantize": {"bits": 8}}]}, "key of QuantSpec"),
    ({"rules": [{"match": "conv", "quantize": {"num_bits": 9}}]}, "from 1 to 8"),
    ({"rules": [{"match": "conv", "quantize": {"num_bits": "8"}}]}, "from 1 to 8"),
    ({"rules": [{"match": "conv(", "quantize": {}}]}, "regular expression"),
    ({"rules": [{"match": 3, "quantize": {}}]}, "regular expression"),
]


@pytest.fixture
def recipe():
    return Recipe([("stem|head", EIGHT), ("norm", None), ("^block/.*kernel$", TWO), (".*", FOUR)])


@pytest.mark.parametrize(
    ("names", "place", "spec"),
    [
        (("stem", "stem/kernel"), 0, EIGHT),
        (("block/stem", "block/stem/kernel"), 0, EIGHT),  # first match wins
        (("block/norm", "block/norm/gamma"), 1, None),
        (("block/conv", "block/conv/kernel"), 2, TWO),  # found in the weight's name only
        (("dense", "dense/kernel"), 3, FOUR),
    ],
)
def test_first_match_wins(recipe, names, place, spec):
    assert recipe.index(*names) == place
    assert recipe.match(*names) == spec


def test_what_nothing_matches_stays_float():
    recipe = Recipe([("conv", EIGHT)])
    assert recipe.index("dense", "dense/kernel") is None
    assert recipe.match("dense", "dense/kernel") is None


@pytest.mark.parametrize(("rules", "error", "match"), BAD_RULES)
def test_bad_rules_are_refused(rules, error, match):
    with pytest.raises(error, match=match):
        Recipe(rules)


def test_equality_hash_and_any_iterable(recipe):
    same = Recipe(rule for rule in recipe.rules)
    assert same == recipe
    assert hash(same) == hash(recipe)
    assert Recipe([["conv", EIGHT]]) == Recipe([("conv", EIGHT)])
    assert Recipe(recipe.rules[::-1]) != recipe


@pytest.mark.parametrize(
    ("steps", "error", "match"),
    [
        (["equalise"], ValueError, "Did you mean 'equalize'"),
        (["adaround", "fold_batch_norm"], ValueError, "in the order fold_batch_norm, equalize, sensitivity"),
        (["adaround", "adaround"], ValueError, "each step once"),
        ("adaround", TypeError, "a list of names"),
        (None, TypeError, "a list of names"),
    ],
)
def test_bad_steps_are_refused(steps, error, match):
    with pytest.raises(error, match=match):
        Recipe([(".*", EIGHT)], steps)


@pytest.mark.parametrize("steps", ["auto", ["auto"], ("auto",)])
def test_auto_is_kept(steps, tmp_path):
    recipe = Recipe([(".*", EIGHT)], steps=steps)
    assert recipe.steps == ("auto",) and recipe.to_dict()["steps"] == "auto" and "Steps: auto" in str(recipe)
    for suffix in (".yaml", ".json"):
        recipe.save(tmp_path / f"r{suffix}")
        assert Recipe.load(tmp_path / f"r{suffix}") == recipe
    assert "steps: auto\n" in (tmp_path / "r.yaml").read_text()
    with pytest.raises(ValueError, match="one of"):
        Recipe([(".*", EIGHT)], ["auto", "adaround"])


def test_steps_are_kept(tmp_path):
    recipe = Recipe([(".*", EIGHT)], steps=(step for step in ("fold_batch_norm", "adaround")))
    assert recipe.steps == ("fold_batch_norm", "adaround")
    assert recipe != Recipe([(".*", EIGHT)])
    for suffix in (".yaml", ".json"):
        recipe.save(tmp_path / f"r{suffix}")
        assert Recipe.load(tmp_path / f"r{suffix}") == recipe


def test_dict_round_trip_is_plain_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("name", ["r.yaml", "r.yml", "r.json", "R.JSON", "deep/er/r.yaml"])
def test_file_round_trip(tmp_path, recipe, name):
    recipe.save(tmp_path / name)
    assert Recipe.load(tmp_path / name) == recipe


def test_pattern_with_special_characters_round_trips(tmp_path):
    recipe = Recipe([(r"^(a|b)\d+: \"µ\"#$", None)])
    for suffix in (".yaml", ".json"):
        recipe.save(tmp_path / f"r{suffix}")
        assert Recipe.load(tmp_path / f"r{suffix}") == recipe


def test_yaml_as_a_person_writes_it(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "rules:\n"
        '- {match: "stem|head", quantize: {num_bits: 8}}  # ends stay wide\n'
        "- {match: norm, keep_float: true}\n"
        "- match: .*\n"
        "  quantize: {num_bits: 4, granularity: per_group, group_size: 32}\n"
    )
    group = QuantSpec(num_bits=4, granularity="per_group", group_size=32)
    assert Recipe.load(tmp_path / "r.yaml") == Recipe([("stem|head", EIGHT), ("norm", None), (".*", group)])


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize(("content", "match"), BAD_CONTENT)
def test_bad_content_names_the_file_and_the_reason(tmp_path, content, match, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_text(json.dumps(content))  # JSON is YAML
    with pytest.raises(ValueError, match=f"(?s)bad{suffix} is not a recipe.*{match}"):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("r.json", b"{", "valid JSON"),
        ("r.json", b"", "valid JSON"),
        ("r.json", b"[" * 100_000, "nested too deeply"),
        ("r.json", b"\xff\xfe", "UTF-8"),
        ("r.yaml", b"rules: [", "valid YAML"),
        ("r.yaml", b"rules: !!python/object/apply:os.getcwd []", "valid YAML"),
        ("r.yaml", b"\x89PNG\x00", "UTF-8"),
        ("r.yaml", b"", "rules"),
    ],
)
def test_unreadable_file_is_explained_in_one_line(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"is not a recipe.*{match}") as caught:
        Recipe.load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["r.txt", "r", "r.yaml.bak"])
def test_other_suffixes_are_refused_both_ways(tmp_path, recipe, name):
    with pytest.raises(ValueError, match=r"\.yaml, \.yml or \.json"):
        recipe.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.yaml, \.yml or \.json"):
        Recipe.load(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        Recipe.load(tmp_path / "none.yaml")


def test_yaml_without_pyyaml_says_what_to_install(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="pip install pyyaml"):
        recipe.save(tmp_path / "r.yaml")
    recipe.save(tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_full_disk_leaves_the_older_recipe(tmp_path, recipe, monkeypatch):
    path = tmp_path / "r.json"
    recipe.save(path)
    before = path.read_bytes()

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        Recipe([("a", None)]).save(path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
