"""A Keras model as a float `.tflite`, through TensorFlow's converter."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras

from r2keras._tf_keras import is_a, is_tf_keras, without_fusion
from r2keras.export import packages
from r2keras.export.apart import convert_apart
from r2keras.export.flatbuffer import parse
from r2keras.export.quiet import quiet
from r2keras.export.recurrent import BATCH, recurrent_layers

SIGNATURE = "serving_default"


def convert(model: keras.Model, batch_size: int | None = None) -> Any:
    """Returns the float file of a model, as the schema's `ModelT`.

    Batch normalizations are folded by the converter. Inputs keep their Keras names and order; outputs are called
    `output_0`, `output_1`, ... in the order of `model.outputs`, in the signature `serving_default`.

    A model with recurrent layers is converted in a process of its own, where the converter may crash.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend.
        batch_size: samples that the file takes at once where the model's inputs leave it open; None: any number, and
            one where the model has recurrent layers, whose loops have no open batch.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed.
        RuntimeError: the converter does not know an operation of the model.
    """
    data = _converted(model, packages.tensorflow(), batch_size)
    file = parse(data, f"the converted model {model.name!r}")
    _restore_names(file, [tensor.name for tensor in model.inputs])
    return file


def _converted(model: keras.Model, tf: Any, batch_size: int | None) -> bytes:
    """Runs the converter, its log off the screen."""
    try:
        with quiet():
            holder = tf.Module()
            # The converter finds only variables that this object tracks; Keras 3 variables are not, by themselves.
            holder.tracked = [v if is_tf_keras(model) else v.value for v in model.variables]
            with without_fusion(model):
                if recurrent_layers(model):
                    return _loops_converted(inference(model, tf, batch_size or BATCH), holder, tf)
                function = inference(model, tf, batch_size)
            return tf.lite.TFLiteConverter.from_concrete_functions([function], holder).convert()
    except Exception as error:
        raise RuntimeError(
            f"TensorFlow's converter could not turn the model {model.name!r} into LiteRT: {_reason(error)}. "
            "Replace the layer that needs this operation."
        ) from error


def _loops_converted(function: Any, holder: Any, tf: Any) -> bytes:
    """Runs the converter in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(holder, f"{folder}/model", signatures={SIGNATURE: function})
        return convert_apart(Path(folder), SIGNATURE)


def _reason(error: Exception) -> str:
    """Returns what a failed conversion comes down to: the operations that LiteRT does not have, if it names them."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    missing = [line.partition(": ")[2] for line in lines if line.startswith(("Custom ops: ", "TF Select ops: "))]
    return f"it does not have {', '.join(missing)}" if missing else lines[0][:200].rstrip(".")


def inference(model: keras.Model, tf: Any, batch_size: int | None) -> Any:
    """Returns the model's call in inference mode as a concrete function with plain argument names."""
    structure = model.inputs[0] if is_a(model, "Sequential") else model.input

    def pack(tensors):
        return keras.tree.pack_sequence_as(structure, tensors) if keras.tree.is_nested(structure) else tensors[0]

    def call(*tensors):
        outputs = model(pack(tensors), training=False)
        return {_key("out", k): tensor for k, tensor in enumerate(keras.tree.flatten(outputs))}

    # Keras names are no safe argument names ("in" is a Python keyword), so they are put back afterwards.
    specs = [
        tf.TensorSpec((t.shape[0] or batch_size, *t.shape[1:]), t.dtype, name=_key("in", k))
        for k, t in enumerate(model.inputs)
    ]
    return tf.function(call, autograph=False).get_concrete_function(*specs)


def _key(kind: str, number: int) -> str:
    """Returns a name that sorts by number."""
    return f"{kind}_{number:04d}"


def _restore_names(file: Any, input_names: list[str]) -> None:
    """Puts inputs and outputs in Keras' order, in the subgraph and the signature, under their names."""
    signature, graph = file.signatureDefs[0], file.subgraphs[0]
    signature.signatureKey = SIGNATURE
    for ends, names in ((signature.inputs, input_names), (signature.outputs, None)):
        ends.sort(key=lambda end: bytes(end.name))
        for number, end in enumerate(ends):
            end.name = f"output_{number}" if names is None else names[int(bytes(end.name)[-4:])]
            graph.tensors[end.tensorIndex].name = end.name
    graph.inputs = [end.tensorIndex for end in signature.inputs]
    graph.outputs = [end.tensorIndex for end in signature.outputs]
