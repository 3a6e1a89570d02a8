"""The recipe: ordered (pattern, spec) rules over the names of weights, of which the first match wins."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, check_pattern, invalid, invalid_choice, invalid_part, sentence
from r2keras._util.files import atomic_write_text, one_line
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import QuantSpec
from r2keras.specs.recipe_file import read_config, suffix_of, yaml_module
from r2keras.specs.recipe_table import recipe_table

if TYPE_CHECKING:
    from rich.table import Table

Spec = QuantSpec | PaletteSpec
# The specs by the key that a rule in a recipe, or a tensor in a record, has for them.
SPEC_KINDS: dict[str, type[QuantSpec] | type[PaletteSpec]] = {QuantSpec.kind: QuantSpec, PaletteSpec.kind: PaletteSpec}

# The pattern of the rule for the first and last kernels, which `prepare` and `calibrate` find in the model.
EDGES = "<edges>"

# The steps of post-training quantization, in the only order in which they may run.
STEPS = (
    *("fold_batch_norm", "equalize", "sensitivity"),
    *("adaround", "correct_bias", "reestimate_batch_norm", "reconstruct"),
)
# In place of steps: `calibrate` chooses them.
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Recipe(Tabular):
    """Assigns specs to the weights of a model by ordered rules, of which the first that matches a weight wins.

    A pattern is a regular expression, searched (`re.search`) in the layer's path (`"block/conv1"`) and in the
    weight's (`"block/conv1/kernel"`). A weight stays float if no rule matches it or if its rule's spec is None.
    A search also finds longer names: `"conv2d|dense_1"` matches `conv2d_1` and `dense_12`. For one layer alone, write
    `"^conv2d$"`, or `"conv2d$"` if other names may precede it.

    The pattern `"<edges>"` stands for the first and last layers that have kernels: those with no other kernel before
    them, or none after them, in the order of calls. `prepare`, `calibrate`, `footprint` and `activation_plan` find them
    in the model, and refuse a model that has no other layers with kernels.

    Args:
        rules: pairs `(pattern, spec)`; `spec` is a `QuantSpec`, a `PaletteSpec` or None (stays float).
        steps: what `calibrate` does in addition to choosing ranges. Each step is the function of that name in
            `r2keras.calibration`; they run in this order: `"fold_batch_norm"`, `"equalize"`, `"sensitivity"` (before
            quantization), `"adaround"`, `"correct_bias"`, `"reestimate_batch_norm"`, `"reconstruct"` (after the
            quantization of activations). Without any, `calibrate` does what takes seconds; with `"auto"` it chooses by
            bits, model and data, and logs what it chose. `recipe.steps` is `("auto",)` then.

    Raises:
        ValueError: no rules, a pattern that is not a regular expression, an unknown step, or steps out of order.
        TypeError: a rule that is not such a pair, or steps that are not a list of names.

    Example:

    >>> recipe = Recipe([("stem|head", QuantSpec(num_bits=8)), (".*conv.*", QuantSpec(num_bits=2))])
    >>> recipe.match("block/conv1", "block/conv1/kernel").num_bits
    2
    >>> recipe.match("block/norm", "block/norm/gamma") is None
    True
    >>> print(recipe)
    Recipe
    <BLANKLINE>
     pattern    weights  activations  method
     ──────────────────────────────────────────
     stem|head   8 bits        float  ste
     .*conv.*    2 bits        float  ste
    """

    rules: tuple[tuple[str, Spec | None], ...]
    steps: tuple[str, ...]

    def __init__(self, rules: Iterable[tuple[str, Spec | None]], steps: Iterable[str] = ()):
        if isinstance(rules, (str, dict)) or not isinstance(rules, Iterable):
            raise TypeError(invalid("rules", "a list of (pattern, spec) pairs", rules))
        rules = tuple(rules)
        if not rules:
            raise ValueError(
                invalid(
                    "rules",
                    "at least one (pattern, spec) pair",
                    [],
                    "Recipe([('.*', QuantSpec(num_bits=8))]) quantizes every kernel to 8 bits",
                )
            )
        object.__setattr__(self, "rules", tuple(_checked_rule(f"rules[{i}]", rule) for i, rule in enumerate(rules)))
        object.__setattr__(self, "steps", _checked_steps(steps))

    @classmethod
    def uniform(
        cls,
        num_bits: int = 4,
        edges: int | None = 8,
        activation_bits: int | None = None,
        steps: Iterable[str] = (),
        **spec: Any,
    ) -> Recipe:
        """Returns a recipe that gives all kernels the same bits, except the first and the last ones.

        Args:
            num_bits: bits per weight, 1 to 8.
            edges: bits per weight of the first and last kernels (the pattern `"<edges>"`), which hold few weights and
                matter most; None means `num_bits`.
            activation_bits: bits of the layers' outputs; None leaves them float.
            steps: the steps of `calibrate`, or `"auto"`.
            **spec: further arguments of `QuantSpec`, for all kernels.

        Raises:
            ValueError: a value out of range, or `edges` that the method of the kernels does not support.
            TypeError: an argument that `QuantSpec` does not have.

        Example:

        >>> [(pattern, spec.num_bits) for pattern, spec in Recipe.uniform(4, steps=["adaround"]).rules]
        [('<edges>', 8), ('.*', 4)]
        """
        inner = QuantSpec(num_bits, activation_bits=activation_bits, **spec)
        if edges is None or check_int("edges", edges, 1, 8) == inner.num_bits:
            return cls([(".*", inner)], steps)
        try:
            outer = QuantSpec(edges, activation_bits=activation_bits, **spec)
        except ValueError as error:
            expected = f"None, or bits that method={inner.method!r} supports"
            raise ValueError(invalid("edges", expected, edges, "Pass edges=None")) from error
        return cls([(EDGES, outer), (".*", inner)], steps)

    @classmethod
    def int8(cls, steps: Iterable[str] = ()) -> Recipe:
        """Returns the recipe of fully integer models: 8 bits per weight and per activation.

        `calibrate` and `prepare` quantize inputs and outputs too with `integer=True`; then
        `to_litert(..., activations="int8")` needs no data.

        Args:
            steps: the steps of `calibrate`, or `"auto"`.

        Example:

        >>> Recipe.int8() == Recipe([(".*", QuantSpec(8, activation_bits=8))])
        True
        """
        return cls.uniform(8, edges=None, activation_bits=8, steps=steps)

    def index(self, *names: str) -> int | None:
        """Returns the index of the first rule whose pattern is found in any of `names`, or None.

        Raises:
            ValueError: the answer depends on the rule for the first and last kernels, which only a model shows.
        """
        for rule_index, (pattern, _) in enumerate(self.rules):
            if pattern == EDGES:
                fix = "Pass the recipe and the model to prepare, calibrate, footprint or activation_plan"
                received = f"the rule {EDGES!r} for the first and last kernels, which depend on the model"
                raise ValueError(invalid_part("recipe", "rules that match by name alone", received, fix))
            if any(re.search(pattern, name) for name in names):
                return rule_index
        return None

    def match(self, *names: str) -> Spec | None:
        """Returns the spec of the first rule whose pattern is found in any of `names`, or None; raises as `index`."""
        rule_index = self.index(*names)
        return None if rule_index is None else self.rules[rule_index][1]

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain JSON."""
        config: dict[str, Any] = {"rules": [_rule_to_dict(pattern, spec) for pattern, spec in self.rules]}
        if self.steps:
            config["steps"] = AUTO if self.steps == (AUTO,) else list(self.steps)
        return config

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Recipe:
        """Returns the recipe of a `to_dict` result.

        Raises:
            ValueError: a key or a value that a recipe does not have.
            TypeError: a value of another type.
        """
        if not isinstance(config, dict) or not {"rules"} <= set(config) <= {"rules", "steps"}:
            raise ValueError(invalid("recipe", "a mapping with the key `rules` and, optionally, `steps`", config))
        if not isinstance(config["rules"], list):
            raise ValueError(invalid("rules", "a list", config["rules"]))
        rules = [_rule_from_dict(f"rules[{i}]", rule) for i, rule in enumerate(config["rules"])]
        return cls(rules, config.get("steps", ()))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the recipe as YAML (`.yaml`, `.yml`) or JSON (`.json`), atomically.

        Args:
            path: the file.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.

        Example:

        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "w4.yaml")
        >>> Recipe([("head", None), (".*", QuantSpec(num_bits=4))]).save(path)
        >>> Recipe.load(path).match("conv").num_bits
        4
        """
        if suffix_of(path) == ".json":
            atomic_write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        else:
            atomic_write_text(path, yaml_module().safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Recipe:
        """Reads a recipe that `save` or a person wrote.

        Rules in YAML: `- {match: "stem|head", quantize: {num_bits: 8}}`, `- {match: "conv", palettize: {num_bits: 4}}`,
        `- {match: "norm", keep_float: true}`, `- {match: "<edges>", quantize: {num_bits: 8}}`.

        Raises:
            ValueError: another suffix, a file that is neither YAML nor JSON, or one that is not a recipe or larger than
                a recipe (a megabyte, or 20,000 values). The message names the file and the problem.
            OSError: the file cannot be read.
        """
        config = read_config(path)
        try:
            return cls.from_dict(config)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a recipe. {sentence(one_line(error))}") from error

    def __rich__(self) -> Table:
        return recipe_table(self.rules, self.steps)


def _checked_rule(name: str, rule: object) -> tuple[str, Spec | None]:
    """Returns the rule if it is a pair of a regular expression and a spec; `name` is its place in the recipe."""
    kinds = tuple(SPEC_KINDS.values())
    if not isinstance(rule, (tuple, list)) or len(rule) != 2 or not isinstance(rule[0], str):
        raise TypeError(invalid(name, "a pair (pattern, spec)", rule))
    pattern, spec = rule
    if spec is not None and not isinstance(spec, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(invalid(f"{name}[1]", f"a {names}, or None to stay float", spec))
    check_pattern(f"{name}[0]", pattern)
    if EDGES in pattern and pattern != EDGES:
        fix = "Write two rules"
        raise ValueError(invalid(f"{name}[0]", f"{EDGES!r} alone, or a pattern without it", pattern, fix))
    return pattern, spec


def _checked_steps(steps: object) -> tuple[str, ...]:
    """Returns the steps if each is known and they are in order, or `"auto"` alone."""
    if isinstance(steps, str) and steps == AUTO:
        return (AUTO,)
    if isinstance(steps, (str, dict)) or not isinstance(steps, Iterable):
        raise TypeError(invalid("steps", f"{AUTO!r}, or a list of names from {', '.join(STEPS)}", steps))
    steps = tuple(steps)
    if steps == (AUTO,):
        return steps
    for step in steps:
        if step not in STEPS:
            raise ValueError(invalid_choice("steps", STEPS, step))
    if list(steps) != sorted(set(steps), key=STEPS.index):
        raise ValueError(
            invalid("steps", f"each step once, in the order {', '.join(STEPS)}", list(steps), "Sort the steps")
        )
    return steps


def _rule_to_dict(pattern: str, spec: Spec | None) -> dict[str, Any]:
    if spec is None:
        return {"match": pattern, "keep_float": True}
    return {"match": pattern, spec.kind: spec.to_dict()}


def _rule_from_dict(name: str, rule: object) -> tuple[str, Spec | None]:
    """Reads one rule: `match`, and either `keep_float: true` or one kind of spec; `name` is its place in the recipe."""
    if not isinstance(rule, dict) or "match" not in rule or len(rule) != 2:
        raise ValueError(invalid(name, f"the keys `match` and one of {[*SPEC_KINDS, 'keep_float']}", rule))
    check_pattern(f"{name}.match", rule["match"])
    (kind,) = set(rule) - {"match"}
    if kind == "keep_float":
        if rule[kind] is not True:
            raise ValueError(invalid(f"{name}.keep_float", "true", rule[kind], "Delete the rule otherwise"))
        return rule["match"], None
    if kind not in SPEC_KINDS:
        raise ValueError(invalid_choice(f"key of {name}", [*SPEC_KINDS, "keep_float"], kind))
    if not isinstance(rule[kind], dict):
        raise ValueError(invalid(f"{name}.{kind}", "a mapping of arguments", rule[kind]))
    try:
        return rule["match"], SPEC_KINDS[kind].from_dict(rule[kind])
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}.{kind}: {error}") from error
