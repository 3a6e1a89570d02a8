"""A uniformly quantized weight in the record: codes, scales and zero points."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from r2keras._util.json_text import member
from r2keras._util.shown import shown
from r2keras.record.range_figures import RangeFigures
from r2keras.specs.quant import QuantSpec


def broadcast_scales(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeats scales or zero points to the weight's shape.

    Args:
        values: same rank as `shape`; each axis is 1, the full size, or a divisor of it (one entry per run of
            consecutive elements, as in per-group scales).
        shape: the weight's shape.

    Returns:
        Array of `shape`.

    Example:

    >>> broadcast_scales(np.array([[1.0, 2.0]]), (1, 4))
    array([[1., 1., 2., 2.]])
    """
    for axis, size in enumerate(shape):
        if values.shape[axis] not in (1, size):
            values = np.repeat(values, size // values.shape[axis], axis)
    return np.broadcast_to(values, shape)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A uniformly quantized weight: `w = scale * (code - zero_point)`, bit for bit in float32.

    Args:
        name: `"<layer path>/<variable>"`.
        codes: int8, the weight's shape, in `[spec.quant_min, spec.quant_max]`.
        scale: float32, the weight's rank; each axis 1, the full size or a divisor of it. Positive.
        zero_point: float32, `scale`'s shape: 0, an integer code (asymmetric), or -1/2 (mid-rise).
        spec: the spec that the codes follow.
        before: range of the float weight before quantization.

    Raises:
        ValueError: shapes that do not fit, codes outside the grid, a scale that is not positive and finite, or a zero
            point that is not on the grid.

    Example:

    >>> one = np.ones((1, 1), np.float32)
    >>> t = QuantizedTensor("dense/kernel", np.array([[-2, 1]], np.int8), 0.5 * one, 0 * one,
    ...                     QuantSpec(num_bits=4), RangeFigures.of(np.array([-1.0, 0.6])))
    >>> t.values()
    array([[-1. ,  0.5]], dtype=float32)
    """

    # The names of the arrays in a file; that of the integers first.
    PARTS: ClassVar[tuple[str, ...]] = ("codes", "scale", "zero_point")

    name: str
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    spec: QuantSpec
    before: RangeFigures

    def __post_init__(self):
        self._check_codes()
        for name, dtype in (("codes", np.int8), ("scale", np.float32), ("zero_point", np.float32)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype, order="C"))
        self._check_shapes()
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(self._complaint("scale", "is not positive and finite"))
        self._check_zero_point()

    def _check_codes(self) -> None:
        # Checked before the conversion to int8, which would wrap 300 to 44 and truncate 0.5 to 0.
        codes, low, high = np.asarray(self.codes), self.spec.quant_min, self.spec.quant_max
        if codes.dtype.kind not in "iu":
            raise ValueError(self._complaint("codes", f"are not integers but {codes.dtype}"))
        if codes.size and not (low <= codes.min() and codes.max() <= high):
            raise ValueError(
                self._complaint(
                    "codes", f"are off the grid: {codes.min()} to {codes.max()}, where {low} to {high} is allowed"
                )
            )

    def _check_shapes(self) -> None:
        shape, scale = self.codes.shape, self.scale.shape
        fits = len(shape) == len(scale) and all(s and n % s == 0 for n, s in zip(shape, scale, strict=True))
        if not fits or self.zero_point.shape != scale:
            raise ValueError(
                f"The scale of {shown(self.name)} does not fit its codes. Expected the same rank, each axis 1, the "
                f"full size or a divisor of it. Received: codes {shape}, scale {scale}, zero_point "
                f"{self.zero_point.shape}."
            )

    def _check_zero_point(self) -> None:
        spec, zero = self.spec, self.zero_point
        if not spec.symmetric:
            good = (zero == np.round(zero)) & (spec.quant_min <= zero) & (zero <= spec.quant_max)
        else:
            good = zero == (-0.5 if spec.levels == "mid_rise" else 0.0)
        if not good.all():
            raise ValueError(self._complaint("zero_point", "is not on its grid"))

    def _complaint(self, part: str, what: str) -> str:
        """Returns the message for a tensor whose parts contradict its spec."""
        return (
            f"The {part} of {shown(self.name)} {what} ({self.spec.num_bits} bits). The record was edited or is corrupt."
        )

    def values(self) -> np.ndarray:
        """Returns the weight, float32: `scale * (code - zero_point)`."""
        steps = self.codes.astype(np.float32) - broadcast_scales(self.zero_point, self.shape)
        return broadcast_scales(self.scale, self.shape) * steps

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return self.codes.shape

    @property
    def integers(self) -> np.ndarray:
        """The integers that the file stores: the codes."""
        return self.codes

    @property
    def ideal_bits(self) -> int:
        """Bits of the codes alone, without the scales: `num_bits` times the number of weights."""
        return self.spec.num_bits * self.codes.size

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by their names in the file."""
        return {name: getattr(self, name) for name in self.PARTS}

    def to_dict(self) -> dict[str, Any]:
        """Returns everything except the arrays, as plain JSON."""
        return {"kind": self.spec.kind, "spec": self.spec.to_dict(), "before": dataclasses.asdict(self.before)}

    @classmethod
    def largest_sizes(cls, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """Returns how many values each array of a `to_dict` result can have, given the shapes that a file states."""
        size = math.prod(shapes["codes"])
        return {"codes": size, "scale": size, "zero_point": size}

    @classmethod
    def from_parts(cls, name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> QuantizedTensor:
        """Returns the tensor of a `to_dict` and an `arrays` result."""
        before = RangeFigures.from_dict(member(config, "before", dict, "the tensor"))
        return cls(name, spec=QuantSpec.from_dict(member(config, "spec", dict, "the tensor")), before=before, **arrays)
