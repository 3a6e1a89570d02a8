"""The progress bar of `r2_accuracy.py`: finished cells, and the current task."""

from __future__ import annotations

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Watch:
    """A progress bar; without a terminal, one line per task.

    Args:
        cells: number of cells to measure.
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

    def say(self, description: str) -> None:
        """Shows the current task."""
        self.bar.update(self.task, description=description)
        if not self.console.is_terminal:
            self.console.print(description, highlight=False)

    def done(self) -> None:
        """Counts a finished cell."""
        self.bar.advance(self.task)

    def callback(self) -> keras.callbacks.Callback:
        """Returns a Keras callback that shows the steps of a training."""
        return _Steps(self)


class _Steps(keras.callbacks.Callback):
    """Shows the number of finished steps in the current epoch."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch
        self.description = ""

    def on_epoch_begin(self, epoch, logs=None):
        self.description = self.watch.bar.tasks[0].description.partition(" (")[0]

    def on_train_batch_end(self, batch, logs=None):
        total = (self.params or {}).get("steps") or "?"
        self.watch.bar.update(self.watch.task, description=f"{self.description} (step {batch + 1} of {total})")
