"""Kernels under `activation_method="dynamic"`: which of them have products that round the rows of their input."""

from __future__ import annotations

import dataclasses
import warnings

import keras

from r2keras._models.channel_axes import scale_shape
from r2keras._models.row_products import input_axis
from r2keras._models.walk import ModelView
from r2keras._util.errors import invalid_part
from r2keras.compression.recurrent import halves_of
from r2keras.compression.weight_plan import WeightPlan
from r2keras.specs import QuantSpec, Recipe, Spec
from r2keras.specs.dynamic import DYNAMIC, is_dynamic


def settled(plan: WeightPlan, view: ModelView, recipe: Recipe) -> WeightPlan:
    """Returns a plan in which the method `"dynamic"` is left to the kernels whose products round rows.

    Args:
        plan: the plan of `weight_plan.plan_of`.
        view: the model.
        recipe: the recipe.

    Returns:
        The plan. A kernel of another layer, such as a convolution of more than one pixel, keeps its grid, and its spec
        loses `activation_bits`.

    Raises:
        ValueError: no layer of the recipe's rules rounds rows; a kernel has scales along its input; only some kernels
            of a layer are dynamic.

    Warns:
        UserWarning: a rule's method rounds nothing.
    """
    wanted = {number for number, (_, spec) in enumerate(recipe.rules) if is_dynamic(spec)}
    if not wanted:
        return plan
    new, used = {}, set()
    for path, specs in plan.items():
        layer, dynamic = view.layers_by_path[path], [name for name, spec in specs.items() if is_dynamic(spec)]
        if not dynamic:
            new[path] = specs
        elif _has_products(layer):
            _check(path, layer, view, specs)
            used |= {recipe.index(path, f"{path}/{name}") for name in dynamic}
            new[path] = specs
        else:
            new[path] = {name: _bare(spec) for name, spec in specs.items()}
    if not used:
        expected = f"activation_method={DYNAMIC!r} for a Dense, EinsumDense, recurrent or pointwise layer"
        received = f"a recipe whose rules match none in {view.model.name!r}"
        raise ValueError(invalid_part("recipe", expected, received, "Leave activation_bits out"))
    for number in sorted(wanted - used):
        warnings.warn(
            f"The activation_method={DYNAMIC!r} of the recipe's rule {recipe.rules[number][0]!r} rounds nothing. "
            "Expected a rule for a Dense, EinsumDense, recurrent or pointwise layer. Leave activation_bits out of this "
            "rule.",
            UserWarning,
            stacklevel=3,
        )
    return new


def _has_products(layer: keras.Layer) -> bool:
    """Whether a layer is a product of rows, or recurrent."""
    return input_axis(layer) is not None or bool(halves_of(layer))


def _check(path: str, layer: keras.Layer, view: ModelView, specs: dict[str, Spec]) -> None:
    """Raises for a kernel that products cannot take."""
    kernels = {kernel.name: kernel for kernel in view.kernels_in(path)}
    others = [name for name in kernels if not is_dynamic(specs.get(name))]
    if others:
        expected = f"activation_method={DYNAMIC!r} for all kernels of the layer {path!r} or for none"
        received = f"rules without it for {others[0]!r}"
        raise ValueError(invalid_part("recipe", expected, received, "Let one rule match the whole layer"))
    axis = input_axis(layer) or 0
    for name, kernel in kernels.items():
        spec = specs[name]
        if isinstance(spec, QuantSpec) and scale_shape(spec, layer, kernel.variable)[axis] > 1:
            expected = f"one scale per output channel of {kernel.full_name!r} with activation_method={DYNAMIC!r}"
            received = f"channel_axis={spec.channel_axis}, the axis of its inputs"
            raise ValueError(invalid_part("recipe", expected, received, "Leave channel_axis out"))


def _bare(spec: Spec) -> Spec:
    """Returns a spec that leaves activations float, if it is dynamic."""
    if not isinstance(spec, QuantSpec) or not is_dynamic(spec):
        return spec
    return dataclasses.replace(spec, activation_bits=None, activation_method=None, activation_range=None)
