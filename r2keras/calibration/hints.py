"""The hint that `calibrate` logs where steps would keep more accuracy: what they cost and bring."""

from __future__ import annotations

import math

from r2keras._models.walk import ModelView
from r2keras._util.hints import log_once
from r2keras._util.text import bits, count
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.step_choice import EXACT_BITS, is_rounded
from r2keras.compression.weight_plan import WeightPlan
from r2keras.specs import Recipe

# Seconds of AdaRound per weight, and per weight and sample, on two cores: benchmarks/results/calibration.json has 13 s
# more with it for the 77,360 weights of ResNet-8 and 57 s more for the 268,336 of ResNet-20, at 1,024 images of 32x32;
# at 256, ResNet-8 takes 0.85 of that. Larger images take longer.
SECONDS_PER_WEIGHT = 1.5e-4
SECONDS_PER_SAMPLE = 4e-8
# What AdaRound gained on ResNet-8, DS-CNN and MobileNetV1-0.25 (docs/results/mlperf_tiny.md), by the most bits.
GAINS = {2: "24 to 40 points of accuracy at 2 bits", 7: "0 to 11 points of accuracy at 4 bits"}


def log_cost(view: ModelView, recipe: Recipe, plan: WeightPlan, data: list[Batch] | None) -> None:
    """Logs `cost_hint`, if there is one, once."""
    hint = cost_hint(view, recipe, plan, data)
    if hint is not None:
        log_once(hint, "cost of adaround")


def cost_hint(view: ModelView, recipe: Recipe, plan: WeightPlan, data: list[Batch] | None) -> str | None:
    """Returns what AdaRound would cost and bring, for grids of fewer than 8 bits in a recipe without steps.

    Args:
        view: the model.
        recipe: the recipe.
        plan: the specs of the kernels.
        data: checked batches; None for none.
    """
    planned = [(kernel, plan.get(kernel.path, {}).get(kernel.name)) for kernel in view.kernels]
    grids = [(kernel, spec.num_bits) for kernel, spec in planned if spec is not None and is_rounded(spec)]
    grids = [(kernel, num_bits) for kernel, num_bits in grids if num_bits < EXACT_BITS]
    if recipe.steps or not grids:
        return None
    fewest = min(num_bits for _, num_bits in grids)
    gain = next(text for most, text in GAINS.items() if fewest <= most)
    weights = sum(math.prod(kernel.variable.shape) for kernel, _ in grids)
    if data is None:
        cost = "needs unlabeled data, takes seconds to minutes"
    else:
        samples = sum(len(batch[0]) for batch in data)
        seconds = weights * (SECONDS_PER_WEIGHT + SECONDS_PER_SAMPLE * samples)
        cost = f"takes about {_duration(seconds)} ({count(weights)} weights, {count(samples)} samples)"
    return (
        f"At {bits(fewest)}, "
        f'Recipe(..., steps=["adaround", "correct_bias"]) {cost} and has brought {gain}; steps="auto" chooses.'
    )


def _duration(seconds: float) -> str:
    """Returns a time in seconds or minutes, rounded.

    >>> _duration(3.2), _duration(44.0), _duration(170.0)
    ('5 seconds', '40 seconds', '3 minutes')
    """
    if seconds >= 90:
        return f"{count(round(seconds / 60))} minutes"
    return f"{max(5, round(seconds, -1) if seconds >= 10 else 5):.0f} seconds"
