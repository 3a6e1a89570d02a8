"""Checks of the recurrent layers in a model to export."""

from __future__ import annotations

from r2keras._models.either_keras import SourceModel
from r2keras.record import CompressionRecord

# TensorFlow's converter makes no loop over an open batch axis.
BATCH = 1
SPLIT_KERNEL = "recurrent_kernel"


def check_kernels(source: SourceModel, record: CompressionRecord | None) -> None:
    """Raises ValueError for a compressed kernel that the converter splits: that of a GRU with `reset_after=False`."""
    for path, layer in source.recurrent:
        if record is None or getattr(layer, "reset_after", True):
            continue
        split = [kernel.full_name for kernel in source.view.kernels_in(path) if kernel.variable.name == SPLIT_KERNEL]
        names = [name for name in split if name in record.tensors]
        if names:
            raise ValueError(
                f"The layer {path!r} has reset_after=False, and TensorFlow's converter splits its recurrent kernel. "
                "Expected reset_after=True, Keras' default, for a compressed recurrent kernel. Train with "
                f"reset_after=True, or leave {names[0]!r} out of the recipe."
            )


def check_recurrent(source: SourceModel, activations: str, record: CompressionRecord | None = None) -> None:
    """Raises ValueError for recurrent layers that are stateful, would compute on integers, or have a split kernel."""
    check_kernels(source, record)
    if source.recurrent and activations == "int8":
        raise ValueError(
            f"The layer {source.recurrent[0][0]!r} is recurrent, and LiteRT has no loop of integer operators. Expected "
            "activations='float' for models with recurrent layers: weights keep their few bits, states their grids."
        )
    stateful = [path for path, layer in source.recurrent if layer.stateful]
    if stateful:
        raise ValueError(
            f"The layer {stateful[0]!r} is stateful, and a file keeps no state between calls. Expected layers with "
            "stateful=False. Export r2keras.export.streaming(model), which takes states and returns them."
        )
