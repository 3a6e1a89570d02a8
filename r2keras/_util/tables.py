"""Text tables for the terminal, drawn with rich."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from r2keras._util.errors import missing

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def shape_text(shape: tuple[int, ...] | None) -> str:
    """Returns a shape as `3x3x16x32`.

    >>> shape_text((3, 3, 16))
    '3x3x16'
    """
    # Not at the top: r2keras.report imports this module.
    from r2keras._util.text import DASH

    return DASH if shape is None else "x".join(map(str, shape)) or "scalar"


def new_table(title: str, columns: Iterable[tuple[str, bool]], *, foldable: str = "") -> Table:
    """Returns a table without rows.

    Args:
        title: printed above the table; empty for none.
        columns: `(name, is_numeric)` each; numeric columns are aligned to the right and stay on one line.
        foldable: numeric columns with this text in their name may break over several lines.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich import box
        from rich.table import Table
    except ImportError as error:
        raise ImportError(missing("rich", "A text table")) from error
    table = Table(
        title=text_cell(title) if title else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name, is_numeric in columns:
        if not is_numeric:
            table.add_column(name, overflow="fold", min_width=9)
        elif foldable and foldable in name:
            table.add_column(name, justify="right", overflow="fold", min_width=7)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def add_row(table: Table, cells: Iterable[str]) -> None:
    """Adds one row of plain texts."""
    table.add_row(*map(text_cell, cells))


def pairs_table(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """Returns a table without a head: one figure and its value per line."""
    table = new_table(title, [("figure", False), ("value", False)])
    table.show_header = False
    for pair in pairs:
        add_row(table, pair)
    return table


def text_cell(text: str) -> Text:
    """Returns text that rich does not parse as markup."""
    from rich.text import Text

    return Text(text)
