"""Fused LSTM operators: one UNIDIRECTIONAL_SEQUENCE_LSTM per LSTM layer instead of a loop."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

from r2keras._models import rebuild
from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.keras_internals import parts_of
from r2keras._util import optional_packages
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.native_log import quiet
from r2keras.export.conversion.converter import inference
from r2keras.export.conversion.recurrent_layers import BATCH
from r2keras.export.tflite.constant_values import kind_of

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

OPERATOR = "UNIDIRECTIONAL_SEQUENCE_LSTM"
FIX = "Pass recurrent='loop', which supports every recurrent layer"


class FusedLSTM(keras.layers.LSTM):
    """An LSTM for the converter alone: its time loop is a function with an attribute that the converter recognizes.

    Attributes:
        refused: the reason why the operator cannot compute a call of the layer; None if it can.
    """

    refused: str | None = None

    def call(self, sequences, initial_state=None, mask=None, training=False):
        """Runs Keras' call around the function; `refused` gets an argument that the operator does not support."""
        if mask is not None:
            self.refused = "it gets a mask"
        elif initial_state is not None:
            self.refused = "it gets its first state from another layer"
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """Calls the function instead of the time loop."""
        tf = optional_packages.tensorflow()
        cell = self.cell
        sequences = tf.reverse(sequences, [1]) if self.go_backwards else sequences
        # Variables would be captured, and the operator takes the kernels as arguments.
        kernels = [tf.convert_to_tensor(variable.value) for variable in (cell.kernel, cell.recurrent_kernel)]
        bias = tf.convert_to_tensor(cell.bias.value) if cell.use_bias else tf.zeros(4 * self.units)
        last, outputs, *states, _ = _marked(self.return_sequences)(sequences, *initial_state, *kernels, bias)
        return last, outputs, states


def _marked(return_sequences: bool) -> Callable:
    """Returns the function that becomes the operator, with the arguments and results that the converter expects."""
    tf = optional_packages.tensorflow()

    def lstm(inputs, hidden, cell, kernel, recurrent_kernel, bias):
        # The converter discards the body; only the shapes of the results matter.
        steps = tf.shape(inputs)[1] if return_sequences else 1
        return hidden, tf.tile(hidden[:, None], [1, steps, 1]), hidden, cell, tf.constant(0.0)

    attributes: dict[str, str | bool] = {
        "api_implements": f"lstm_{uuid.uuid4()}",
        "api_preferred_device": "CPU",
        "time_major": False,
        "go_backwards": False,
    }
    return tf.function(lstm, autograph=False, experimental_attributes=attributes)


def fused(source: SourceModel) -> SourceModel:
    """Returns a copy of a model, for the converter alone, whose LSTM layers become one operator each.

    Args:
        source: the model; it does not change.

    Raises:
        ValueError: it has no LSTM, or a recurrent layer that the operator does not compute. The operator computes an
            LSTM of Keras with its default activations, alone or in a `Bidirectional`, that starts at zero, gets no mask
            and returns no states.
    """
    if not source.recurrent:
        expected = f"'loop' for the model {source.name!r}, which has no LSTM of Keras 3"
        raise ValueError(invalid("recurrent", expected, "fused"))
    for path, layer in source.layers:
        _refuse(path, _reason(layer))
    copy = read_model(rebuild.rebuild(source.view, lambda path, layer: _stand_in(layer), {"FusedLSTM": FusedLSTM}))
    # Only a call shows whether a layer gets a mask or a first state.
    with quiet():
        inference(copy.model, BATCH)
    for path, layer in copy.recurrent:
        _refuse(path, getattr(layer, "refused", None))
    return copy


def check_fused(file: ModelT, source: SourceModel) -> None:
    """Raises RuntimeError unless the converted file has one operator for each LSTM of the model."""
    count = sum(kind_of(file, op) == OPERATOR for graph in file.subgraphs for op in graph.operators)
    if count < len(source.recurrent):
        raise RuntimeError(
            f"TensorFlow's converter created {count} operators {OPERATOR} for the {len(source.recurrent)} LSTM "
            f"layers of {source.name!r}. Expected one per layer. {FIX}."
        )


def _refuse(path: str, reason: str | None) -> None:
    """Raises ValueError with the reason why a layer cannot become the operator, unless that is None."""
    if reason:
        expected = (
            "'loop', or a model of LSTM layers, plain or in a Bidirectional, without masks, with tanh and sigmoid"
        )
        received = f"recurrent='fused' for the layer {path!r}, which cannot be LiteRT's fused operator: {reason}"
        raise ValueError(invalid_part("recurrent", expected, received, FIX))


def _reason(layer: keras.Layer) -> str | None:
    """Returns the reason in a layer's config why it cannot become the operator; None without a reason."""
    parts = [part for part in parts_of(layer) if isinstance(part, keras.layers.RNN)]
    if parts and type(layer) not in (keras.layers.Bidirectional, *map(type, parts)):
        return f"it lies inside a {type(layer).__name__}"
    reasons = [_reason_of_part(part) for part in parts]
    return next((reason for reason in reasons if reason), None)


def _reason_of_part(part: keras.layers.RNN) -> str | None:
    """Returns the reason why a recurrent layer cannot become the operator; None if it can."""
    if isinstance(part, keras.layers.LSTM) and type(part) is not keras.layers.LSTM:
        return f"a {type(part).__name__} has its own steps, with rounded states or normalized pre-activations"
    if type(part) is not keras.layers.LSTM:
        return f"it is a {type(part).__name__}"
    if part.activation is not keras.activations.tanh or part.recurrent_activation is not keras.activations.sigmoid:
        return "it has other activations than tanh and sigmoid"
    return "it returns its states" if part.return_state else None


def _stand_in(layer: keras.Layer) -> keras.Layer | None:
    """Returns the layer that replaces a recurrent one for the converter; None for other layers."""
    if isinstance(layer, keras.layers.Bidirectional):
        return rebuild.copy_bidirectional(layer, *map(_stand_in, (layer.forward_layer, layer.backward_layer)))
    return FusedLSTM.from_config(layer.get_config()) if isinstance(layer, keras.layers.LSTM) else None
