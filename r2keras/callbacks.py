"""Callbacks for training under compression."""

from __future__ import annotations

import keras

from r2keras import _model
from r2keras._errors import invalid


class FreezeBatchNorm(keras.callbacks.Callback):
    """Keeps batch normalisation's statistics as they are from a chosen epoch on.

    From then on every batch normalisation normalises with its moving statistics, as it will on the device, and they no
    longer change; its scale and offset go on learning. Quantized weights that flip between two levels make batch
    statistics jump, so the last epochs of few-bit training are calmer without them. The layers stay so after training.

    Args:
        epoch: the first epoch with frozen statistics, counted from 0 as `fit` does.

    Raises:
        ValueError: `epoch` is no integer of at least 0, or the model has no batch normalisation.

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
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(invalid("epoch", "an integer of at least 0", epoch))
        self.epoch = epoch

    def on_train_begin(self, logs=None):
        """Raises for a model without batch normalisation."""
        if not _norms(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no batch normalisation to freeze. Leave out FreezeBatchNorm."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Freezes, and has the training step compiled again, where the time has come."""
        norms = [layer for layer in _norms(self.model) if layer.trainable]
        if epoch < self.epoch or not norms:
            return
        for layer in norms:
            learned = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
            kept = [variable.trainable for variable in learned]
            layer.trainable = False
            # The layer's flag decides on the statistics, the variables' own on the optimizer.
            for variable, trainable in zip(learned, kept, strict=True):
                variable.trainable = trainable
        self.model.make_train_function(force=True)


def _norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalisations of a model, those in nested models too."""
    return [layer for _, layer in _model.leaf_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
