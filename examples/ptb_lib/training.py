"""Truncated back-propagation over the text; a killed training resumes after its last whole epoch."""

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
from r2keras._util.files import read_npz, replacing
from r2keras.workloads.text import Text, windows

# Placeholder for the sampled words if the softmax covers all words.
NO_SAMPLE = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Epochs, learning rate, and the other settings of a training.

    Args:
        stages: the past stages of the weights, then the one to train. The random numbers of dropout and sampling
            continue after the past stages: a mask repeated with the same words would let the network memorize the text.
        rate: initial learning rate.
        decay: fraction of all steps, at the end, in which the rate falls linearly to 1/50.
        dropout: rate of the dropout before and after the LSTM.
        sampled: whether the softmax of a training step is computed over a sample of the rare words.
        seed: seed of dropout and sampling.
        commitment: weight of the commitment loss of the LSTM's states (`recurrence`).
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
        """Passes over the training text in the last stage."""
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
    on_step: Callable[[int, int, int, float], None],
    on_epoch: Callable[[int, float], None],
) -> list[float]:
    """Trains the remaining epochs of a schedule.

    Args:
        net: the network; loads the weights of the checkpoint, if there is one.
        text: training and validation text.
        schedule: the whole schedule.
        path: the checkpoint, written after every epoch.
        regularizer: regularizer of the kernels; None for none.
        on_step: called every 20 steps with (epoch, step, steps, training perplexity so far).
        on_epoch: called with (epoch, validation perplexity).

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
        train_epoch(step, text, schedule, epoch, on_step)
        step.store()
        history.append(perplexity(net, text.validation))
        done = schedule.stages[-1]._replace(epochs=len(history))
        save_checkpoint(path, net, history, (*schedule.stages[:-1], done))
        on_epoch(epoch, history[-1])
    return history


def train_epoch(step: Step, text: Text, schedule: Schedule, epoch: int, on_step: Callable) -> None:
    """Makes one pass over the training text; a shorter last window is left out."""
    steps = max((len(text.train) - 1) // BATCH // LENGTH, 1)
    seed = 1000 * schedule.seed + seen(schedule.stages[:-1]) + epoch
    sampler = Sampler(len(text.vocabulary), seed) if schedule.sampled else None
    step.begin(seed)
    losses = []
    for index, (words, following) in enumerate(windows(text.train, BATCH, LENGTH)):
        if words.shape[1] < LENGTH:  # The step is compiled for whole windows.
            break
        rate = tf.constant(schedule.rate_at((epoch + index / steps) / schedule.epochs), tf.float32)
        inputs = (words, following, NO_SAMPLE if sampler is None else sampler.draw())
        losses.append(float(step.run(*map(tf.constant, inputs), rate)))
        if index % 20 == 19 or index + 1 == steps:
            on_step(epoch, index + 1, steps, math.exp(min(float(np.mean(losses)), 50.0)))


def save_checkpoint(path: Path, net: keras.Model, history: list[float], stages: tuple[Stage, ...]) -> None:
    """Writes the float weights, the quantizers' variables, the perplexities so far, and the stages.

    The file is written whole or not at all.
    """
    variables = latent_weights(net) | scalars(net)
    values = {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}
    texts = {"history": np.array(json.dumps(history)), "stages": np.array(json.dumps(stages))}
    with replacing(path) as temporary:
        np.savez(temporary, **texts, **values)


def scalars(net: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables of a network's quantizers, by their names in a checkpoint."""
    variables = [variable for compressor in compressors(net).values() for variable in compressor.variables]
    return {f"quantizer_{index}": variable for index, variable in enumerate(variables)}


def read_stages(path: Path) -> tuple[Stage, ...]:
    """Reads the stages that the weights of a checkpoint were trained in.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint.
    """
    file = read_npz(path)
    if "stages" not in file:
        raise ValueError(f"{path} is not a checkpoint of this example: it lacks stages")
    return tuple(Stage(*stage) for stage in json.loads(str(file["stages"])))


def load_checkpoint(path: Path, net: keras.Model) -> list[float]:
    """Loads the float weights of a checkpoint into a network and sets its ranges; returns the perplexities.

    Raises:
        ValueError: the file is damaged, or holds a network of another size.
    """
    file, latent = read_npz(path), latent_weights(net)
    missing = {"history", *latent} - set(file)
    if missing:
        raise ValueError(f"{path} is not a checkpoint of this example: it lacks {', '.join(sorted(missing))}")
    for name, variable in latent.items():
        if file[name].shape != tuple(variable.shape):
            shapes = f"{name} has the shape {file[name].shape} there, but this run needs {tuple(variable.shape)}"
            raise ValueError(f"{path} does not fit ({shapes}): use the text and the --units that it was trained with")
        variable.assign(file[name])
    set_ranges(net)
    for name, variable in scalars(net).items():
        if name in file:
            variable.assign(file[name])
    return json.loads(str(file["history"]))
