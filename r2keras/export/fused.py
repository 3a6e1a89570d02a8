"""LSTM layers of which TensorFlow's converter makes one operator each, UNIDIRECTIONAL_SEQUENCE_LSTM, and no loop."""

from __future__ import annotations

import uuid
from typing import Any

import keras

from r2keras import _model
from r2keras.export import packages
from r2keras.export.convert import inference
from r2keras.export.decode import kind_of
from r2keras.export.quiet import quiet
from r2keras.export.recurrent import BATCH, recurrent_layers

OPERATOR = "UNIDIRECTIONAL_SEQUENCE_LSTM"
FIX = "Pass recurrent='loop', which computes every recurrent layer"


class FusedLSTM(keras.layers.LSTM):
    """An LSTM whose time loop is a function that the converter knows by its attribute; it computes nothing itself."""

    refused = None

    def call(self, sequences, initial_state=None, mask=None, training=False):
        """Runs Keras' call around the function, and notes what the operator has no input for."""
        if mask is not None:
            self.refused = "it gets a mask"
        elif initial_state is not None:
            self.refused = "it gets its first state from another layer"
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """Calls the function in place of the time loop."""
        tf, cell = packages.tensorflow(), self.cell
        sequences = tf.reverse(sequences, [1]) if self.go_backwards else sequences
        # Passed as variables they would be captured, and the operator takes them as arguments.
        kernels = [tf.convert_to_tensor(variable.value) for variable in (cell.kernel, cell.recurrent_kernel)]
        bias = tf.convert_to_tensor(cell.bias.value) if cell.use_bias else tf.zeros(4 * self.units)
        last, outputs, *states, _ = _marked(self.return_sequences)(sequences, *initial_state, *kernels, bias)
        return last, outputs, states


def _marked(return_sequences: bool) -> Any:
    """Returns the function that becomes the operator: arguments and results are those that the converter expects."""
    tf = packages.tensorflow()

    def lstm(inputs, hidden, cell, kernel, recurrent_kernel, bias):
        # The converter throws the body away; only the shapes of what it returns count.
        steps = tf.shape(inputs)[1] if return_sequences else 1
        return hidden, tf.tile(hidden[:, None], [1, steps, 1]), hidden, cell, tf.constant(0.0)

    attributes: dict[str, str | bool] = {"api_implements": f"lstm_{uuid.uuid4()}", "api_preferred_device": "CPU"}
    attributes |= {"time_major": False, "go_backwards": False}
    return tf.function(lstm, autograph=False, experimental_attributes=attributes)


def fused(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, for the converter alone, whose LSTM layers become one operator each.

    Args:
        model: a built Functional or Sequential model; left untouched.

    Raises:
        ValueError: it has no LSTM, or a recurrent layer that is not what the operator computes: an LSTM of Keras with
            its usual activations, alone or in a `Bidirectional`, that starts at zero, gets no mask and hands on no
            states.
    """
    if not recurrent_layers(model):
        raise ValueError(f"The model {model.name!r} has no LSTM of Keras 3, as recurrent='fused' expects. {FIX}.")
    for path, layer in _model.leaf_layers(model):
        _refuse(path, _reason(layer))
    copy = _model.rebuild(model, lambda path, layer: _stand_in(layer), {"FusedLSTM": FusedLSTM})
    with quiet():
        inference(copy, packages.tensorflow(), BATCH)
    for path, layer in recurrent_layers(copy):
        _refuse(path, getattr(layer, "refused", None))
    return copy


def check_fused(file: Any, model: keras.Model) -> None:
    """Raises RuntimeError unless the converted file of a model of `fused` has the operators."""
    count = sum(kind_of(file, op) == OPERATOR for graph in file.subgraphs for op in graph.operators)
    if count < len(recurrent_layers(model)):
        raise RuntimeError(
            f"TensorFlow's converter made {count} operators {OPERATOR} of the {len(recurrent_layers(model))} LSTM "
            f"layers of {model.name!r}. {FIX}."
        )


def _refuse(path: str, reason: str | None) -> None:
    """Raises ValueError if there is a reason why a layer cannot be the operator."""
    if reason:
        raise ValueError(
            f"The recurrent layer {path!r} cannot be LiteRT's fused operator: {reason}. Expected LSTM layers, plain or "
            f"in a Bidirectional, unmasked, with tanh and sigmoid. {FIX}."
        )


def _reason(layer: keras.Layer) -> str | None:
    """Returns why a layer cannot be the operator, as far as the layer alone tells; None if it can or has no loop."""
    parts = [part for part in layer._flatten_layers() if isinstance(part, keras.layers.RNN)]
    if parts and type(layer) not in (keras.layers.Bidirectional, *map(type, parts)):
        return f"it lies inside a {type(layer).__name__}"
    return next(filter(None, map(_reason_of_part, parts)), None)


def _reason_of_part(part: keras.layers.RNN) -> str | None:
    """Returns why a recurrent layer cannot be the operator."""
    if isinstance(part, keras.layers.LSTM) and type(part) is not keras.layers.LSTM:
        return f"a {type(part).__name__} has steps of its own, with rounded states or normalised pre-activations"
    if type(part) is not keras.layers.LSTM:
        return f"it is a {type(part).__name__}"
    if part.activation is not keras.activations.tanh or part.recurrent_activation is not keras.activations.sigmoid:
        return "it has other activations than tanh and sigmoid"
    return "it returns its states" if part.return_state else None


def _stand_in(layer: keras.Layer) -> keras.Layer | None:
    """Returns the layer for the converter in the place of a recurrent one; None for other layers."""
    if isinstance(layer, keras.layers.Bidirectional):
        config = {name: value for name, value in layer.get_config().items() if name not in ("layer", "backward_layer")}
        forward, backward = map(_stand_in, (layer.forward_layer, layer.backward_layer))
        return keras.layers.Bidirectional(forward, backward_layer=backward, **config)
    return FusedLSTM.from_config(layer.get_config()) if isinstance(layer, keras.layers.LSTM) else None
