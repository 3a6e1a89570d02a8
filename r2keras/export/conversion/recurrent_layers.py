"""Checks of the recurrent layers in a model to export."""

from __future__ import annotations

from r2keras._models.either_keras import SourceModel
from r2keras._util.errors import invalid, invalid_part
from r2keras.record import CompressionRecord

# TensorFlow's converter does not support loops over an open batch axis.
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
            expected = (
                "GRU layers with reset_after=True if their recurrent kernel is compressed, which the converter splits"
            )
            received = f"the layer {path!r} with reset_after=False"
            fix = f"Train with reset_after=True, or leave {names[0]!r} out of the recipe"
            raise ValueError(invalid_part("model", expected, received, fix))


def check_recurrent(source: SourceModel, activations: str, record: CompressionRecord | None = None) -> None:
    """Raises ValueError for recurrent layers that are stateful, would compute on integers, or have a split kernel."""
    check_kernels(source, record)
    kernels = record.dynamic_kernels if isinstance(record, CompressionRecord) else ()
    in_float = [path for path, _ in source.recurrent if not any(name.startswith(f"{path}/") for name in kernels)]
    if in_float and activations == "int8":
        expected = f"'float', because {in_float[0]!r} is recurrent, and LiteRT has no loop of integer operators"
        fix = (
            "Weights keep their few bits, and states their grids; or give its rule activation_method='dynamic', with "
            "which its products round their input at run time"
        )
        raise ValueError(invalid("activations", expected, activations, fix))
    stateful = [path for path, layer in source.recurrent if layer.stateful]
    if stateful:
        expected = "layers with stateful=False, because a file keeps no state between calls"
        fix = "Export r2keras.export.streaming(model), which has states as inputs and outputs"
        raise ValueError(invalid_part("model", expected, f"the layer {stateful[0]!r}, which is stateful", fix))
