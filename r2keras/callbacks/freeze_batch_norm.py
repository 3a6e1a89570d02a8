"""Callback that freezes batch-norm statistics late in training."""

from __future__ import annotations

import keras

from r2keras._models import walk
from r2keras._util.errors import check_int


class FreezeBatchNorm(keras.callbacks.Callback):
    """Freezes the statistics of batch normalization from a chosen epoch on.

    From then on every batch normalization uses its moving statistics, as on the device, and these no longer change; its
    scale and offset are still trained. Quantized weights that flip between two levels make batch
    statistics jump, so the last epochs of few-bit training are calmer without them. The layers stay frozen after
    training.

    Args:
        epoch: the first epoch with frozen statistics, counted from 0 as `fit` does.

    Raises:
        ValueError: `epoch` is not an integer of at least 0, or the model has no batch normalization.

    Example:

    >>> import numpy as np
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="norm")]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((8, 4), "float32")
    >>> _ = model.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[FreezeBatchNorm(epoch=1)])
    >>> model.get_layer("norm").trainable
    False

    Source: Krishnamoorthi, arXiv 1806.08342, section 3.2.2.
    """

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = check_int("epoch", epoch, 0, None)

    def on_train_begin(self, logs=None):
        """Raises for a model without batch normalization."""
        if not norms_of(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no batch normalization to freeze. Expected a model with "
                "BatchNormalization layers. Leave out FreezeBatchNorm."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Freezes the statistics once `epoch` is reached, and compiles the training step again."""
        norms = [layer for layer in norms_of(self.model) if layer.trainable]
        if epoch < self.epoch or not norms:
            return
        for layer in norms:
            learned = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
            trainable_flags = [variable.trainable for variable in learned]
            layer.trainable = False
            # The layer's flag stops the statistics; the variables' own flags tell the optimizer what to train.
            for variable, trainable in zip(learned, trainable_flags, strict=True):
                variable.trainable = trainable
        self.model.make_train_function(force=True)


def norms_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalizations of a model, including those in nested models."""
    return [layer for _, layer in walk.view_of(model).instances(keras.layers.BatchNormalization)]
