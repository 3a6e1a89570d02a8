"""Kernels under `activation_method="dynamic"`: which of them have products that round the rows of their input."""

from __future__ import annotations

import dataclasses
import warnings

from r2keras._models.channel_axes import scale_shape
from r2keras._models.row_products import Product, products, shared_products
from r2keras._models.walk import ModelView
from r2keras._util.errors import invalid_part
from r2keras.compression.recurrent import halves_of
from r2keras.compression.weight_plan import WeightPlan
from r2keras.specs import QuantSpec, Recipe, Spec
from r2keras.specs.dynamic import DYNAMIC, is_dynamic

# Layers whose kernels multiply rows, for errors.
PRODUCTS = "a Dense, EinsumDense, recurrent, attention, pointwise or separable layer"


def settled(plan: WeightPlan, view: ModelView, recipe: Recipe) -> WeightPlan:
    """Returns a plan in which the method `"dynamic"` is left to the kernels whose products round rows.

    Args:
        plan: the plan of `weight_plan.plan_of`.
        view: the model.
        recipe: the recipe.

    Returns:
        The plan. Another kernel, such as that of a convolution of more than one pixel or one that two layers use,
        keeps its grid, and its spec loses `activation_bits`.

    Raises:
        ValueError: no layer of the recipe's rules rounds rows; a kernel has scales along its input; only some kernels
            of a recurrent layer are dynamic.

    Warns:
        UserWarning: a rule's method rounds nothing.
    """
    wanted = {number for number, (_, spec) in enumerate(recipe.rules) if is_dynamic(spec)}
    if not wanted:
        return plan
    new, used, shared = {}, set(), shared_products(view)
    for path, specs in plan.items():
        layer, dynamic = view.layers_by_path[path], [name for name, spec in specs.items() if is_dynamic(spec)]
        if not dynamic:
            new[path] = specs
            continue
        if halves_of(layer):
            _check_complete(path, view, specs)
            multiplied = dict.fromkeys(dynamic)
        else:
            known = {name: product for name, product in products(layer).items() if name in dynamic}
            multiplied = {name: product for name, product in known.items() if id(product.kernel) not in shared}
        for name, product in multiplied.items():
            _check_scales(path, name, view, specs[name], product)
        used |= {recipe.index(path, f"{path}/{name}") for name in multiplied}
        new[path] = {name: spec if name in multiplied else _bare(spec) for name, spec in specs.items()}
    if not used:
        expected = f"activation_method={DYNAMIC!r} for {PRODUCTS}"
        received = f"a recipe whose rules match none in {view.model.name!r}"
        raise ValueError(invalid_part("recipe", expected, received, "Leave activation_bits out"))
    for number in sorted(wanted - used):
        warnings.warn(
            f"The activation_method={DYNAMIC!r} of the recipe's rule {recipe.rules[number][0]!r} rounds nothing. "
            f"Expected a rule for {PRODUCTS}. Leave activation_bits out of this rule.",
            UserWarning,
            stacklevel=3,
        )
    return new


def _check_complete(path: str, view: ModelView, specs: dict[str, Spec]) -> None:
    """Raises for a recurrent layer with a kernel that is not dynamic."""
    others = [kernel.name for kernel in view.kernels_in(path) if not is_dynamic(specs.get(kernel.name))]
    if others:
        expected = f"activation_method={DYNAMIC!r} for all kernels of the layer {path!r} or for none"
        received = f"rules without it for {others[0]!r}"
        raise ValueError(invalid_part("recipe", expected, received, "Let one rule match the whole layer"))


def _check_scales(path: str, name: str, view: ModelView, spec: Spec, product: Product | None) -> None:
    """Raises for a kernel whose scales vary along the axes that its product, or its recurrent cell, sums over."""
    (kernel,) = (kernel for kernel in view.kernels_in(path) if kernel.name == name)
    if not isinstance(spec, QuantSpec):
        return
    shape = scale_shape(spec, view.layers_by_path[path], kernel.variable)
    if any(shape[axis] > 1 for axis in (product.kernel_axes if product else (0,))):
        expected = f"one scale per output channel of {kernel.full_name!r} with activation_method={DYNAMIC!r}"
        received = f"channel_axis={spec.channel_axis}, the axis of its inputs"
        raise ValueError(invalid_part("recipe", expected, received, "Leave channel_axis out"))


def _bare(spec: Spec) -> Spec:
    """Returns a spec that leaves activations float, if it is dynamic."""
    if not isinstance(spec, QuantSpec) or not is_dynamic(spec):
        return spec
    return dataclasses.replace(spec, activation_bits=None, activation_method=None, activation_range=None)
