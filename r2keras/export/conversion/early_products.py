"""Recurrent layers whose products with the input are computed for all steps at once, in front of the time loop."""

from __future__ import annotations

import keras

from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.layer_copies import config_of, recreate
from r2keras._models.rebuild import copy_bidirectional, rebuild
from r2keras.compression.recurrent import QUANTIZED


def with_early_products(source: SourceModel) -> SourceModel:
    """Returns a model whose LSTM, GRU and SimpleRNN layers multiply their whole input by the kernel before the loop.

    Keras does so at every step. One product of many rows takes less time than many of one row, and the outputs are the
    same up to the order of additions.

    Args:
        source: the model; returned as it is if it has no such layer.
    """
    if source.is_tf_keras or not any(type(layer) in QUANTIZED for _, layer in source.recurrent):
        return source
    return read_model(rebuild(source.view, lambda path, layer: _early(layer)))


def _early(layer: keras.Layer) -> keras.Layer | None:
    """Returns the layer that replaces a Keras layer; None for any other."""
    if type(layer) is keras.layers.Bidirectional:
        forward, backward = (_early(half) for half in (layer.forward_layer, layer.backward_layer))
        return None if forward is None or backward is None else copy_bidirectional(layer, forward, backward)
    return recreate(layer, config_of(layer), QUANTIZED[type(layer)]) if type(layer) in QUANTIZED else None
