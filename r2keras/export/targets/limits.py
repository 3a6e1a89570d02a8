"""Models and records that a target cannot run."""

from __future__ import annotations

from r2keras._models.either_keras import SourceModel
from r2keras._util.errors import invalid_part
from r2keras.record import CompressionRecord, PalettizedTensor
from r2keras.specs.targets import TARGETS


def batch_of(source: SourceModel, target: str, batch_size: int | None, default: int | None) -> int | None:
    """Returns the samples per run: the caller's, or the model's own, or the target's default.

    Args:
        source: the model.
        target: a key of `TARGETS`.
        batch_size: what the caller asked for; None if nothing.
        default: the target's.

    Raises:
        ValueError: the model has another batch size of its own than the caller or the target wants, or several.
    """
    own = {tensor.shape[0] for tensor in source.model.inputs} - {None}
    wanted = 1 if TARGETS[target].one_sample else batch_size
    if len(own) > 1 or (own and wanted is not None and own != {wanted}):
        sizes = " and ".join(map(str, sorted(own)))
        received = f"the model {source.name!r}, whose inputs take {sizes} samples per run"
        fix = "Build it without a batch size, and copy the weights with set_weights"
        expected = "a model with one batch size" if wanted is None else f"a model with an open batch size or {wanted}"
        raise ValueError(invalid_part("model", expected, received, fix))
    return own.pop() if own else default


def check_palettes(record: CompressionRecord, optimize: str, target: str) -> None:
    """Raises ValueError for palettes of floats where the target takes 8-bit codes only."""
    palettes = [tensor for tensor in record.tensors.values() if isinstance(tensor, PalettizedTensor)]
    floats = [tensor.name for tensor in palettes if tensor.spec.table_dtype != "int8"]
    on_mcu = target == "mcu"
    if floats and (on_mcu or (optimize == "latency" and TARGETS[target].optimize == ("latency",))):
        expected = f"palettes with int8 tables for target={target!r}"
        fix = "Train or calibrate with PaletteSpec(table_dtype='int8')"
        fix += ", or write look-up tables: to_tflm(model, path, record)" if on_mcu else ""
        raise ValueError(invalid_part("record", expected, f"float tables of {', '.join(floats)}", fix))
