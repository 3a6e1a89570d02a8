"""The training stages of a network, as checkpoints and rows record them."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """Epochs trained in one way.

    Args:
        epochs: passes over the training text.
        method: quantization method of the weights, or "float".
        units: units of the LSTM.
        regularizer: regularizer of the kernels, or "none".
    """

    epochs: int
    method: str
    units: int
    regularizer: str


def seen(stages: tuple[Stage, ...]) -> int:
    """Returns the total number of epochs."""
    return sum(stage.epochs for stage in stages)


def label(stages: tuple[Stage, ...], units: int) -> str:
    """Returns the stages as text for a table, such as "12 float of 300 + 2 float, linf" if `units` is 450."""
    words = []
    for stage in stages:
        other = f" of {stage.units}" * (stage.units != units)
        words.append(f"{stage.epochs} {stage.method}{other}" + f", {stage.regularizer}" * (stage.regularizer != "none"))
    return " + ".join(words)


def file_name(stages: tuple[Stage, ...], units: int) -> str:
    """Returns the stages as part of a checkpoint's name, such as "12x300+2linf"; "0" if there are none."""
    words = []
    for stage in stages:
        kinds = [stage.method] * (stage.method != "float") + [stage.regularizer] * (stage.regularizer != "none")
        words.append(f"{stage.epochs}" + f"x{stage.units}" * (stage.units != units) + "_".join(kinds))
    return "+".join(words) or "0"
