"""Progress of long work: a bar in terminals and in notebooks, nothing where the output is a file or a pipe."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator

from r2keras._util.errors import missing

# Takes the number of finished parts and a description of the one at work.
Update = Callable[[int, str], None]


@contextlib.contextmanager
def progress_bar(shown: bool, total: int, label: str) -> Iterator[Update]:
    """Shows a progress bar and yields the function that updates it.

    Args:
        shown: whether to show it in a terminal or a notebook.
        total: number of parts.
        label: the description before the first update.

    Raises:
        ImportError: rich is not installed.
    """
    if not shown:
        yield lambda completed, description: None
        return
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(missing("rich", "A progress bar")) from error
    console = Console(stderr=True)
    if console.is_jupyter:
        yield _in_notebook(total, label)
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda completed, description: bar.update(task, completed=completed, description=description)


def _in_notebook(total: int, label: str) -> Update:
    """Shows a bar below a notebook's cell; rich's own bar needs ipywidgets there."""
    from IPython.display import display

    handle = display(notebook_bar(0, total, label), raw=True, display_id=True)
    return lambda completed, description: handle.update(notebook_bar(completed, total, description), raw=True)


def notebook_bar(completed: int, total: int, description: str) -> dict[str, str]:
    """Returns a progress bar as HTML and as text.

    >>> notebook_bar(1, 3, "AdaRound <conv>")["text/html"]
    '<progress value="1" max="3"></progress> AdaRound &lt;conv&gt; (1 of 3)'
    """
    text = f"{description} ({completed} of {total})"
    bar = f'<progress value="{completed}" max="{total}"></progress> {html.escape(text)}'
    return {"text/plain": text, "text/html": bar}
