"""Random recipes of the matrix, and how each is applied: a seed always gives the same."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import keras

from r2keras.specs import PaletteSpec, QuantSpec, Recipe, Spec
from r2keras.specs.quant import METHOD_BITS
from r2keras.specs.recipe import STEPS

GRANULARITIES = ("per_channel", "per_channel", "per_channel", "per_tensor", "per_group")
METHODS = ("lsq", "ewgs", "dorefa", "wrpn", "binary", "ternary", "balanced", "alternating")


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe and how to apply it.

    Args:
        recipe: the recipe.
        trains: whether by `prepare`, one training step and `finalize`; else by `calibrate`.
        input_bits: bits of the model's inputs, or None.
        output_bits: bits of the model's outputs, or None.
        measures: whether an integer file gets data for ranges that the record lacks.
        optimize: when the file decodes its weights.
    """

    recipe: Recipe
    trains: bool
    input_bits: int | None
    output_bits: int | None
    measures: bool
    optimize: str

    @property
    def options(self) -> dict[str, int | None]:
        """The arguments that `prepare` and `calibrate` share."""
        return {"input_bits": self.input_bits, "output_bits": self.output_bits}

    @property
    def is_integer(self) -> bool:
        """Whether the record suits integer operators: inputs and every quantized activation at 8 bits."""
        bits = {spec.activation_bits for _, spec in self.recipe.rules if isinstance(spec, QuantSpec)}
        return self.input_bits == 8 and 8 in bits and bits <= {8, None} and self.output_bits in (8, None)

    def __str__(self) -> str:
        rules = "; ".join(f"{pattern}: {brief(spec)}" for pattern, spec in self.recipe.rules)
        way = "prepare" if self.trains else "calibrate"
        ends = f"in {self.input_bits}, out {self.output_bits}"
        return f"{way} [{rules}] {'+'.join(self.recipe.steps)} {ends} {self.optimize}{' data' if self.measures else ''}"


def brief(spec: Spec | None) -> str:
    """Returns the arguments of a spec that are not its defaults."""
    if spec is None:
        return "float"
    default = type(spec)(num_bits=spec.num_bits)
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    other = [
        f"{name}={value}" for name, value in fields.items() if value != getattr(default, name) and value is not None
    ]
    letter = "P" if isinstance(spec, PaletteSpec) else "W"
    return " ".join([f"{letter}{spec.num_bits}", *(text for text in other if not text.startswith("temperature"))])


def draw(seed: int, model: keras.Model) -> Job:
    """Returns the recipe of a seed, for the layers of its model."""
    rng = random.Random(f"recipe {seed}")
    trains, integer = rng.random() < 0.5, rng.random() < 0.5
    specs = [_integer_spec(rng) if integer else _spec(rng) for _ in range(3)]
    names = [layer.name for layer in model.layers if any(_is_kernel(weight) for weight in layer.weights)]
    rules: list[tuple[str, Spec | None]] = []
    if names and rng.random() < 0.4:
        rules.append((f"^{rng.choice(names)}", None if rng.random() < 0.3 else specs[1]))
    rules.append((".*", specs[0]))
    activations = any(spec is not None and spec.activation_bits for _, spec in rules)
    bits = 8 if integer else rng.choice((4, 8))
    input_bits = bits if integer or (activations and rng.random() < 0.5) else None
    output_bits = bits if activations and rng.random() < 0.5 else None
    steps = _steps(rng) if not trains and rng.random() < 0.5 else ()
    tables = [spec.table_dtype for _, spec in rules if isinstance(spec, PaletteSpec)]
    optimize = rng.choice(("size", "memory", "latency") if set(tables) <= {"int8"} else ("size", "memory"))
    return Job(Recipe(rules, steps), trains, input_bits, output_bits, rng.random() < 0.4, optimize)


def _is_kernel(weight: keras.Variable) -> bool:
    """Whether recipes are about a weight."""
    return len(weight.shape) > 1 and weight.name not in ("alpha", "bias")


def _integer_spec(rng: random.Random) -> QuantSpec:
    """Returns a spec that integer operators can follow."""
    ranges = rng.choice((None, None, "min_max", "mse", "percentile"))
    bits, granularity = rng.choice((8, 8, 8, 7, 6, 5, 4, 3, 2, 1)), rng.choice(("per_channel", "per_tensor"))
    return QuantSpec(num_bits=bits, granularity=granularity, activation_bits=8, activation_range=ranges)


def _spec(rng: random.Random) -> Spec:
    """Returns a uniform grid or a palette."""
    if rng.random() < 0.4:
        return _palette(rng)
    options: dict[str, Any] = {"num_bits": rng.randint(1, 8), "granularity": rng.choice(GRANULARITIES)}
    if rng.random() < 0.5:
        method = rng.choice(METHODS)
        low, high = METHOD_BITS.get(method, (1, 8))
        options |= {"method": method, "num_bits": min(max(options["num_bits"], low), high)}
        if method == "alternating" and options["granularity"] == "per_group":
            options["granularity"] = "per_channel"
    elif rng.random() < 0.3:
        options |= {"symmetric": False}
    else:
        options |= {"range": rng.choice(("min_max", "mse", "percentile"))}
    if options["granularity"] == "per_group":
        options["group_size"] = rng.choice((1, 2, 2))
    if rng.random() < 0.4:
        options["activation_bits"] = rng.randint(2, 8)
        if options.get("method") == "alternating":
            options["activation_method"] = "ste"
    return QuantSpec(**options)


def _palette(rng: random.Random) -> PaletteSpec:
    """Returns a palette of scalars or vectors."""
    options: dict[str, Any] = {"num_bits": rng.randint(1, 5), "dim": rng.choice((1, 1, 2, 3)), "min_size": 0}
    options["table_dtype"] = rng.choice(("float32", "float16", "int8"))
    options["channel_scale"] = rng.random() < 0.25
    if rng.random() < 0.2:
        options |= {"granularity": "per_group", "group_size": 2 * options["dim"]}
    return PaletteSpec(**options)


def _steps(rng: random.Random) -> tuple[str, ...]:
    """Returns some steps of post-training quantization, in their order."""
    return tuple(step for step in STEPS if rng.random() < 0.4)
