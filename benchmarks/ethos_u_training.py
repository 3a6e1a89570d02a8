"""Training of a pretrained net at 2 bits per weight towards its own float outputs, for `ethos_u.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import numpy as np

# Batches of images; the largest shift, in pixels, of a random crop; the share of the labels in the targets.
BATCH_SIZE, SHIFT, LABEL_SHARE = 64, 4, 0.3
LEARNING_RATE = 1e-3


def trained(
    teacher: keras.Model, recipe, x: np.ndarray, y: np.ndarray | None, epochs: int, seed: int, *, images: bool
) -> tuple:
    """Trains a net under quantization towards the outputs of its float form.

    Args:
        teacher: the float net, which returns probabilities.
        recipe: the recipe; inputs and outputs get 8 bits.
        x: training inputs.
        y: their classes; None trains towards the float outputs alone.
        epochs: passes over the inputs.
        seed: of the order and the crops.
        images: whether inputs are mirrored and shifted at random.

    Returns:
        The model and the record that `finalize` returns.
    """
    import keras
    import numpy as np

    import r2keras

    keras.utils.set_random_seed(seed)
    student = r2keras.prepare(teacher, recipe, integer=True)
    steps = epochs * math.ceil(len(x) / BATCH_SIZE)
    student.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss=keras.losses.CategoricalCrossentropy(),
    )
    rng = np.random.default_rng(seed)
    for step, (batch, targets) in enumerate(_batches(teacher, x, y, epochs, rng, images)):
        loss = student.train_on_batch(batch, targets)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {float(np.asarray(loss).ravel()[0]):.4f}", flush=True)
    return r2keras.finalize(student)


def _batches(
    teacher: keras.Model, x: np.ndarray, y: np.ndarray | None, epochs: int, rng: np.random.Generator, images: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches and their targets: float outputs, mixed with labels if there are any."""
    import keras
    import numpy as np

    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            batch = _augmented(x[chosen], rng) if images else x[chosen]
            targets = np.asarray(teacher(batch, training=False))
            if y is not None:
                labels = keras.utils.to_categorical(y[chosen], targets.shape[1])
                targets = LABEL_SHARE * labels + (1 - LABEL_SHARE) * targets
            yield batch, targets


def _augmented(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns images mirrored with probability 1/2 and shifted by up to `SHIFT` pixels."""
    import numpy as np

    batch = np.where(rng.random(len(batch))[:, None, None, None] < 0.5, batch[:, :, ::-1], batch)
    padded = np.pad(batch, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    height, width = batch.shape[1:3]
    rows, columns = rng.integers(0, 2 * SHIFT + 1, (2, len(batch)))
    crops = [image[r : r + height, c : c + width] for image, r, c in zip(padded, rows, columns, strict=True)]
    return np.stack(crops)
