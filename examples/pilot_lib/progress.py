"""What the person sees while it runs: a bar over all pieces of work, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Board:
    """A progress bar over pieces of work of several kinds; without a terminal, a line per finished piece.

    The time left is the sum, over the pieces still to do, of the mean time of the finished pieces of their kind.

    Args:
        kinds: the kind of every piece that is to be done, in order.
        console: where to draw.
    """

    def __init__(self, kinds: list[str], console: Console):
        self._kinds = list(kinds)
        self._seconds: dict[str, list[float]] = {}
        self._console = console
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=len(kinds), left="")

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def piece(self, kind: str, words: str) -> Iterator[None]:
        """Times one piece of work; it counts as done if nothing is raised."""
        self._words, start = words, time.perf_counter()
        self._bar.update(self._task, description=words)
        yield
        self._seconds.setdefault(kind, []).append(time.perf_counter() - start)
        self._kinds.remove(kind)
        self._done += 1
        self._bar.update(self._task, completed=self._done, left=self.left())
        if not self._console.is_terminal:
            total = self._done + len(self._kinds)
            self._console.print(f"[{self._done}/{total}] {words} ({self.left()})", markup=False, highlight=False)

    def left(self) -> str:
        """Returns the time left in words."""
        every = [second for seconds in self._seconds.values() for second in seconds]
        if not every:
            return ""
        mean = {kind: sum(seconds) / len(seconds) for kind, seconds in self._seconds.items()}
        overall = sum(every) / len(every)
        seconds = round(sum(mean.get(kind, overall) for kind in self._kinds))
        return f"{seconds // 60} min {seconds % 60:02d} s left" if seconds else "done"

    def epochs(self, total: int) -> keras.callbacks.Callback:
        """Returns a callback that moves the bar within the current piece."""
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._within(epoch + 1, total))

    def _within(self, epoch: int, total: int) -> None:
        words = f"{self._words}, epoch {epoch}/{total}"
        self._bar.update(self._task, description=words, completed=self._done + 0.95 * epoch / total)
