"""The layers of a model that operations which LiteRT lacks belong to, for the message of a failed conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from r2keras._models.either_keras import SourceModel

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.types.experimental import ConcreteFunction

# How Keras introduces an error that a layer raises while it is traced.
IN_LAYER = re.compile(r"Exception encountered when calling (\w+)\.call\(\)")
# The first two operands of an operation in the converter's error: `tf.Conv2D(tensor<?x?xf32>, tensor<3x4xf32>)`.
OPERANDS = re.compile(r"tf\.(\w+)\(tensor<([\dx?]+)x\w+>, tensor<([\dx?]+)x\w+>\)")
# Operations after which the converter knows no size if their second input is not a constant.
RESHAPES = ("Reshape", "BroadcastTo", "Tile")
# TensorFlow appends a count to a name that is in use.
COUNT = re.compile(r"_\d+$")
MAX_NAMES = 3


def missing_operations(text: str) -> list[str]:
    """Returns the operations that the converter reports as not supported, by their types in TensorFlow.

    >>> missing_operations("TF Select ops: Conv2D, Erfinv")
    ['Conv2D', 'Erfinv']
    """
    lists = [line.partition(": ")[2] for line in text.splitlines() if line.startswith(("Custom ops: ", "TF Select op"))]
    return [name for names in lists for name in names.split(", ")]


def remedy(source: SourceModel, text: str, trace: Callable[[], ConcreteFunction]) -> str:
    """Returns what to change in a model that could not be converted.

    Args:
        source: the model.
        text: the converter's error.
        trace: returns the model's call as a function of TensorFlow.
    """
    raising = IN_LAYER.search(text)
    if raising is not None:
        return _replace(path for path, layer in source.layers if type(layer).__name__ == raising[1])
    missing = missing_operations(text)
    if not missing:
        return _replace([])
    operations = [operation for operation in trace().graph.get_operations() if operation.type in missing]
    lost = {(match[1], match[3]) for match in OPERANDS.finditer(text) if match[2].endswith("?")}
    causes = [_reshaped(operation) for operation in operations if (operation.type, _filter(operation)) in lost]
    paths = _owners(source, [cause for cause in causes if cause is not None])
    if paths:
        # LiteRT has the operation, but not for an unknown number of channels.
        fix = "Give the model's inputs fixed sizes, or replace that layer"
        return f"The converter loses the number of channels in {_named(paths)}. {fix}"
    return _replace(_owners(source, operations))


def _replace(paths: Iterable[str]) -> str:
    """Returns the advice to replace layers, or whatever needs the operation if no layer is known."""
    names = list(dict.fromkeys(paths))
    return f"Replace {_named(names)}" if names else "Replace the layer that needs this operation"


def _named(paths: list[str]) -> str:
    """Returns layers in words."""
    rest = f" and {len(paths) - MAX_NAMES} more" if len(paths) > MAX_NAMES else ""
    return f"the layer{'s' if len(paths) > 1 else ''} {', '.join(map(repr, paths[:MAX_NAMES]))}{rest}"


def _filter(operation: tf.Operation) -> str:
    """Returns the shape of an operation's second input, as the converter writes it: `"3x3x4x2"`."""
    shape = operation.inputs[1].shape if len(operation.inputs) > 1 else None
    return "" if shape is None or shape.rank is None else "x".join("?" if n is None else str(n) for n in shape)


def _reshaped(operation: tf.Operation) -> tf.Operation | None:
    """Returns the last operation before another that reshapes to sizes known at run time only; None without one."""
    while len(operation.inputs):
        operation = operation.inputs[0].op
        if operation.type in RESHAPES and operation.inputs[1].op.type != "Const":
            return operation
    return None


def _owners(source: SourceModel, operations: Iterable[tf.Operation]) -> list[str]:
    """Returns the paths of the layers that operations belong to."""
    paths = [path for path, _ in source.layers]
    owners: dict[str, None] = {}
    for operation in operations:
        owner = max(paths, key=lambda path: _match(path, operation.name))
        if _match(owner, operation.name) > (0, 0):
            owners[owner] = None
    return list(owners)


def _match(path: str, name: str) -> tuple[int, int]:
    """Returns how well the name of an operation fits a layer: parts that agree, and those that agree without a count.

    >>> _match("block/up", "net/block/up_1/Reshape"), _match("up", "net/conv/add")
    ((2, 1), (0, 0))
    """
    parts, scopes = path.split("/"), name.split("/")[:-1]
    best = (0, 0)
    for start in range(len(scopes) - len(parts) + 1):
        pairs = list(zip(parts, scopes[start:], strict=False))
        if all(part in (scope, COUNT.sub("", scope)) for part, scope in pairs):
            best = max(best, (len(parts), sum(part == scope for part, scope in pairs)))
    return best
