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
        self._kind, self._words, self._start = kind, words, time.perf_counter()
        self._bar.update(self._task, description=words)
        yield
        self._seconds.setdefault(kind, []).append(time.perf_counter() - self._start)
        self._kinds.remove(kind)
        self._done += 1
        self._bar.update(self._task, completed=self._done, left=self.left())
        if not self._console.is_terminal:
            total = self._done + len(self._kinds)
            self._console.print(f"[{self._done}/{total}] {words} ({self.left()})", markup=False, highlight=False)

    def left(self, rest: float | None = None) -> str:
        """Returns the time left in words.

        Args:
            rest: seconds that the current piece still takes; None if no piece is going on.
        """
        kinds = list(self._kinds)
        if rest is not None:
            kinds.remove(self._kind)
        every = [second for seconds in self._seconds.values() for second in seconds]
        if not every:
            return "" if rest is None else f"{_words(rest)} left of this piece"
        mean = {kind: sum(seconds) / len(seconds) for kind, seconds in self._seconds.items()}
        overall = sum(every) / len(every)
        seconds = (rest or 0.0) + sum(mean.get(kind, overall) for kind in kinds)
        return f"{_words(seconds)} left" if self._kinds else "done"

    def epochs(self, total: int) -> keras.callbacks.Callback:
        """Returns a callback that moves the bar within the current piece."""
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._within(epoch + 1, total))

    def _within(self, epoch: int, total: int) -> None:
        spent = time.perf_counter() - self._start
        words, left = f"{self._words}, epoch {epoch}/{total}", self.left(spent * (total - epoch) / epoch)
        self._bar.update(self._task, description=words, completed=self._done + 0.95 * epoch / total, left=left)


def _words(seconds: float) -> str:
    """Returns a time in minutes and seconds."""
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
