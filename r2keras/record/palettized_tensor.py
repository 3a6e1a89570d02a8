"""A palettized weight in the record: indices, and the table that they index."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from r2keras._util.json_text import member
from r2keras._util.shown import shown
from r2keras.record.palette_layout import PaletteLayout
from r2keras.record.range_figures import RangeFigures
from r2keras.specs.palette import PaletteSpec


@dataclasses.dataclass(frozen=True, eq=False)
class PalettizedTensor:
    """A palettized weight: `w = scale * table_scale * codebook[index]`, bit for bit in float32.

    Args:
        name: `"<layer path>/<variable>"`.
        indices: uint8, `layout.index_shape`: the weight's shape, its last axis counted in vectors of `dim` weights.
        codebook: `(groups, 2**num_bits, dim)` in `spec.table_dtype`.
        table_scale: float32 `(groups,)`, positive; ones unless the table is int8.
        scale: float32, the weight's rank, each axis 1 or the weight's size; ones unless `spec.channel_scale`.
        spec: the spec that the palette follows.
        layout: which weights make a vector, and which vectors share a table.
        before: range of the float weight before palettization.

    Raises:
        ValueError: shapes that do not fit, indices outside the table, entries that are not finite, a scale that is not
            positive and finite.

    Example:

    >>> layout, one = PaletteLayout((2, 2), 1, (1,), None), np.ones((1, 1), np.float32)
    >>> table = np.array([[[-1.0], [0.5]]], np.float32)
    >>> t = PalettizedTensor("dense/kernel", np.array([[0, 1], [1, 1]], np.uint8), table, one[0], one,
    ...                      PaletteSpec(num_bits=1), layout, RangeFigures.of(np.array([-1.1, 0.6])))
    >>> t.values().tolist()
    [[-1.0, 0.5], [0.5, 0.5]]
    """

    # The names of the arrays in a file; that of the integers first.
    PARTS: ClassVar[tuple[str, ...]] = ("indices", "codebook", "table_scale", "scale")

    name: str
    indices: np.ndarray
    codebook: np.ndarray
    table_scale: np.ndarray
    scale: np.ndarray
    spec: PaletteSpec
    layout: PaletteLayout
    before: RangeFigures

    def __post_init__(self):
        self._check_indices()
        self._check_codebook()
        dtypes = {
            "indices": np.uint8,
            "codebook": self.spec.table_dtype,
            "table_scale": np.float32,
            "scale": np.float32,
        }
        for name, dtype in dtypes.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype, order="C"))
        self._check_scales()

    def _check_indices(self) -> None:
        # Checked before the conversion to uint8, which would wrap 300 to 44.
        indices = np.asarray(self.indices)
        if indices.dtype.kind not in "iu":
            raise ValueError(self._complaint("indices", f"are not integers but {indices.dtype}"))
        if indices.shape != self.layout.index_shape:
            raise ValueError(
                self._complaint("indices", f"have the shape {indices.shape}, not {self.layout.index_shape}")
            )
        if indices.size and not (indices.min() >= 0 and indices.max() < self.spec.entries):
            allowed = f"0 to {self.spec.entries - 1} is allowed"
            problem = f"are outside the table: {indices.min()} to {indices.max()}, where {allowed}"
            raise ValueError(self._complaint("indices", problem))
        if (self.layout.dim, self.layout.group_size) != (self.spec.dim, self.spec.group_size):
            raise ValueError(self._complaint("layout", "does not match its spec"))

    def _check_codebook(self) -> None:
        codebook = np.asarray(self.codebook)
        expected = (self.layout.groups, self.spec.entries, self.spec.dim)
        if codebook.shape != expected:
            raise ValueError(self._complaint("codebook", f"has the shape {codebook.shape}, not {expected}"))
        if codebook.dtype != self.spec.table_dtype:
            raise ValueError(self._complaint("codebook", f"holds {codebook.dtype}, not {self.spec.table_dtype}"))
        if not np.isfinite(codebook).all():
            raise ValueError(self._complaint("codebook", "is not finite"))

    def _check_scales(self) -> None:
        shape, sizes = self.shape, self.scale.shape
        fits = len(sizes) == len(shape) and all(size in (1, full) for size, full in zip(sizes, shape, strict=True))
        if not fits or self.table_scale.shape != (self.layout.groups,):
            raise ValueError(self._complaint("scale", f"has the shape {sizes}, which does not fit {shape}"))
        for name in ("table_scale", "scale"):
            values = getattr(self, name)
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(self._complaint(name, "is not positive and finite"))
        if self.spec.table_dtype != "int8" and (self.table_scale != 1).any():
            raise ValueError(self._complaint("table_scale", f"is not 1 for a table of {self.spec.table_dtype}"))
        if not self.spec.channel_scale and (self.scale != 1).any():
            raise ValueError(self._complaint("scale", "is not 1 without channel_scale"))

    def _complaint(self, part: str, what: str) -> str:
        """Returns the message for a tensor whose parts contradict its spec."""
        return (
            f"The {part} of {shown(self.name)} {what} ({self.spec.num_bits} bits). The record was edited or is corrupt."
        )

    def table(self) -> np.ndarray:
        """Returns the table as float32 values, `(groups, 2**num_bits, dim)`."""
        return self.codebook.astype(np.float32) * self.table_scale[:, None, None]

    def values(self) -> np.ndarray:
        """Returns the weight, float32."""
        indices = self.layout.split_indices(self.indices, np)
        vectors = np.stack([table[index] for table, index in zip(self.table(), indices, strict=True)])
        return np.ascontiguousarray(self.layout.join(vectors, np) * self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return self.layout.shape

    @property
    def integers(self) -> np.ndarray:
        """The integers that the file stores: the indices."""
        return self.indices

    @property
    def used(self) -> int:
        """The number of entries that the weight uses, in the table of which it uses the most."""
        return max(len(np.unique(group)) for group in self.layout.split_indices(self.indices, np))

    @property
    def ideal_bits(self) -> int:
        """Bits of the indices alone, without the tables."""
        return self.spec.num_bits * self.indices.size

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by their names in the file."""
        return {name: getattr(self, name) for name in self.PARTS}

    def to_dict(self) -> dict[str, Any]:
        """Returns everything except the arrays, as plain JSON."""
        return {
            "kind": self.spec.kind,
            "spec": self.spec.to_dict(),
            "layout": self.layout.to_dict(),
            "before": dataclasses.asdict(self.before),
        }

    @classmethod
    def largest_sizes(cls, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """Returns how many values each array of a `to_dict` result can have, given the shapes that a file states."""
        spec, layout = _spec_and_layout(config)
        table = layout.groups * spec.entries * spec.dim
        sizes = {"codebook": table, "table_scale": layout.groups, "scale": math.prod(layout.shape)}
        return {"indices": math.prod(layout.index_shape), **sizes}

    @classmethod
    def from_parts(cls, name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> PalettizedTensor:
        """Returns the tensor of a `to_dict` and an `arrays` result."""
        spec, layout = _spec_and_layout(config)
        before = RangeFigures.from_dict(member(config, "before", dict, "the tensor"))
        return cls(name, spec=spec, layout=layout, before=before, **arrays)


def _spec_and_layout(config: dict[str, Any]) -> tuple[PaletteSpec, PaletteLayout]:
    """Returns spec and layout of a `to_dict` result."""
    spec = PaletteSpec.from_dict(member(config, "spec", dict, "the tensor"))
    return spec, PaletteLayout.from_dict(member(config, "layout", dict, "the tensor"))
