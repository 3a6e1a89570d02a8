"""The layout of a palette: the weights that form a vector, and the vectors that share a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from r2keras._util.errors import check_int, invalid
from r2keras._util.json_text import member
from r2keras._util.numeric import as_int


@dataclasses.dataclass(frozen=True)
class PaletteLayout:
    """Splits a weight into `(groups, n, dim)` vectors and joins them again, with NumPy or with `keras.ops`.

    A vector is `dim` consecutive weights along the last axis. Where `dim` does not divide that axis, the axis is padded
    with its own first weights. Groups are runs of `group_size` output channels.

    Args:
        shape: the weight's shape.
        dim: weights per vector.
        axes: the weight's axes of output channels, ascending.
        group_size: output channels per group; None for a single group.

    Raises:
        ValueError: vectors longer than the last axis; groups that do not divide the channels.

    Example:

    >>> layout = PaletteLayout((2, 5), 2, (1,), None)
    >>> vectors = layout.split(np.arange(10.0).reshape(2, 5), np)
    >>> vectors[0].tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 0.0], [5.0, 6.0], [7.0, 8.0], [9.0, 5.0]]
    >>> layout.join(vectors, np)[1].tolist()
    [5.0, 6.0, 7.0, 8.0, 9.0]
    """

    shape: tuple[int, ...]
    dim: int
    axes: tuple[int, ...]
    group_size: int | None

    def __post_init__(self):
        self._check_axes()
        object.__setattr__(self, "dim", check_int("dim", self.dim, 1, None))
        last = self.shape[-1] if self.shape else 0
        if not 1 <= self.dim <= last:
            fix = f"The weight has the shape {self.shape}: use dim=1 for it, or leave it float"
            raise ValueError(invalid("dim", f"at most the last axis of the weight ({last})", self.dim, fix))
        if self.group_size is not None:
            object.__setattr__(self, "group_size", check_int("group_size", self.group_size, 1, None))
            self._check_groups(self.group_size)

    def _check_axes(self) -> None:
        """Raises unless the shape is one of at least one weight, and the axes are some of its axes, ascending."""
        for name, least, expected in (
            ("shape", 1, "integers of at least 1"),
            ("axes", 0, "axes of the shape, ascending"),
        ):
            given = getattr(self, name)
            sizes = [as_int(value) for value in given] if isinstance(given, Iterable) else [None]
            if any(size is None or size < least for size in sizes):
                raise ValueError(invalid(name, expected, given))
            object.__setattr__(self, name, tuple(sizes))
        if list(self.axes) != sorted(set(self.axes)) or max(self.axes, default=0) >= max(len(self.shape), 1):
            raise ValueError(invalid("axes", f"axes of the shape {self.shape}, ascending", self.axes))

    def _check_groups(self, group_size: int) -> None:
        """Raises unless the output channels are a whole number of groups, and each group a whole number of vectors."""
        channels = math.prod(self.shape[axis] for axis in self.axes)
        is_padded = self._last_is_channel and self.shape[-1] % self.dim
        has_whole_vectors = group_size % self.dim == 0 or not self._last_is_channel
        if group_size < 1 or channels % group_size or is_padded or not has_whole_vectors:
            expected = f"a divisor of the {channels} output channels of a weight of shape {self.shape}"
            if self.dim > 1:
                expected += f", with dim={self.dim} dividing both"
            raise ValueError(invalid("group_size", expected, group_size, "Or pass granularity='per_tensor'"))

    @property
    def index_shape(self) -> tuple[int, ...]:
        """The shape of the indices: the weight's, its last axis counted in vectors."""
        return (*self.shape[:-1], -(-self.shape[-1] // self.dim))

    @property
    def groups(self) -> int:
        """The number of groups, and of tables."""
        if self.group_size is None:
            return 1
        return math.prod(self.shape[axis] for axis in self.axes) // self.group_size

    def split(self, weight: Any, xp: Any) -> Any:
        """Returns the vectors of a weight, `(groups, n, dim)`.

        Args:
            weight: array or tensor of `shape`.
            xp: `numpy` or `keras.ops`.
        """
        padding = self.index_shape[-1] * self.dim - self.shape[-1]
        if padding:
            weight = xp.concatenate([weight, weight[..., :padding]], axis=-1)
        return self._split(xp.reshape(weight, (*self.index_shape, self.dim)), xp)

    def join(self, vectors: Any, xp: Any) -> Any:
        """Returns the weight that vectors came from, without the padding; the inverse of `split`.

        Args:
            vectors: array or tensor `(groups, n, dim)`.
            xp: `numpy` or `keras.ops`.
        """
        padded_shape = (*self.shape[:-1], self.index_shape[-1] * self.dim)
        return xp.reshape(self._join(vectors, xp), padded_shape)[..., : self.shape[-1]]

    def split_indices(self, indices: Any, xp: Any) -> Any:
        """Returns indices of `index_shape` by group, `(groups, n)`.

        Args:
            indices: array or tensor of `index_shape`.
            xp: `numpy` or `keras.ops`.
        """
        return self._split(xp.reshape(indices, (*self.index_shape, 1)), xp)[..., 0]

    def join_indices(self, indices: Any, xp: Any) -> Any:
        """Returns grouped indices in the shape `index_shape`; the inverse of `split_indices`.

        Args:
            indices: array or tensor `(groups, n)`.
            xp: `numpy` or `keras.ops`.
        """
        return self._join(xp.reshape(indices, (*indices.shape, 1)), xp)[..., 0]

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> PaletteLayout:
        """Returns the layout of a `to_dict` result.

        Raises:
            ValueError: an argument is missing or has a bad value.
        """
        shape, axes = (member(config, name, list, "the layout") for name in ("shape", "axes"))
        return cls(tuple(shape), member(config, "dim", int, "the layout"), tuple(axes), config.get("group_size"))

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as plain JSON."""
        arguments = dataclasses.asdict(self)
        return arguments | {"shape": list(self.shape), "axes": list(self.axes)}

    @property
    def _last_is_channel(self) -> bool:
        """Whether output channels run along the axis of the vectors."""
        return len(self.shape) - 1 in self.axes

    @property
    def _order(self) -> tuple[int, ...]:
        """The axes of the indices, channel axes last."""
        rest = tuple(axis for axis in range(len(self.shape)) if axis not in self.axes)
        return rest + self.axes

    @property
    def _grouped(self) -> tuple[int, int, int]:
        """Positions outside the channel axes, groups, and vectors per position and group."""
        channels = math.prod(self.index_shape[axis] for axis in self.axes)
        return math.prod(self.index_shape) // channels, self.groups, channels // self.groups

    def _split(self, cells: Any, xp: Any) -> Any:
        """Rearranges `(*index_shape, x)` to `(groups, n, x)`."""
        if self.group_size is None:
            return xp.reshape(cells, (1, -1, cells.shape[-1]))
        cells = xp.transpose(cells, (*self._order, len(self.shape)))
        cells = xp.transpose(xp.reshape(cells, (*self._grouped, -1)), (1, 0, 2, 3))
        return xp.reshape(cells, (self.groups, -1, cells.shape[-1]))

    def _join(self, cells: Any, xp: Any) -> Any:
        """The inverse of `_split`."""
        size = cells.shape[-1]
        if self.group_size is None:
            return xp.reshape(cells, (*self.index_shape, size))
        rows, groups, each = self._grouped
        cells = xp.transpose(xp.reshape(cells, (groups, rows, each, size)), (1, 0, 2, 3))
        moved = tuple(self.index_shape[axis] for axis in self._order)
        back = tuple(int(axis) for axis in np.argsort(self._order))
        return xp.transpose(xp.reshape(cells, (*moved, size)), (*back, len(self.shape)))
