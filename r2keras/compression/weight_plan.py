"""Plan of weight compression: the spec of every kernel under a recipe."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import keras

from r2keras._models.values import check_finite, to_numpy
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras._util.shown import shown
from r2keras.compression import recurrent
from r2keras.layers.dynamic_input import DynamicInput
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.wrappers.substitute import SubstituteWeights
from r2keras.specs import Recipe, Spec
from r2keras.specs.dynamic import is_dynamic

# A pattern of names alone, such as `conv2d` or `stem|head`, without any sign of a regular expression.
NAMES = re.compile(r"[\w/-]+(\|[\w/-]+)*")

# Specs by layer path and by the kernel's name in the layer.
WeightPlan = dict[str, dict[str, Spec]]


def plan_of(model: keras.Model | ModelView, recipe: Recipe) -> WeightPlan:
    """Returns the specs of the kernels that a recipe compresses; checks the model and the recipe.

    Args:
        model: a built model, or its view.
        recipe: the recipe.

    Returns:
        Specs by layer path and kernel name.

    Raises:
        TypeError: the model is subclassed.
        ValueError: the model is already prepared, or not built; a pattern matches no kernel; a weight is not finite.
    """
    view = view_of(model)
    for tie in view.ties:
        tie.check()
    plan: WeightPlan = {}
    names: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for path, layer in view.layers:
        if isinstance(layer, (SubstituteWeights, QuantizeActivation, GridActivation, DynamicInput)):
            raise _already_compressed(path)
        compressed = {kernel.full_name for kernel, _ in recurrent.compressors(path, layer)}
        for kernel in view.kernels_in(path):
            names.append((path, kernel.full_name))
            spec = recipe.match(path, kernel.full_name)
            if spec is None:
                continue
            if kernel.full_name in compressed:
                raise _already_compressed(kernel.full_name)
            check_finite(kernel.full_name, to_numpy(kernel.variable))
            plan.setdefault(path, {})[kernel.name] = spec
        if not view.kernels_in(path):
            others.append((path, path))
    check_patterns(recipe, names, others)
    return plan


def has_activation_bits(recipe: Recipe) -> bool:
    """Whether any rule of a recipe quantizes activations or states."""
    return any(rounds_values(spec) for _, spec in recipe.rules)


def rounds_values(spec: Spec | None) -> bool:
    """Whether a spec quantizes outputs or states; the method `"dynamic"` rounds inputs, and at run time alone."""
    return spec is not None and bool(spec.activation_bits) and not is_dynamic(spec)


def _already_compressed(path: str) -> ValueError:
    """Returns the error for a layer or kernel that is compressed already."""
    expected = "a plain model, or a recipe that does not match its compressed kernels"
    fix = "Start from the model that you passed to r2keras.prepare"
    return ValueError(invalid_part("model", expected, f"{path!r}, which is compressed already", fix))


def check_patterns(recipe: Recipe, names: list[tuple[str, str]], others: list[tuple[str, str]]) -> None:
    """Raises for a pattern that matches no kernel, and, where it quantizes activations, no other layer either.

    Warns of a rule that never applies, because earlier rules take all that it matches, and of one that names a layer
    and also takes others whose names continue that name.
    """
    quantizes = has_activation_bits(recipe)
    applied = {recipe.index(*pair) for pair in (names + others if quantizes else names)}
    for number, (pattern, spec) in enumerate(recipe.rules):
        any_layer = quantizes and (spec is None or rounds_values(spec))
        searched = names + others if any_layer else names
        if Recipe([(pattern, None)]).index(*[name for pair in searched for name in pair]) is None:
            known = ", ".join(full for _, full in names[:8]) + (", ..." if len(names) > 8 else "")
            expected = "patterns that match layer paths or kernel names; biases, norms and statistics stay float"
            received = f"the pattern {shown(pattern)}, which matches nothing"
            fix = f"Correct it or delete the rule. The model's kernels: {known or 'none'}"
            raise ValueError(invalid_part("recipe", expected, received, fix))
        if number not in applied:
            rule = f"rule {number + 1} of {len(recipe.rules)}, {shown(pattern)},"
            warnings.warn(
                f"The recipe's {rule} never applies: the first rule that matches decides, and earlier rules take all "
                "that it matches. Move it up, or delete it.",
                UserWarning,
                stacklevel=4,
            )
    for number, (pattern, _) in enumerate(recipe.rules):
        taken = [path for path, full in names if recipe.index(path, full) == number]
        for name, longer in _continued(pattern, taken):
            warnings.warn(
                f"The recipe's pattern {shown(pattern)} names the layer {name!r}, and also takes {_listed(longer)}, "
                f"because patterns are searched within names. Write '^{name}$' for that layer alone, or '^{name}' for "
                "all of these.",
                UserWarning,
                stacklevel=4,
            )


def _continued(pattern: str, paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each layer that a pattern of plain names gives in full, with the layers whose names continue it."""
    if not NAMES.fullmatch(pattern):
        return
    for name in pattern.split("|"):
        # A part of the layer itself, "lstm/lstm_cell", is meant too.
        longer = [p for p in dict.fromkeys(paths) if p.startswith(name) and not f"{p}/".startswith(f"{name}/")]
        if name in paths and longer:
            yield name, longer


def _listed(paths: list[str]) -> str:
    """Returns at most three names as text."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(map(repr, paths[:3])) + more
