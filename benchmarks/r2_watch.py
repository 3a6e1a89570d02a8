"""The progress bar of `r2_accuracy.py`: cells done, and what is going on."""

from __future__ import annotations

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Watch:
    """A bar on a terminal, one line a piece of work elsewhere.

    Args:
        cells: how many cells are to be measured.
    """

    def __init__(self, cells: int):
        self.console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("starting", total=cells)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def say(self, words: str) -> None:
        """Shows what is going on."""
        self.bar.update(self.task, description=words)
        if not self.console.is_terminal:
            self.console.print(words, highlight=False)

    def done(self) -> None:
        """Counts a finished cell."""
        self.bar.advance(self.task)

    def callback(self) -> keras.callbacks.Callback:
        """Returns a callback that shows the steps of a training."""
        return _Steps(self)


class _Steps(keras.callbacks.Callback):
    """Says how many steps of the present epoch are done."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch, self.words = watch, ""

    def on_epoch_begin(self, epoch, logs=None):
        self.words = self.watch.bar.tasks[0].description.partition(" (")[0]

    def on_train_batch_end(self, batch, logs=None):
        total = (self.params or {}).get("steps") or "?"
        self.watch.bar.update(self.watch.task, description=f"{self.words} (step {batch + 1} of {total})")
