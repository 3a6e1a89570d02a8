"""One run: the network from its start to its row."""

from __future__ import annotations

import time
from pathlib import Path

import keras
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import r2keras
from ptb_lib.export import export
from ptb_lib.model import build, latent_weights, perplexity, set_ranges, start_softmax
from ptb_lib.rows import Row, add_row, find_row, read_rows
from ptb_lib.settings import Settings, UsageError
from ptb_lib.specs import regularizer, state_spec, weight_spec
from ptb_lib.stages import Stage, file_name, seen
from ptb_lib.training import Schedule, load_checkpoint, read_stages, train
from r2keras.workloads import text as texts

# As long as published runs of such networks train; a row with fewer epochs says that it was shortened.
FULL_EPOCHS = 40
WIDENED = "embedding|lstm"


def run(settings: Settings, console: Console) -> Row:
    """Trains one network, unless its row is there already; returns the row.

    Raises:
        UsageError: a checkpoint of other units.
        ValueError: damaged data, a damaged checkpoint.
        OSError: a folder that cannot be written.
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


def exported(settings: Settings, text: texts.Text, net: keras.Model, checkpoint: Path, console: Console) -> Row:
    """Writes the file of a finished run beside its checkpoint; returns what was measured of it."""
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint} is missing, and the row of its run is there: give the --out that it lies in")
    load_checkpoint(checkpoint, net)
    path = checkpoint.with_suffix(".tflite")
    found = export(net, path, text.validation[: (settings.export_words or len(text.validation)) + 1], console)
    change = 100 * (found["file_perplexity"] / found["keras_perplexity"] - 1)
    words = (
        f"{path}: {found['file_bytes']:,} bytes, {found['file_ms_per_word']:.2f} ms a word; perplexity of "
        f"{found['file_words']:,} words {found['file_perplexity']:.3f}, in Keras {found['keras_perplexity']:.3f} "
        f"({change:+.3f} %); Keras by itself {found['keras_alone_perplexity']:.3f}."
    )
    console.print(words, highlight=False, soft_wrap=True)
    return found


def start(settings: Settings, text: texts.Text) -> tuple[keras.Model, tuple[Stage, ...]]:
    """Returns the network with the weights it starts from, and what these have behind them."""
    keras.utils.set_random_seed(settings.seed)
    size = len(text.vocabulary)
    net = build(size, settings.wide_units, settings.dropout, weight_spec(settings), state_spec(settings))
    if settings.start_from is None:
        start_softmax(net, text.train)
        return net, ()
    path = checked_path(settings.start_from)
    past = read_stages(path)
    # A network that was trained at this width goes on as it is; a narrow one is widened.
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
    """Returns the path of a checkpoint that is there."""
    if not Path(path).is_file():
        raise UsageError(f"--start_from={path} is missing: train the float network first")
    return Path(path)


def row_key(settings: Settings, text: texts.Text, past: tuple[Stage, ...]) -> Row:
    """Returns what tells the run from others."""
    names = ("method", "weight_bits", "activation_bits", "width", "regularizer", "seed", "epochs", "dropout")
    names += ("commitment",)
    key = {name: getattr(settings, name) for name in names}
    data = "Penn Treebank" if settings.data_dir else text.source
    return {"data": data, **key, "units": settings.wide_units, "past": [stage._asdict() for stage in past]}


def trained(
    settings: Settings, text: texts.Text, net: keras.Model, past: tuple[Stage, ...], path: Path, console
) -> Row:
    """Trains the network, with its checkpoint at `path`; returns what was measured and how."""
    fields = ("decay", "dropout", "commitment", "sampled", "seed")
    stages = (*past, Stage(settings.epochs, settings.method, settings.wide_units, settings.regularizer))
    schedule = Schedule(stages, settings.learning_rate, **{name: getattr(settings, name) for name in fields})
    begun = time.perf_counter()
    before = perplexity(net, text.validation) if past else None
    with Board(schedule.epochs, console) as board:
        calls = {"report": board.step, "measured": board.epoch}
        history = train(net, text, schedule, path, regularizer=regularizer(settings), **calls)
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
        "minutes": round((time.perf_counter() - begun) / 60, 1),
    }


class Board:
    """A progress bar over all steps; without a terminal, a line per epoch.

    Args:
        epochs: of the run.
        console: where to draw.
    """

    def __init__(self, epochs: int, console: Console):
        self._epochs, self._console, self._train = epochs, console, 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, step: int, steps: int, train: float) -> None:
        """Shows how far an epoch is."""
        self._train = train
        words = f"epoch {epoch + 1}/{self._epochs}, training perplexity {train:.1f}"
        self._bar.update(self._task, description=words, total=self._epochs * steps, completed=epoch * steps + step)

    def epoch(self, epoch: int, validation: float) -> None:
        """Shows the perplexities of a finished epoch."""
        words = f"Epoch {epoch + 1}/{self._epochs}: training perplexity {self._train:.1f}, validation {validation:.1f}."
        self._console.print(words, highlight=False)
