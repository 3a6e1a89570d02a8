"""What a network has been trained with before a run and in it: stages, in checkpoints and rows."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """Epochs of one kind.

    Args:
        epochs: passes over the training part.
        method: how the weights were quantized; "float" if not at all.
        units: of the LSTM.
        regularizer: of the kernels, or "none".
    """

    epochs: int
    method: str
    units: int
    regularizer: str


def seen(stages: tuple[Stage, ...]) -> int:
    """Returns the epochs of all stages."""
    return sum(stage.epochs for stage in stages)


def label(stages: tuple[Stage, ...], units: int) -> str:
    """Names stages for a row of a network with so many units: "12 float of 300 + 2 float, linf"."""
    words = []
    for stage in stages:
        other = f" of {stage.units}" * (stage.units != units)
        words.append(f"{stage.epochs} {stage.method}{other}" + f", {stage.regularizer}" * (stage.regularizer != "none"))
    return " + ".join(words)


def file_name(stages: tuple[Stage, ...], units: int) -> str:
    """Names stages in the name of a checkpoint: "12x300+2linf"; "0" if there are none."""
    words = []
    for stage in stages:
        kinds = [stage.method] * (stage.method != "float") + [stage.regularizer] * (stage.regularizer != "none")
        words.append(f"{stage.epochs}" + f"x{stage.units}" * (stage.units != units) + "_".join(kinds))
    return "+".join(words) or "0"
