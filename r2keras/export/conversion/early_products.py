"""Recurrent layers whose products with the input are computed for all steps at once, in front of the time loop."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.gated_cells import GatedCell, GRUCell, LSTMCell, SimpleRNNCell
from r2keras._models.layer_copies import config_of, recreate
from r2keras._models.rebuild import copy_bidirectional, rebuild


class EarlyRNN(keras.layers.RNN):
    """The base class, which lies between a Keras layer and `keras.layers.RNN` and replaces the cell of the first."""

    cell_class: type[GatedCell]

    def __init__(self, cell: keras.Layer, **kwargs: Any) -> None:
        super().__init__(self.cell_class.like(cell, None), **kwargs)

    def inner_loop(self, sequences, initial_state, mask, training: bool = False):
        """Computes the products with the input, then runs Keras' time loop over them."""
        kernels = [ops.convert_to_tensor(kernel) for kernel in (self.cell.kernel, self.cell.recurrent_kernel)]
        try:
            products = self.cell.begin_call(sequences, *kernels, None, training)
            return super().inner_loop(products, initial_state, mask=mask, training=training)
        finally:
            self.cell.end_call()


@keras.saving.register_keras_serializable(package="r2keras")
class EarlySimpleRNN(keras.layers.SimpleRNN, EarlyRNN):
    """`keras.layers.SimpleRNN`."""

    cell_class = SimpleRNNCell


@keras.saving.register_keras_serializable(package="r2keras")
class EarlyLSTM(keras.layers.LSTM, EarlyRNN):
    """`keras.layers.LSTM`."""

    cell_class = LSTMCell


@keras.saving.register_keras_serializable(package="r2keras")
class EarlyGRU(keras.layers.GRU, EarlyRNN):
    """`keras.layers.GRU`."""

    cell_class = GRUCell


EARLY = {keras.layers.SimpleRNN: EarlySimpleRNN, keras.layers.LSTM: EarlyLSTM, keras.layers.GRU: EarlyGRU}


def with_early_products(source: SourceModel) -> SourceModel:
    """Returns a model whose LSTM, GRU and SimpleRNN layers multiply their whole input by the kernel before the loop.

    Keras does so at every step. One product of many rows takes less time than many of one row, and the outputs are the
    same up to the order of additions.

    Args:
        source: the model; returned as it is if it has no such layer.
    """
    if source.is_tf_keras or not any(type(layer) in EARLY for _, layer in source.recurrent):
        return source
    return read_model(rebuild(source.view, lambda path, layer: _early(layer)))


def _early(layer: keras.Layer) -> keras.Layer | None:
    """Returns the layer that replaces a Keras layer; None for any other."""
    if type(layer) is keras.layers.Bidirectional:
        forward, backward = (_early(half) for half in (layer.forward_layer, layer.backward_layer))
        return None if forward is None or backward is None else copy_bidirectional(layer, forward, backward)
    if type(layer) not in EARLY:
        return None
    config = config_of(layer)
    # cuDNN's kernels take the input itself.
    config |= {"use_cudnn": False} if "use_cudnn" in config else {}
    return recreate(layer, config, EARLY[type(layer)])
