"""Truncated back-propagation over the text, epoch by epoch; a killed training goes on after its last whole epoch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ptb_lib.model import BATCH, LENGTH, compressors, latent_weights, perplexity, set_ranges
from ptb_lib.softmax import Sampler
from ptb_lib.stages import Stage, seen
from ptb_lib.step import Step
from r2keras._files import read_npz, replacing
from r2keras.workloads.text import Text, windows

# What is drawn where the softmax runs over all words: nobody reads it.
EVERY_WORD = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        stages: those that the weights have behind them, and last the one to come. Dropout and draws go on where they
            ended: a mask that comes back with the words that it came with is remembered, and no longer keeps the
            network from learning the text by heart.
        rate: the learning rate at the start.
        decay: the fraction of all steps, at the end, in which the rate falls linearly to a fiftieth.
        dropout: before and after the LSTM.
        sampled: whether the softmax of a training step runs over a sample of the rare words.
        seed: of dropout and draws.
        commitment: of the LSTM's states to what they are rounded to (`recurrence`).
    """

    stages: tuple[Stage, ...]
    rate: float
    decay: float
    dropout: float
    sampled: bool
    seed: int
    commitment: float = 0.0

    @property
    def epochs(self) -> int:
        """Passes over the training part."""
        return self.stages[-1].epochs

    def rate_at(self, progress: float) -> float:
        """Returns the learning rate after a fraction `progress` of all steps."""
        return self.rate * min(1.0, 0.02 + 0.98 * (1.0 - progress) / self.decay)


def train(
    net: keras.Model,
    text: Text,
    schedule: Schedule,
    path: Path,
    *,
    regularizer: Callable | None = None,
    report: Callable[[int, int, int, float], None],
    measured: Callable[[int, float], None],
) -> list[float]:
    """Trains what is left of a schedule.

    Args:
        net: takes the weights of the checkpoint, if there is one.
        text: both parts.
        schedule: the whole schedule.
        path: the checkpoint, written after every epoch.
        regularizer: of the kernels.
        report: is called with (epoch, step, steps, training perplexity so far) now and then.
        measured: is called with (epoch, validation perplexity).

    Returns:
        The validation perplexity after each epoch.
    """
    history = load_checkpoint(path, net) if path.exists() else []
    if len(history) >= schedule.epochs:
        return history
    sampler = Sampler(len(text.vocabulary), 0)
    log_weights = sampler.log_weights if schedule.sampled else None
    step = Step(net, log_weights, schedule.dropout, regularizer, schedule.commitment)
    for epoch in range(len(history), schedule.epochs):
        train_epoch(step, text, schedule, epoch, report)
        step.store()
        history.append(perplexity(net, text.validation))
        done = schedule.stages[-1]._replace(epochs=len(history))
        save_checkpoint(path, net, history, (*schedule.stages[:-1], done))
        measured(epoch, history[-1])
    return history


def train_epoch(step: Step, text: Text, schedule: Schedule, epoch: int, report: Callable) -> None:
    """Passes over the training part once; a last window that is shorter is left out."""
    steps = max((len(text.train) - 1) // BATCH // LENGTH, 1)
    seed = 1000 * schedule.seed + seen(schedule.stages[:-1]) + epoch
    sampler = Sampler(len(text.vocabulary), seed) if schedule.sampled else None
    step.begin(seed)
    losses = []
    for index, (words, following) in enumerate(windows(text.train, BATCH, LENGTH)):
        if words.shape[1] < LENGTH:  # The step is compiled for whole windows.
            break
        rate = tf.constant(schedule.rate_at((epoch + index / steps) / schedule.epochs), tf.float32)
        inputs = (words, following, EVERY_WORD if sampler is None else sampler.draw())
        losses.append(float(step.run(*map(tf.constant, inputs), rate)))
        if index % 20 == 19 or index + 1 == steps:
            report(epoch, index + 1, steps, math.exp(min(float(np.mean(losses)), 50.0)))


def save_checkpoint(path: Path, net: keras.Model, history: list[float], stages: tuple[Stage, ...]) -> None:
    """Writes the float weights, what quantizers learned, the perplexities so far and how they came about.

    The file is written whole or not at all.
    """
    values = {name: keras.ops.convert_to_numpy(v) for name, v in (latent_weights(net) | scalars(net)).items()}
    with replacing(path) as temporary:
        texts = {"history": np.array(json.dumps(history)), "stages": np.array(json.dumps(stages))}
        np.savez(temporary, **texts, **values)


def scalars(net: keras.Model) -> dict[str, keras.Variable]:
    """Returns what the quantizers of a network keep, by names of their own."""
    found = [variable for part in compressors(net).values() for variable in part.variables]
    return {f"quantizer_{index}": variable for index, variable in enumerate(found)}


def read_stages(path: Path) -> tuple[Stage, ...]:
    """Reads what the weights of a checkpoint have behind them.

    Raises:
        ValueError: the file is damaged, or no checkpoint.
    """
    file = read_npz(path)
    if "stages" not in file:
        raise ValueError(f"{path} is no checkpoint of this example: it lacks stages")
    return tuple(Stage(*stage) for stage in json.loads(str(file["stages"])))


def load_checkpoint(path: Path, net: keras.Model) -> list[float]:
    """Reads the float weights of a checkpoint into a network and sets its ranges; returns the perplexities.

    Raises:
        ValueError: the file is damaged, or of a network of another size.
    """
    file, latent = read_npz(path), latent_weights(net)
    absent = {"history", *latent} - set(file)
    if absent:
        raise ValueError(f"{path} is no checkpoint of this example: it lacks {', '.join(sorted(absent))}")
    for name, variable in latent.items():
        if file[name].shape != tuple(variable.shape):
            sizes = f"{name} has the shape {file[name].shape} there, and this run needs {tuple(variable.shape)}"
            raise ValueError(f"{path} does not fit ({sizes}): take the text and the --units that it was trained with")
        variable.assign(file[name])
    set_ranges(net)
    for name, variable in scalars(net).items():
        if name in file:
            variable.assign(file[name])
    return json.loads(str(file["history"]))
