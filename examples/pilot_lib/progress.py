"""The progress display: a bar over all tasks, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class ProgressDisplay:
    """A progress bar over tasks of several kinds; without a terminal, one line per finished task.

    The time left is the sum, over the remaining tasks, of the mean time of the finished tasks of the same kind.

    Args:
        kinds: the kind of every task, in order.
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
        self._bar_task = self._bar.add_task("starting", total=len(kinds), left="")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def task(self, kind: str, description: str) -> Iterator[None]:
        """Times one task; it counts as done if nothing is raised."""
        self._kind = kind
        self._description = description
        self._start = time.perf_counter()
        self._bar.update(self._bar_task, description=description)
        yield
        self._seconds.setdefault(kind, []).append(time.perf_counter() - self._start)
        self._kinds.remove(kind)
        self._done += 1
        self._bar.update(self._bar_task, completed=self._done, left=self.left())
        if not self._console.is_terminal:
            total = self._done + len(self._kinds)
            line = f"[{self._done}/{total}] {description} ({self.left()})"
            self._console.print(line, markup=False, highlight=False)

    def left(self, current: float | None = None) -> str:
        """Returns the time left as text.

        Args:
            current: seconds left of the current task; None if no task is running.
        """
        kinds = list(self._kinds)
        if current is not None:
            kinds.remove(self._kind)
        all_seconds = [second for seconds in self._seconds.values() for second in seconds]
        if not all_seconds:
            return "" if current is None else f"{_time_text(current)} left of this task"
        mean = {kind: sum(seconds) / len(seconds) for kind, seconds in self._seconds.items()}
        overall = sum(all_seconds) / len(all_seconds)
        seconds = (current or 0.0) + sum(mean.get(kind, overall) for kind in kinds)
        return f"{_time_text(seconds)} left" if self._kinds else "done"

    def epochs(self, total: int) -> keras.callbacks.Callback:
        """Returns a callback that advances the bar within the current task, a training of `total` epochs."""
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._show_epoch(epoch + 1, total))

    def _show_epoch(self, epoch: int, total: int) -> None:
        """Shows a finished epoch of the current task."""
        spent = time.perf_counter() - self._start
        description = f"{self._description}, epoch {epoch}/{total}"
        left = self.left(spent * (total - epoch) / epoch)
        # Measuring follows the last epoch, so the training alone fills only part of the task.
        completed = self._done + 0.95 * epoch / total
        self._bar.update(self._bar_task, description=description, completed=completed, left=left)


def _time_text(seconds: float) -> str:
    """Returns a time in minutes and seconds."""
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
