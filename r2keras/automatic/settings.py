"""Settings of a compression, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from r2keras._util.errors import check_int, check_number, invalid
from r2keras.automatic.sensitivity import checked_bits
from r2keras.specs import PaletteSpec, QuantSpec, Spec
from r2keras.specs.targets import TARGETS

# Targets whose files are searched for; what an NPU takes from flash is known only after its compiler ran.
SEARCHED = ("any", "cpu", "browser", "mcu")
INTEGER_BITS = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a compression is asked for.

    Args:
        max_bytes: the most bytes of the file; None for no limit.
        max_drop: the largest loss of quality; None for no limit.
        bits: numbers of bits to choose from, most first.
        target: what the file is for.
        palettes: whether palettes compete with grids.
        integer: whether activations, inputs and outputs have 8 bits.
        train: epochs of label-free training where nothing else meets the limits.
    """

    max_bytes: int | None
    max_drop: float | None
    bits: tuple[int, ...]
    target: str
    palettes: bool
    integer: bool
    train: int | None

    @property
    def goal(self) -> str:
        """The limits in words.

        >>> Settings(20_000, 0.01, (8,), "cpu", False, False, None).goal
        'at most 20,000 bytes and a drop of at most 0.01'
        """
        parts = [] if self.max_bytes is None else [f"at most {self.max_bytes:,} bytes"]
        parts += [] if self.max_drop is None else [f"a drop of at most {self.max_drop:g}"]
        return " and ".join(parts)

    def allows(self, num_bytes: int, drop: float) -> bool:
        """Whether a candidate is within the limits."""
        return self.shortfall(num_bytes, drop) <= 0

    def shortfall(self, num_bytes: int, drop: float) -> float:
        """Returns how far a candidate is outside of the limits, each relative to its size; 0 or less within them."""
        by_bytes = 0.0 if self.max_bytes is None else num_bytes / self.max_bytes - 1
        by_drop = 0.0 if self.max_drop is None else (drop - self.max_drop - 1e-9) / max(self.max_drop, 1e-3)
        return max(by_bytes, by_drop)

    def has_option(self, spec: Spec) -> bool:
        """Whether a spec is among those to choose from."""
        return spec.num_bits in self.bits and (self.palettes or not is_palette(spec))

    def with_activations(self, spec: Spec) -> Spec:
        """Returns a spec with the activations of the target."""
        return dataclasses.replace(spec, activation_bits=INTEGER_BITS) if self.integer else spec

    @property
    def other_layers(self) -> QuantSpec | None:
        """The spec of layers without kernels: their outputs are rounded in integer files."""
        return QuantSpec(INTEGER_BITS, activation_bits=INTEGER_BITS) if self.integer else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON."""
        return dataclasses.asdict(self)


def checked_settings(
    max_bytes: int | None,
    max_drop: float | None,
    bits: Iterable[int],
    target: str,
    palettes: bool | None,
    integer: bool | None,
    train: int | None,
) -> Settings:
    """Returns the settings; raises for other types, and for values that contradict each other or the target."""
    if max_bytes is None and max_drop is None:
        raise ValueError(invalid("max_bytes", "max_bytes, max_drop or both", None, "Say what the file may cost"))
    if max_bytes is not None:
        max_bytes = check_int("max_bytes", max_bytes, 1, None)
    if max_drop is not None:
        max_drop = check_number("max_drop", max_drop, 0.0, 1e9)
    if target not in SEARCHED:
        names = ", ".join(map(repr, SEARCHED))
        fix = "Compress for 'mcu', and compile the file with r2keras.export.ethos_u" if target in TARGETS else ""
        raise ValueError(invalid("target", names, target, fix))
    if train is not None:
        train = check_int("train", train, 1, None)
    for name, value in (("palettes", palettes), ("integer", integer)):
        if value is not None and not isinstance(value, bool):
            raise TypeError(invalid(name, "True, False or None", value))
    needs_integers = TARGETS[target].activations[0] == "int8" and len(TARGETS[target].activations) == 1
    if needs_integers and integer is False:
        raise ValueError(invalid("integer", f"True for target={target!r}, which computes on integers", integer))
    integer = needs_integers if integer is None else integer
    if palettes and integer:
        fix = "Leave palettes out; r2keras-convert makes files for microcontrollers from palettes with int8 tables"
        raise ValueError(invalid("palettes", "False for a file of integer operators", palettes, fix))
    checked = checked_bits(bits)
    return Settings(max_bytes, max_drop, checked, target, not integer if palettes is None else palettes, integer, train)


def is_palette(spec: Spec) -> bool:
    """Whether a spec is that of a palette."""
    return isinstance(spec, PaletteSpec)
