"""Objects that print as tables, in terminals and in notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r2keras._util.text import to_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


class Tabular:
    """Base of results that `print` and notebooks show as tables; `__rich__` returns the table."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def _repr_html_(self) -> str:
        return to_html(self.__rich__())


def to_html(renderable: RenderableType) -> str:
    """Returns a rich table, text or group of them as HTML, for notebooks.

    >>> from rich.text import Text
    >>> to_html(Text("a < b"))
    '<p>a &lt; b</p>'
    """
    from rich.console import Group
    from rich.table import Table

    if isinstance(renderable, Group):
        return "".join(map(to_html, renderable.renderables))
    if isinstance(renderable, Table):
        return _table_html(renderable)
    return f"<p>{_escaped(renderable)}</p>"


def _table_html(table: Table) -> str:
    """Returns a table as HTML: title, head, rows and caption."""
    sides = ["right" if column.justify == "right" else "left" for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [_row_html("td", row, sides) for row in rows]
    head = ""
    if table.show_header:
        head = f"<thead>{_row_html('th', [column.header for column in table.columns], sides)}</thead>"
    title = f"<p><b>{_escaped(table.title)}</b></p>" if table.title else ""
    caption = f"<p>{_escaped(table.caption)}</p>" if table.caption else ""
    return f"{title}<table>{head}<tbody>{''.join(lines)}</tbody></table>{caption}"


def _row_html(tag: str, cells: Sequence[RenderableType], sides: list[str]) -> str:
    """Returns one row; `sides` are the alignments of the columns."""
    pairs = zip(cells, sides, strict=True)
    return "<tr>" + "".join(f'<{tag} style="text-align: {side}">{_escaped(c)}</{tag}>' for c, side in pairs) + "</tr>"


def _escaped(cell: RenderableType) -> str:
    """Returns a cell's text for HTML."""
    return html.escape(str(cell)).replace("\n", "<br>")
