"""Targets of a file: what each takes, and what it takes by default."""

from __future__ import annotations

import dataclasses

ACTIVATIONS = ("float", "dynamic", "int8")
ENDS = ("float", "int8")
FORMS = ("size", "memory", "latency")
RECURRENT = ("loop", "fused")


@dataclasses.dataclass(frozen=True)
class Target:
    """What one target takes; the first entry of each tuple is its default.

    Args:
        title: its name in a sentence.
        activations: values of `activations`; the default depends on the record if there are several.
        io: values of `io`, where `activations` is `"int8"`.
        optimize: values of `optimize`.
        recurrent: values of `recurrent`.
        integer_optimize: the default of `optimize` where `activations` is `"int8"`; "" is that of other files.
        batch_size: the default; None is as open as the model.
        one_sample: whether it takes no other batch size.
    """

    title: str
    activations: tuple[str, ...] = ACTIVATIONS
    io: tuple[str, ...] = ENDS
    optimize: tuple[str, ...] = FORMS
    recurrent: tuple[str, ...] = RECURRENT
    integer_optimize: str = ""
    batch_size: int | None = None
    one_sample: bool = False


TARGETS = {
    "any": Target("any LiteRT runtime"),
    "cpu": Target("LiteRT on a CPU", batch_size=1),
    # Integer products of 4 bits take nine times the time of 8 bits there (docs/results/browser.md), and a server that
    # compresses what it sends makes few-bit codes in 8 bits small again.
    "browser": Target(
        "LiteRT.js in a browser", io=("float",), recurrent=("loop",), integer_optimize="latency", batch_size=1
    ),
    "ethos-u": Target(
        "an Ethos-U NPU",
        activations=("int8",),
        io=("int8", "float"),
        optimize=("latency",),
        recurrent=("loop",),
        batch_size=1,
        one_sample=True,
    ),
    "mcu": Target(
        "LiteRT for Microcontrollers",
        activations=("int8",),
        io=("int8", "float"),
        optimize=("memory", "size", "latency"),
        recurrent=("loop",),
        batch_size=1,
        one_sample=True,
    ),
}

# NPUs by the names of Arm's compiler: the series, and multiplications per cycle.
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
