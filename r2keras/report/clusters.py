"""How the indices of a palette are spread over its table: what is used, how evenly, and how few bits would do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras.report._format import count, percent
from r2keras.report.svg import FAINT, SERIES, new_figure, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Occupancy of a palette's tables.

    Args:
        counts: how many vectors each entry stands for, table after table.
        entries: rows of a table.
        dim: weights a row.
        entropy: `-sum_j p_j log2 p_j` bits an index with `p_j` the share of entry `j` in its table, averaged over
            tables: what an ideal entropy coder needs; at most the bits of an index.

    Example:

    >>> Clusters.of_counts([6, 1, 1, 0], entries=4, dim=1).used
    3
    """

    counts: tuple[int, ...]
    entries: int
    dim: int
    entropy: float

    @classmethod
    def of_counts(cls, counts: Any, *, entries: int, dim: int) -> Clusters:
        """Measures counts.

        Args:
            counts: integers, table after table, of at least one vector a table.
            entries: rows of a table.
            dim: weights a row.

        Example:

        >>> Clusters.of_counts([2, 2, 4, 0], entries=4, dim=2).entropy
        1.5
        """
        rows = np.asarray(counts, np.int64).reshape(-1, entries)
        shares = rows / rows.sum(axis=1, keepdims=True)
        bits = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1.0)), axis=1)
        return cls(tuple(rows.ravel().tolist()), entries, dim, max(0.0, float(bits.mean())))

    @classmethod
    def of(cls, tensor: Any) -> Clusters:
        """Measures a palettized tensor of a record."""
        entries = tensor.spec.entries
        groups = tensor.layout.split_indices(tensor.indices, np)
        counts = [np.bincount(group, minlength=entries) for group in groups]
        return cls.of_counts(counts, entries=entries, dim=tensor.layout.dim)

    @property
    def used(self) -> int:
        """Entries that stand for at least one vector, of `len(counts)`."""
        return int(np.count_nonzero(self.counts))

    @property
    def largest(self) -> float:
        """Share of the fullest entry among all vectors."""
        return max(self.counts) / sum(self.counts)

    @property
    def entropy_bytes(self) -> float:
        """Bytes of the indices behind an ideal entropy coder."""
        return self.entropy * sum(self.counts) / 8

    @property
    def table(self) -> str:
        """The tables in words.

        >>> Clusters((4, 4, 4, 4), 2, 8, 1.0).table
        '2 of 2 x 8'
        """
        tables = len(self.counts) // self.entries
        return (f"{tables} of " if tables > 1 else "") + str(self.entries) + (f" x {self.dim}" if self.dim > 1 else "")

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain JSON."""
        derived = {name: getattr(self, name) for name in ("used", "largest", "entropy_bytes")}
        return dataclasses.asdict(self) | {"counts": list(self.counts)} | derived


def occupancy(tensor: Any, *, name: str) -> Any:
    """Draws how many vectors each entry of a palette stands for, the fullest first, beside an even spread.

    Args:
        tensor: a palettized tensor of a record.
        name: prefix of the ids, unique in the page.

    Returns:
        Inline SVG as Markup.
    """
    found = Clusters.of(tensor)
    with style():
        figure = new_figure(3.1, 0.9)
        axes = figure.add_subplot()
        _draw(axes, np.sort(found.counts)[::-1], sum(found.counts))
        return to_svg(figure, name, _describe(tensor, found))


def _draw(axes: Axes, counts: np.ndarray, total: int) -> None:
    """Draws shares in falling order and the share that each would have if all were alike."""
    edges = np.arange(len(counts) + 1)
    axes.stairs(counts / total, edges, fill=True, color=SERIES[1], alpha=0.6, zorder=2)
    axes.axhline(1 / len(counts), color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, len(counts))
    axes.set_xticks([])
    axes.set_yticks([counts[0] / total], [percent(counts[0] / total)])
    axes.set_xlabel("entries, the fullest first")


def _describe(tensor: Any, found: Clusters) -> str:
    """Returns the plot's content in words."""
    return (
        f"Entries of the palette of {tensor.name}: {count(found.used)} of {count(len(found.counts))} are used, the "
        f"fullest by {percent(found.largest)} of the vectors; {found.entropy:.2f} bits an index would do."
    )
