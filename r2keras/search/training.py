"""Training of one candidate: widen, prepare, train, evaluate on the grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras

from r2keras._models import rebuild
from r2keras.compression.finalize import finalize
from r2keras.compression.prepare import prepare
from r2keras.record import CompressionRecord
from r2keras.search.data import SearchData
from r2keras.search.settings import Search
from r2keras.search.space import Candidate, recipe_of
from r2keras.widening import widen
from r2keras.workloads.training import gives_logits

# The names of the metrics in the logs of Keras.
LOGS = {"accuracy": "sparse_categorical_accuracy", "perplexity": "sparse_categorical_crossentropy"}

# Larger exponents overflow a double.
MAX_EXPONENT = 700.0


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedCandidate:
    """A trained candidate: the finalized model, its record (None for float), its metric on the validation data."""

    model: keras.Model
    record: CompressionRecord | None
    value: float


def quality(metric: str, value: float) -> float:
    """Returns a number that is larger for better models."""
    return -value if metric == "perplexity" else value


def train(
    search: Search, model: keras.Model, candidate: Candidate, data: SearchData, on_epoch: Callable[[int, float], None]
) -> TrainedCandidate:
    """Trains one candidate.

    Args:
        search: the settings of the training.
        model: the float model of the search; it is not modified.
        candidate: the candidate to train.
        data: the training and validation data.
        on_epoch: called after each epoch with the number of finished epochs and the metric on the validation data. It
            may raise to stop the training.

    Raises:
        ValueError: the loss became NaN or infinite; the recipe does not fit the model.
    """
    keras.utils.set_random_seed(search.seed)
    keep_weights = search.start == "trained"
    start = model
    if candidate.width != 1 or not keep_weights:
        start = widen(model, candidate.width, match=search.match, function_preserving=keep_weights)
    recipe = recipe_of(search, candidate.method, candidate.num_bits)
    # Training a copy leaves the weights of the model to the other candidates.
    student = rebuild.rebuild(start, lambda *_: None) if recipe is None else prepare(start, recipe)
    logits = gives_logits(model)
    _compile(student, search, logits)
    reporter = _EpochReporter(search.metric, on_epoch)
    student.fit(
        data.x,
        data.y,
        validation_data=(data.x_val, data.y_val),
        callbacks=[reporter],
        epochs=search.epochs,
        batch_size=search.batch_size,
        verbose=0,
    )
    if recipe is None:
        return TrainedCandidate(student, None, reporter.value)
    final, record = finalize(student)
    return TrainedCandidate(final, record, _evaluate(final, search, data, logits))


def _compile(model: keras.Model, search: Search, logits: bool) -> None:
    """Compiles a model with a metric that excludes the losses of regularizers."""
    metric = LOGS["accuracy"]
    if search.metric == "perplexity":
        metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=logits, name=LOGS["perplexity"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.Adam(search.learning_rate), loss, metrics=[metric])


def _evaluate(model: keras.Model, search: Search, data: SearchData, logits: bool) -> float:
    """Returns a model's accuracy or perplexity on the validation data."""
    _compile(model, search, logits)
    logs = model.evaluate(data.x_val, data.y_val, batch_size=search.batch_size, verbose=0, return_dict=True)
    return _from_logs(search.metric, logs[LOGS[search.metric]])


def _from_logs(metric: str, logged: float) -> float:
    """Returns the metric from the value that Keras logs; perplexity is `exp(cross-entropy)`."""
    if not math.isfinite(logged):
        raise ValueError("The loss became NaN or infinite. Expected finite losses. Use a smaller `learning_rate`.")
    return float(logged) if metric == "accuracy" else math.exp(min(logged, MAX_EXPONENT))


class _EpochReporter(keras.callbacks.Callback):
    """Calls a function with the metric of every epoch."""

    def __init__(self, metric: str, on_epoch: Callable[[int, float], None]):
        super().__init__()
        self.metric = metric
        self.on_epoch = on_epoch
        self.value = math.nan

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Reports the metric on the validation data."""
        self.value = _from_logs(self.metric, logs[f"val_{LOGS[self.metric]}"])
        self.on_epoch(epoch + 1, self.value)
