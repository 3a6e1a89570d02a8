"""A small trained classifier with batch norm, made once per process."""

from __future__ import annotations

import functools

import keras
import numpy as np

from r2keras.workloads import data


@functools.cache
def trained():
    """Returns a classifier of digits, its inputs and their labels."""
    keras.utils.set_random_seed(0)
    digits = data.load("digits")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, use_bias=False, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    # Made in its first step, they would have TensorFlow trace the step twice.
    model.optimizer.build(model.trainable_variables)
    model.fit(digits.x_train, digits.y_train, epochs=6, batch_size=64, verbose=0)
    return model, np.asarray(digits.x_train[:400]), np.asarray(digits.y_train[:400])
