"""Occupancy and entropy of palettes: the share of vectors that each codebook entry represents."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.text import count, percent
from r2keras.record import PalettizedTensor
from r2keras.report.figures.svg import FAINT, SERIES, new_figure, style, to_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Occupancy of the tables of a palette.

    Args:
        counts: number of vectors that each entry represents, table after table.
        entries: number of rows per table.
        dim: number of weights per row.
        entropy: `-sum_j p_j log2 p_j` bits per index, where `p_j` is the share of entry `j` in its table, averaged over
            tables. An ideal entropy coder needs this much; it is at most the bit width of an index.

    Example:

    >>> Clusters.of_counts([6, 1, 1, 0], entries=4, dim=1).used
    3
    """

    counts: tuple[int, ...]
    entries: int
    dim: int
    entropy: float

    @classmethod
    def of_counts(cls, counts: ArrayLike, *, entries: int, dim: int) -> Clusters:
        """Returns the occupancy of given counts.

        Args:
            counts: integers, table after table, with at least one vector per table.
            entries: number of rows per table.
            dim: number of weights per row.

        Example:

        >>> Clusters.of_counts([2, 2, 4, 0], entries=4, dim=2).entropy
        1.5
        """
        rows = np.asarray(counts, np.int64).reshape(-1, entries)
        shares = rows / rows.sum(axis=1, keepdims=True)
        bits = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1.0)), axis=1)
        return cls(tuple(rows.ravel().tolist()), entries, dim, max(0.0, float(bits.mean())))

    @classmethod
    def of(cls, tensor: PalettizedTensor) -> Clusters:
        """Returns the occupancy of a palettized tensor of a record."""
        entries = tensor.spec.entries
        groups = tensor.layout.split_indices(tensor.indices, np)
        counts = [np.bincount(group, minlength=entries) for group in groups]
        return cls.of_counts(counts, entries=entries, dim=tensor.layout.dim)

    @property
    def used(self) -> int:
        """Number of entries that represent at least one vector, out of `len(counts)`."""
        return int(np.count_nonzero(self.counts))

    @property
    def largest(self) -> float:
        """Share of all vectors that the most frequent entry represents."""
        return max(self.counts) / sum(self.counts)

    @property
    def entropy_bytes(self) -> float:
        """Bytes of the indices after an ideal entropy coder."""
        return self.entropy * sum(self.counts) / 8

    @property
    def table(self) -> str:
        """Number and shape of the tables as text.

        >>> Clusters((4, 4, 4, 4), 2, 8, 1.0).table
        '2 of 2 x 8'
        """
        num_tables = len(self.counts) // self.entries
        shape = f"{self.entries} x {self.dim}" if self.dim > 1 else str(self.entries)
        return f"{num_tables} of {shape}" if num_tables > 1 else shape

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain JSON."""
        derived = {name: getattr(self, name) for name in ("used", "largest", "entropy_bytes")}
        return dataclasses.asdict(self) | {"counts": list(self.counts)} | derived


def occupancy(tensor: PalettizedTensor, *, name: str) -> Markup:
    """Draws the share of vectors of each palette entry in decreasing order, with a line at a uniform distribution.

    Args:
        tensor: a palettized tensor of a record.
        name: prefix of the ids, unique in the page.

    Returns:
        Inline SVG.
    """
    clusters = Clusters.of(tensor)
    with style():
        figure = new_figure(3.1, 1.2)
        axes = figure.add_subplot()
        _draw(axes, np.sort(clusters.counts)[::-1], sum(clusters.counts))
        return to_svg(figure, name, _describe(tensor, clusters))


def _draw(axes: Axes, counts: np.ndarray, total: int) -> None:
    """Draws the shares, and the share of every entry in a uniform distribution."""
    edges = np.arange(len(counts) + 1)
    axes.stairs(counts / total, edges, fill=True, color=SERIES[1], alpha=0.6, zorder=2)
    axes.axhline(1 / len(counts), color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, len(counts))
    axes.set_xticks([])
    axes.set_yticks([counts[0] / total], [percent(counts[0] / total)])
    axes.set_xlabel("centroids, most frequent first")
    axes.set_ylabel("share")


def _describe(tensor: PalettizedTensor, clusters: Clusters) -> str:
    """Returns the content of the plot as text."""
    used = f"{count(clusters.used)} of {count(len(clusters.counts))} are used"
    largest = f"the most frequent one for {percent(clusters.largest)} of the vectors"
    entropy = f"the entropy is {clusters.entropy:.2f} bits per index"
    return f"Entries of the palette of {tensor.name}: {used}, {largest}; {entropy}."
