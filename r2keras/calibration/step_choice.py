"""Choice of the steps of `calibrate` where a recipe leaves it: no steps, or `"auto"`."""

from __future__ import annotations

from r2keras._models.walk import ModelView
from r2keras.calibration.expected_means import expected_inputs_of
from r2keras.compression.weight_plan import WeightPlan
from r2keras.specs import AUTO, PaletteSpec, QuantSpec, Recipe, Spec

# AdaRound gains 0 to 11 points at 4 bits and none at 8 (docs/results/mlperf_tiny.md).
ROUNDED_BITS = 4
EXACT_BITS = 8


def is_chosen(recipe: Recipe) -> bool:
    """Whether `calibrate` chooses how to repair the quantized model."""
    return recipe.steps in ((), (AUTO,))


def steps_of(recipe: Recipe, view: ModelView, plan: WeightPlan, has_data: bool) -> tuple[str, ...]:
    """Returns the steps of a recipe; in place of `"auto"` and of none, those that suit model, bits and data.

    Args:
        recipe: the recipe.
        view: the model.
        plan: the specs of its kernels.
        has_data: whether there are data.
    """
    if recipe.steps == ():
        return ("reestimate_batch_norm",)
    if recipe.steps != (AUTO,):
        return recipe.steps
    if not has_data:
        return ("correct_bias",) if plan.keys() & expected_inputs_of(view).keys() else ()
    specs = _specs(plan)
    has_palette = any(isinstance(spec, PaletteSpec) for spec in specs)
    is_coarse = any(is_rounded(spec) and spec.num_bits <= ROUNDED_BITS for spec in specs)
    return (*["sensitivity"] * has_palette, *["adaround"] * is_coarse, "reestimate_batch_norm")


def is_exact(plan: WeightPlan) -> bool:
    """Whether all kernels have grids of 8 bits, with which biases need no correction."""
    return all(isinstance(spec, QuantSpec) and spec.num_bits >= EXACT_BITS for spec in _specs(plan))


def choice_text(steps: tuple[str, ...], repair: str) -> str:
    """Returns the log line on the steps that `"auto"` chose."""
    before = [step for step in steps if step != "reestimate_batch_norm"]
    done = [*before, *[repair] * (repair != "none")]
    return f'steps="auto" chose: {", ".join(done) or "nothing"}.'


def is_rounded(spec: Spec) -> bool:
    """Whether a spec puts weights on a uniform grid; alternating codes are sums of signs per row."""
    return isinstance(spec, QuantSpec) and spec.method != "alternating"


def _specs(plan: WeightPlan) -> list[Spec]:
    """Returns the specs of all kernels."""
    return [spec for specs in plan.values() for spec in specs.values()]
