"""Training steps of Keras 3 models: a float net, with a regularizer on every kernel, or with every kernel quantized."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from step_plan import NUM_CLASSES, REGULARIZERS, SPECS, Job

import r2keras
from r2keras.workloads import nets


def build(job: Job, variant: str) -> keras.Model:
    """Returns the compiled model of a variant; the control is a second copy of the baseline."""
    keras.utils.set_random_seed(0)
    name = job.model_of(variant)
    model = nets.build(job.net, job.image, NUM_CLASSES, _factory(name))
    if name in SPECS:
        recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(**SPECS[name]))])
        model = r2keras.prepare(model, recipe)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def training_step(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Returns one training step as in `fit`, on the same batch every time; it has already run twice."""
    import tensorflow as tf

    # Variables created inside the first step would cause it to be traced twice.
    model.optimizer.build(model.trainable_variables)
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    model.make_train_function()

    def step() -> float:
        # Reading the loss waits until the step has finished.
        return float(model.train_function(batches)["loss"])

    step()
    step()
    return step


def _factory(name: str) -> Callable[[], keras.regularizers.Regularizer] | None:
    """Returns a function that creates the regularizer of one kernel; None for none."""
    if name == "l2":
        return lambda: keras.regularizers.L2(1e-4)
    if name in REGULARIZERS:
        class_name, options = REGULARIZERS[name]
        return lambda: getattr(r2keras, class_name)(**options)
    return None
