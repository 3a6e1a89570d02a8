"""Numbers and rich renderables as text: percent, points, counts, bit widths, plain terminal output."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

from r2keras._util.errors import missing

if TYPE_CHECKING:
    from rich.console import RenderableType

DASH = "\u2013"
# Quantized weights have at most 8 bits; 16 and 32 bits are floating-point formats.
MIN_FLOAT_BITS = 16


def percent(value: float | None) -> str:
    """Returns a fraction as a percentage.

    >>> percent(0.98765)
    '98.77%'
    """
    return DASH if value is None else f"{100 * value:.2f}%"


def points(value: float) -> str:
    """Returns a difference of two accuracies in percentage points.

    >>> points(0.0061), points(0.01)
    ('0.61 points', '1.00 point')
    """
    text = f"{100 * value:.2f}"
    return f"{text} point" if text == "1.00" else f"{text} points"


def count(value: float | None) -> str:
    """Returns a whole number with thousands separators.

    >>> count(27912)
    '27,912'
    """
    return DASH if value is None else f"{round(value):,}"


def number(value: float | None) -> str:
    """Returns a number with three significant digits.

    >>> number(0.12345), number(12.345), number(1234.5)
    ('0.123', '12.3', '1,234')
    """
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def bits(num_bits: int) -> str:
    """Returns a bit width in words.

    >>> bits(1), bits(4), bits(32)
    ('1 bit', '4 bits', 'float')
    """
    if num_bits >= MIN_FLOAT_BITS:
        return "float"
    return "1 bit" if num_bits == 1 else f"{num_bits} bits"


def to_text(renderable: RenderableType, *, width: int | None = None) -> str:
    """Returns a rich renderable as plain text without color codes, for logs, files and pipes.

    Args:
        renderable: a table of `results_table`, a `Summary`, or anything else that rich prints.
        width: number of columns. None takes the width of the terminal, or 100 without a terminal.

    Returns:
        The text, without trailing spaces.

    Raises:
        ImportError: rich is not installed.

    Example:

    >>> from rich.text import Text
    >>> to_text(Text("ready"))
    'ready'
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(missing("rich", "A text table")) from error
    columns = width or max(60, min(160, shutil.get_terminal_size((100, 24)).columns))
    buffer = io.StringIO()
    console = Console(file=buffer, width=columns, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())
