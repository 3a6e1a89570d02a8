"""Takes everything out of a file that no runtime reads, and gives inputs and outputs their Keras names."""

from __future__ import annotations

from typing import Any

from r2keras.export.flatbuffer import buffer_of

UNREAD_METADATA = (b"min_runtime_version", b"CONVERSION_METADATA")


def slim(model: Any, named: set[tuple[int, int]]) -> None:
    """Drops names of tensors between operators, empty fields, the converter's metadata, unused and double buffers.

    Kept: signatures, names of inputs and outputs, operators, all values.

    Args:
        model: the schema's `ModelT`, edited in place.
        named: `(subgraph, tensor)` of the tensors that keep their names besides inputs and outputs.
    """
    model.description = None
    model.metadataBuffer = None
    model.metadata = [m for m in model.metadata or [] if m.name not in UNREAD_METADATA] or None
    for g, graph in enumerate(model.subgraphs):
        ends = {int(i) for i in (*graph.inputs, *graph.outputs)} if g == 0 else set()
        for i, tensor in enumerate(graph.tensors):
            _slim_tensor(tensor, is_end=i in ends, is_named=(g, i) in named, in_loop=g > 0)
        for operator in graph.operators:
            _slim_operator(operator)
    _merge_buffers(model)


def _slim_tensor(tensor: Any, is_end: bool, is_named: bool, in_loop: bool) -> None:
    """Empties the fields of a tensor that nothing reads."""
    if not (is_end or is_named):
        tensor.name = None
    if not (is_end or in_loop):
        # Only inputs are resized by callers; what lies between follows from the operators. Not so in the body of a
        # loop: LiteRT checks the shapes of its operators before it knows those that the step's number decides.
        tensor.shapeSignature = None
    if tensor.quantization is not None and tensor.quantization.scale is None:
        tensor.quantization = None


def _slim_operator(operator: Any) -> None:
    """Drops empty lists of an operator."""
    for field in ("intermediates", "mutatingVariableInputs", "customOptions"):
        value = getattr(operator, field)
        if value is not None and len(value) == 0:
            setattr(operator, field, None)


def _merge_buffers(model: Any) -> None:
    """Keeps one buffer for each different content, and none that nothing uses."""
    users = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    kept, place = [model.buffers[0]], {b"": 0}
    model.buffers[0].data = None
    for user in users:
        key = buffer_of(model, user).tobytes()
        if key not in place:
            place[key] = len(kept)
            kept.append(model.buffers[user.buffer])
        user.buffer = place[key]
    model.buffers = kept
