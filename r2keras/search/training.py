"""One candidate: widened, prepared, trained, judged on its grid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras

from r2keras import _model
from r2keras.compress import finalize, prepare
from r2keras.record import CompressionRecord
from r2keras.search.data import Data
from r2keras.search.settings import Search
from r2keras.search.space import Candidate, recipe_of
from r2keras.widening import widen
from r2keras.workloads.training import gives_logits

LOGS = {"accuracy": "sparse_categorical_accuracy", "perplexity": "sparse_categorical_crossentropy"}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained candidate: the model as the file will compute it, its record (None for float), its value."""

    model: keras.Model
    record: CompressionRecord | None
    value: float


def quality(metric: str, value: float) -> float:
    """Returns a figure that is larger for better models."""
    return -value if metric == "perplexity" else value


def train(
    search: Search, model: keras.Model, candidate: Candidate, data: Data, on_epoch: Callable[[int, float], None]
) -> Trained:
    """Trains one candidate.

    Args:
        search: how.
        model: the float model that the search started from; left untouched.
        candidate: what becomes of it.
        data: what to train on and to judge by.
        on_epoch: called with the number of finished epochs and the value on the validation data; may raise.

    Raises:
        ValueError: the loss became NaN; the recipe does not fit the model.
    """
    keras.utils.set_random_seed(search.seed)
    trained = search.start == "trained"
    start = model
    if candidate.width != 1 or not trained:
        start = widen(model, candidate.width, match=search.match, function_preserving=trained)
    recipe, logits = recipe_of(search, candidate.method, candidate.num_bits), gives_logits(model)
    student = _model.rebuild(start, lambda *_: None) if recipe is None else prepare(start, recipe)
    _compile(student, search, logits)
    settings = {"epochs": search.epochs, "batch_size": search.batch_size, "verbose": 0}
    judge = _Judge(search.metric, on_epoch)
    student.fit(data.x, data.y, validation_data=(data.x_val, data.y_val), callbacks=[judge], **settings)
    if recipe is None:
        return Trained(student, None, judge.value)
    final, record = finalize(student)
    return Trained(final, record, _value(final, search, data, logits))


def _compile(model: keras.Model, search: Search, logits: bool) -> None:
    """Compiles a model for training and judging; the metric leaves regularizers' losses out."""
    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=logits, name=LOGS["perplexity"])
    metric = LOGS["accuracy"] if search.metric == "accuracy" else entropy
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.Adam(search.learning_rate), loss, metrics=[metric])


def _value(model: keras.Model, search: Search, data: Data, logits: bool) -> float:
    """Returns a model's accuracy or perplexity on the validation data."""
    _compile(model, search, logits)
    logs = model.evaluate(data.x_val, data.y_val, batch_size=search.batch_size, verbose=0, return_dict=True)
    return _from_logs(search.metric, logs[LOGS[search.metric]])


def _from_logs(metric: str, figure: float) -> float:
    """Returns the metric's value of what Keras logs; perplexity is `exp(cross-entropy)`."""
    if not math.isfinite(figure):
        raise ValueError("The loss became NaN or infinite. Expected a smaller learning rate.")
    return float(figure) if metric == "accuracy" else math.exp(min(figure, 700.0))


class _Judge(keras.callbacks.Callback):
    """Hands the value of every epoch on."""

    def __init__(self, metric: str, on_epoch: Callable[[int, float], None]):
        super().__init__()
        self.metric, self.on_epoch, self.value = metric, on_epoch, math.nan

    def on_epoch_end(self, epoch, logs=None):
        """Reports the epoch."""
        self.value = _from_logs(self.metric, logs[f"val_{LOGS[self.metric]}"])
        self.on_epoch(epoch + 1, self.value)
