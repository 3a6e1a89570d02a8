"""Training of one block by Adam, reproducible and without a trace in global random states."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

Loss = Callable[[object, object], object]
# Of a block's targets that are constant, and of probabilities.
SMALLEST = 1e-7
# Up to this number of steps, compiling a block takes longer than it saves.
EAGER_STEPS = 32


class Task(keras.Model):
    """Computes the loss of a part of a model; it takes the inputs of the part, then the targets.

    Args:
        part: a Functional model.
        losses: the loss of each output, one value per sample.
    """

    def __init__(self, part: keras.Model, losses: list[Loss]):
        super().__init__()
        self.part, self.losses_of_outputs = part, losses

    def call(self, arrays):
        """Returns the loss of each sample. The part runs in inference mode: dropout would blur the comparison."""
        count = len(self.part.inputs)
        inputs, targets = list(arrays[:count]), arrays[count:]
        outputs = keras.tree.flatten(self.part(inputs[0] if count == 1 else inputs, training=False))
        pairs = zip(self.losses_of_outputs, targets, outputs, strict=True)
        return sum(loss(target, output) for loss, target, output in pairs)


def squared(targets: np.ndarray) -> Loss:
    """Returns the mean squared difference, divided by the variance of the targets."""
    scale = 1.0 / max(float(np.var(targets)), SMALLEST)

    def loss(target, output):
        difference = ops.square(ops.cast(output, "float32") - target)
        return scale * ops.mean(ops.reshape(difference, (ops.shape(difference)[0], -1)), axis=-1)

    return loss


def divergence(target, output):
    """Returns the Kullback-Leibler divergence of probabilities, summed over all axes but the first."""
    target, output = (ops.maximum(ops.cast(p, "float32"), SMALLEST) for p in (target, output))
    terms = target * (ops.log(target) - ops.log(output))
    return ops.sum(ops.reshape(terms, (ops.shape(terms)[0], -1)), axis=-1)


def train(
    task: Task,
    arrays: list[np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> None:
    """Minimizes the mean loss of a task by Adam, with a cosine decay of the learning rate.

    Args:
        task: the task.
        arrays: inputs and targets.
        epochs: passes over the data; the samples that do not fill the last batch wait for the next pass.
        batch_size: samples per step.
        learning_rate: of the first step.
        rng: gives the order of the samples.
    """
    count = len(arrays[0])
    batch_size = min(batch_size, count)
    steps = count // batch_size
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    eager = epochs * steps <= EAGER_STEPS
    task.compile(
        keras.optimizers.Adam(decay),
        loss=lambda _, losses: ops.mean(losses),
        jit_compile=not eager and keras.backend.backend() == "jax",
        run_eagerly=eager,
    )
    nothing = np.zeros((batch_size,), np.float32)
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, steps * batch_size, batch_size):
            chosen = np.sort(order[start : start + batch_size])

            task.train_on_batch([array[chosen] for array in arrays], nothing)


def mean_loss(task: Task, arrays: list[np.ndarray], batch_size: int) -> float:
    """Returns the mean loss of a task over all samples."""
    count = len(arrays[0])
    total = 0.0
    for start in range(0, count, batch_size):
        batch = [ops.convert_to_tensor(array[start : start + batch_size]) for array in arrays]
        total += float(np.sum(ops.convert_to_numpy(task(batch)), dtype=np.float64))
    return total / count


@contextlib.contextmanager
def kept_random_states() -> Iterator[None]:
    """Restores the random states of Python and NumPy, from which Keras draws the seeds of new layers."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
