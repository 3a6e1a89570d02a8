"""TensorFlow's converter from Keras models to float `.tflite` files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models.either_keras import SourceModel
from r2keras._models.tf_keras_layers import is_a, without_fusion
from r2keras._util import optional_packages
from r2keras._util.native_log import quiet
from r2keras.export.conversion.blame import missing_operations, remedy
from r2keras.export.conversion.isolated_process import convert_apart
from r2keras.export.conversion.recurrent_layers import BATCH
from r2keras.export.tflite.schema import FLOAT32
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, subgraphs

if TYPE_CHECKING:
    import tensorflow as tf
    from ai_edge_litert.schema_py_generated import ModelT
    from tensorflow.types.experimental import ConcreteFunction

    from r2keras._models.either_keras import Model

FULL = "No space left on device"
SIGNATURE = "serving_default"
# TensorFlow passes constants on in a protocol buffer, which holds 2 GiB; half of that leaves room for the graph.
MAX_CONSTANT_BYTES = 2**30
# Endings of the types of operators with branches or a body. There a captured constant is an input, and no longer a
# constant, while the converter freezes a captured variable. Calls of other functions are inlined.
CONTROL_FLOW = ("If", "While", "Case")


class _NeedsVariablesError(Exception):
    """The call of a model assigns to its variables."""


def convert(source: SourceModel, batch_size: int | None = None) -> ModelT:
    """Returns the float file of a model.

    The converter folds batch normalizations. Inputs keep their Keras names and order; outputs are called `output_0`,
    `output_1`, ... in the order of `model.outputs`, in the signature `serving_default`.

    A model with recurrent layers is converted in a separate process, because the converter may crash on loops.

    Args:
        source: the model, on the TensorFlow backend.
        batch_size: the file's batch size where the model's inputs leave it open. None keeps it open, or takes 1 if the
            model has recurrent layers, whose loops cannot have an open batch.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed.
        OSError: the disk of temporary files is full.
        RuntimeError: the converter does not support an operation of the model.
    """
    content = _converted(source, batch_size)
    # Not checked as files of unknown origin are: the converter puts codes into products of floats where it has drawn a
    # DEQUANTIZE into them. The integer export replaces those, and reads back and checks what it writes.
    schema = optional_packages.schema()
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    _restore_names(file, [tensor.name for tensor in source.model.inputs])
    for graph in subgraphs(file):
        _complete_biases(graph)
    return file


def _converted(source: SourceModel, batch_size: int | None) -> bytes:
    """Runs the converter with its log silenced."""
    optional_packages.require_tensorflow()
    try:
        with quiet():
            if source.recurrent:
                return _converted_apart(source, batch_size or BATCH)
            return _converted_here(source, batch_size)
    except Exception as error:
        if FULL in str(error):
            raise OSError(
                f"{FULL}: the converter writes to {tempfile.gettempdir()}. Free some, or set TMPDIR."
            ) from error
        raise RuntimeError(
            f"TensorFlow's converter could not convert the model {source.name!r}: {_reason(error)}. Expected "
            f"operations that LiteRT has. {remedy(source, str(error), lambda: inference(source.model, batch_size))}."
        ) from error


def _converted_here(source: SourceModel, batch_size: int | None) -> bytes:
    """Runs the converter in this process."""
    lite = optional_packages.tensorflow().lite
    frozen = None if source.is_tf_keras else _frozen_inference(source.model, batch_size)
    if frozen is not None:
        return lite.TFLiteConverter.from_concrete_functions([frozen], _holder([])).convert()
    with without_fusion(source.model):
        function = inference(source.model, batch_size)
        return lite.TFLiteConverter.from_concrete_functions([function], _holder(_tf_variables(source))).convert()


def _converted_apart(source: SourceModel, batch_size: int) -> bytes:
    """Runs the converter in a separate process."""
    function = inference(source.model, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        save = optional_packages.tensorflow().saved_model.save
        save(_holder(_tf_variables(source)), f"{folder}/model", signatures={SIGNATURE: function})
        return convert_apart(Path(folder), SIGNATURE)


def _holder(variables: list[tf.Variable]) -> tf.Module:
    """Returns an object that tracks variables; the converter loses the values of all others."""
    holder = optional_packages.tensorflow().Module()
    holder.tracked = variables
    return holder


def _tf_variables(source: SourceModel) -> list[tf.Variable]:
    """Returns TensorFlow's variables of a model; those of Keras 3 wrap them."""
    variables = source.model.variables
    return list(variables) if source.is_tf_keras else [variable.value for variable in variables]


def _reason(error: Exception) -> str:
    """Returns the reason of a failed conversion: the operations that LiteRT lacks, or the error's first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    missing = missing_operations(str(error))
    return f"LiteRT does not have {', '.join(missing)}" if missing else lines[0][:200].rstrip(".")


def inference(
    model: Model, batch_size: int | None, scope: contextlib.AbstractContextManager[None] | None = None
) -> ConcreteFunction:
    """Returns the model's call in inference mode as a concrete function with plain argument names.

    Args:
        model: a built Functional or Sequential model.
        batch_size: the batch size where the model's inputs leave it open; None keeps it open.
        scope: entered while the call is traced.
    """
    tf = optional_packages.tensorflow()
    structure = model.inputs[0] if is_a(model, "Sequential") else model.input

    def pack(tensors):
        return keras.tree.pack_sequence_as(structure, tensors) if keras.tree.is_nested(structure) else tensors[0]

    def call(*tensors):
        with scope or contextlib.nullcontext():
            outputs = model(pack(tensors), training=False)
        return {_key("out", number): tensor for number, tensor in enumerate(keras.tree.flatten(outputs))}

    # Keras names are not always valid argument names ("in" is a Python keyword), so they are restored afterwards.
    specs = [
        tf.TensorSpec((tensor.shape[0] or batch_size, *tensor.shape[1:]), tensor.dtype, name=_key("in", number))
        for number, tensor in enumerate(model.inputs)
    ]
    return tf.function(call, autograph=False).get_concrete_function(*specs)


def _frozen_inference(model: keras.Model, batch_size: int | None) -> ConcreteFunction | None:
    """Returns `inference` with constants in place of all variables; None for a model that cannot be traced like this.

    The file has the same operators and constants. But the converter saves its input and loads it again, with operators
    of their own for every variable: for MobileNetV2 that takes longer than everything else.
    """
    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    if sum(value.nbytes for _, value in values) > MAX_CONSTANT_BYTES:
        return None
    try:
        function = inference(model, batch_size, _constants(values))
    except (_NeedsVariablesError, AttributeError, TypeError, ValueError):
        # A layer assigns to a variable, or uses an attribute that tensors lack. After any other failure, the second
        # trace, with variables, raises the error for the caller.
        return None
    return None if function.graph.variables or _has_control_flow(function) else function


def _has_control_flow(function: ConcreteFunction) -> bool:
    """Whether a function, or one that it calls, has branches or loops."""
    graph = function.graph.as_graph_def()
    bodies = [graph.node, *(called.node_def for called in graph.library.function)]
    return any(node.op.endswith(CONTROL_FLOW) for body in bodies for node in body)


@contextlib.contextmanager
def _constants(values: list[tuple[keras.Variable, np.ndarray]]) -> Iterator[None]:
    """Makes variables read as constants while the block runs; raises _NeedsVariablesError if it assigns to one."""
    tf = optional_packages.tensorflow()
    constants = [(variable, tf.constant(value)) for variable, value in values]
    with keras.StatelessScope(constants, initialize_variables=False) as scope:
        before = [scope.get_current_value(variable) for variable, _ in values]
        yield
        after = [scope.get_current_value(variable) for variable, _ in values]
    if any(new is not old for old, new in zip(before, after, strict=True)):
        raise _NeedsVariablesError


def _key(kind: str, number: int) -> str:
    """Returns a name that sorts by number."""
    return f"{kind}_{number:04d}"


def _complete_biases(graph: Subgraph) -> None:
    """Gives TRANSPOSE_CONV one bias per channel where the converter made an added number its bias."""
    for op in list(graph.operators):
        inputs = inputs_of(op)
        if graph.kind(op) != "TRANSPOSE_CONV" or len(inputs) < 4 or inputs[3] < 0:
            continue
        channels = graph.shape(inputs[1])[:1]
        if graph.is_constant(inputs[3]) and graph.shape(inputs[3]) != channels:
            bias = np.broadcast_to(graph.data(inputs[3]).view(np.float32), channels)
            graph.set_inputs(op, [*inputs[:3], graph.add_tensor(channels, FLOAT32, bias)])


def _restore_names(file: ModelT, input_names: list[str]) -> None:
    """Gives inputs and outputs Keras' order and names, in the subgraph and the signature."""
    signature = file.signatureDefs[0]
    graph = file.subgraphs[0]
    signature.signatureKey = SIGNATURE
    for ends, names in ((signature.inputs, input_names), (signature.outputs, None)):
        ends.sort(key=lambda end: bytes(end.name))
        for number, end in enumerate(ends):
            end.name = f"output_{number}" if names is None else names[int(bytes(end.name)[-4:])]
            graph.tensors[end.tensorIndex].name = end.name
    graph.inputs = [end.tensorIndex for end in signature.inputs]
    graph.outputs = [end.tensorIndex for end in signature.outputs]
