"""One run: builds or loads a network, trains it, and writes its row."""

from __future__ import annotations

import time
from pathlib import Path

import keras
import tensorflow as tf
from common_lib.flag_checks import UsageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import r2keras
from ptb_lib.export import export
from ptb_lib.model import build, latent_weights, perplexity, set_ranges, start_softmax
from ptb_lib.rows import RunRow, add_row, find_row, read_rows
from ptb_lib.settings import Settings
from ptb_lib.specs import regularizer, state_spec, weight_spec
from ptb_lib.stages import Stage, file_name, seen
from ptb_lib.training import Schedule, load_checkpoint, read_stages, train
from r2keras.workloads import text as texts

# Published runs of such networks train this long; rows with fewer epochs are marked as shortened.
FULL_EPOCHS = 40
# Layers that are widened.
WIDENED = "embedding|lstm"


def run(settings: Settings, console: Console) -> RunRow:
    """Trains one network, unless its row is there already; returns the row.

    Raises:
        UsageError: a checkpoint is missing.
        ValueError: data or a checkpoint are damaged, or the checkpoint has other shapes.
        OSError: a folder cannot be written.
    """
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    text = texts.load(settings.data_dir)
    net, past = start(settings, text)
    key = row_key(settings, text, past)
    name = f"{settings.name}_from{file_name(past, settings.wide_units)}.npz"
    results, checkpoint = Path(settings.results), Path(settings.out, name)
    row = find_row(read_rows(results), key)
    if row is None:
        row = key | trained(settings, text, net, past, checkpoint, console)
        add_row(results, row)
    console.print(f"Validation perplexity {row['perplexity']:.2f}, {row['bytes']:,} bytes ({row['counted']}).")
    if settings.export:
        row |= exported(settings, text, net, checkpoint, console)
        add_row(results, row)
    return row


def exported(settings: Settings, text: texts.Text, net: keras.Model, checkpoint: Path, console: Console) -> RunRow:
    """Writes the file of a finished run next to its checkpoint; returns its measurements."""
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint} is missing, although its run has a row: give the --out that holds it")
    load_checkpoint(checkpoint, net)
    path = checkpoint.with_suffix(".tflite")
    num_words = settings.export_words or len(text.validation)
    columns = export(net, path, text.validation[: num_words + 1], console)
    change = 100 * (columns["file_perplexity"] / columns["keras_perplexity"] - 1)
    message = (
        f"{path}: {columns['file_bytes']:,} bytes, {columns['file_ms_per_word']:.2f} ms per word; perplexity of "
        f"{columns['file_words']:,} words {columns['file_perplexity']:.3f}, in Keras "
        f"{columns['keras_perplexity']:.3f} ({change:+.3f} %); in Keras with its own state "
        f"{columns['keras_alone_perplexity']:.3f}."
    )
    if "packed_bytes" in columns:
        message += (
            f" Packed: {columns['packed_bytes']:,} bytes, {columns['packed_ms_per_word']:.2f} ms per word; perplexity "
            f"{columns['packed_perplexity']:.3f}."
        )
    console.print(message, highlight=False, soft_wrap=True)
    return columns


def start(settings: Settings, text: texts.Text) -> tuple[keras.Model, tuple[Stage, ...]]:
    """Returns the network with its initial weights, and the stages that these were trained in."""
    keras.utils.set_random_seed(settings.seed)
    size = len(text.vocabulary)
    net = build(size, settings.wide_units, settings.dropout, weight_spec(settings), state_spec(settings))
    if settings.start_from is None:
        start_softmax(net, text.train)
        return net, ()
    path = checked_path(settings.start_from)
    past = read_stages(path)
    # A checkpoint of the final width is loaded as it is; a narrow one is widened.
    units = settings.wide_units if past[-1].units == settings.wide_units else settings.units
    wide = build(size, units, settings.dropout)
    load_checkpoint(path, wide)
    if settings.wide_units != units:
        wide = r2keras.widen(wide, settings.wide_units / units, match=WIDENED, function_preserving=True)
    for name, variable in latent_weights(wide).items():
        latent_weights(net)[name].assign(variable)
    set_ranges(net)
    return net, past


def checked_path(path: str) -> Path:
    """Returns the path of a checkpoint; raises if it is missing."""
    if not Path(path).is_file():
        raise UsageError(f"--start_from={path} is missing: train the float network first")
    return Path(path)


def row_key(settings: Settings, text: texts.Text, past: tuple[Stage, ...]) -> RunRow:
    """Returns the columns that identify the run."""
    names = ("method", "weight_bits", "activation_bits", "width", "regularizer", "seed", "epochs", "dropout")
    names += ("commitment",)
    key = {name: getattr(settings, name) for name in names}
    data = "Penn Treebank" if settings.data_dir else text.source
    return {"data": data, **key, "units": settings.wide_units, "past": [stage._asdict() for stage in past]}


def trained(
    settings: Settings, text: texts.Text, net: keras.Model, past: tuple[Stage, ...], path: Path, console
) -> RunRow:
    """Trains the network, with its checkpoint at `path`; returns the measurements and the schedule as columns."""
    fields = ("decay", "dropout", "commitment", "sampled", "seed")
    stages = (*past, Stage(settings.epochs, settings.method, settings.wide_units, settings.regularizer))
    schedule = Schedule(stages, settings.learning_rate, **{name: getattr(settings, name) for name in fields})
    begin = time.perf_counter()
    before = perplexity(net, text.validation) if past else None
    with ProgressDisplay(schedule.epochs, console) as progress:
        displays = {"on_step": progress.show_step, "on_epoch": progress.show_epoch}
        history = train(net, text, schedule, path, regularizer=regularizer(settings), **displays)
    size = r2keras.footprint(net)
    return {
        "perplexity": round(history[-1], 3),
        "bytes": size.bytes,
        "counted": size.counted,
        "shortened": seen(stages) < FULL_EPOCHS,
        "before_training": None if before is None else round(before, 3),
        "history": [round(value, 3) for value in history],
        "learning_rate": schedule.rate,
        "decay": schedule.decay,
        "sampled": schedule.sampled,
        "minutes": round((time.perf_counter() - begin) / 60, 1),
    }


class ProgressDisplay:
    """A progress bar over all steps; without a terminal, one line per epoch.

    Args:
        epochs: epochs of the run.
        console: where to draw.
    """

    def __init__(self, epochs: int, console: Console):
        self._epochs = epochs
        self._console = console
        self._training_perplexity = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_step(self, epoch: int, step: int, steps: int, training_perplexity: float) -> None:
        """Shows the progress within an epoch."""
        self._training_perplexity = training_perplexity
        text = f"epoch {epoch + 1}/{self._epochs}, training perplexity {training_perplexity:.1f}"
        self._bar.update(self._task, description=text, total=self._epochs * steps, completed=epoch * steps + step)

    def show_epoch(self, epoch: int, validation_perplexity: float) -> None:
        """Prints the perplexities of a finished epoch."""
        perplexities = f"training perplexity {self._training_perplexity:.1f}, validation {validation_perplexity:.1f}"
        self._console.print(f"Epoch {epoch + 1}/{self._epochs}: {perplexities}.", highlight=False)
