"""Matplotlib figures as inline SVG: themed with CSS variables, described in text, reproducible byte for byte."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import missing
from r2keras._util.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from markupsafe import Markup
    from matplotlib.figure import Figure

# Placeholder colors that nothing else uses: each becomes a CSS variable, so that one figure fits light and dark pages.
INK, FAINT, GRID, LIMIT, GOOD = "#f1e001", "#f1e002", "#f1e003", "#f1e004", "#f1e005"
SERIES = tuple(f"#f1e01{digit:x}" for digit in range(8))
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--line)",
    LIMIT: "var(--limit)",
    GOOD: "var(--good)",
    **{color: f"var(--s{index})" for index, color in enumerate(SERIES)},
}
# The colors of the light page, for standalone figures.
PLAIN = {INK: "#1b1f24", FAINT: "#5b6470", GRID: "#dfe3e8", LIMIT: "#b3261e", GOOD: "#1a7f4b"}
PLAIN_SERIES = ("#1f5fbf", "#c2570c", "#18794e", "#8436b5", "#c02158", "#0d7487", "#7a6300", "#5b6470")
PLAIN |= dict(zip(SERIES, PLAIN_SERIES, strict=True))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKER_GLYPHS = "\u25cf\u25a0\u25b2\u25c6\u25bc\u271a\u2716\u2605"

# Resolution of standalone `.png` files.
DOTS_PER_INCH = 150

STYLE: dict[str, Any] = {
    # Without a fixed salt, the ids differ on every run.
    "svg.hashsalt": "r2keras",
    "svg.fonttype": "none",
    "path.simplify": False,
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.minor.bottom": False,
    "lines.linewidth": 1.4,
}


def style() -> AbstractContextManager[None]:
    """Returns the context in which the figures of a page are drawn and saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return _context(STYLE)


def plain_style() -> AbstractContextManager[None]:
    """Returns the context in which standalone figures are drawn and saved, in the colors of the light page.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return _context({name: PLAIN.get(value, value) for name, value in STYLE.items()} | {"figure.facecolor": "white"})


def _context(settings: dict[Any, Any]) -> AbstractContextManager[None]:
    """Returns the matplotlib context with these settings, whose keys matplotlib types as literals."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(missing("matplotlib", "A plot", "report")) from error
    return matplotlib.rc_context({**settings})


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure outside of pyplot's global state; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_plain(figure: Figure, path: str | os.PathLike, *, title: str, description: str = "") -> None:
    """Writes a standalone figure with a visible title; call it inside `plain_style()`.

    Args:
        figure: the figure.
        path: an `.svg` or `.png` file. The write is atomic, and equal figures give equal files.
        title: heading of the figure.
        description: text for readers who cannot see the figure; the title by default.
    """
    figure.suptitle(title, x=0.008, ha="left", fontsize=11, fontweight="bold", color=PLAIN[INK])
    metadata = {"Title": description or title} | ({"Date": None} if Path(path).suffix == ".svg" else {})
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata=metadata)


def to_svg(figure: Figure, name: str, description: str, *, tips: Mapping[str, str] | None = None) -> Markup:
    """Returns a figure as inline SVG; call it inside `style()`.

    Args:
        figure: the figure.
        name: prefix of the ids, unique in the page.
        description: text for readers who cannot see the figure.
        tips: hover text of artists, by their `gid`.

    Returns:
        SVG without XML header, metadata or namespaces, scaled to the width of its container.
    """
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    for gid, words in (tips or {}).items():
        text = text.replace(f'<g id="{gid}">', f'<g class="tip"><title>{escape(words)}</title>', 1)
    text = _with_prefixed_ids(text, name).replace("xlink:href", "href")
    text = re.sub("#f1e0[0-9a-f]{2}", lambda match: VARIABLES[match.group()], text)
    box = text.partition('viewBox="')[2].partition('"')[0]
    head = f'<svg viewBox="{box}" role="img" aria-label="{escape(description)}">'
    return Markup(head + text[text.index(">") + 1 :].strip())


def _with_prefixed_ids(text: str, name: str) -> str:
    """Returns SVG whose ids begin with `name`, without the ids that nothing refers to."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m.group(1)}"' if m.group(1) in used else "", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
