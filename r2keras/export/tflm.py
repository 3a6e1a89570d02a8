"""Export to LiteRT for Microcontrollers: weights as look-up tables of 1 to 7 bits."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any

import keras
import numpy as np

from r2keras._files import atomic_write_bytes
from r2keras._model import leaf_layers
from r2keras.export import packages
from r2keras.export.assign import Place
from r2keras.export.builder import write
from r2keras.export.check import TOLERANCE, broken, check_backend, check_model, check_record, kernel_shapes
from r2keras.export.convert import convert
from r2keras.export.decode import kind_of
from r2keras.export.fill import Where, places_of
from r2keras.export.flatbuffer import SEPARATOR, constants, parse, values_of
from r2keras.export.match import SMALLEST
from r2keras.export.prune import prune
from r2keras.export.recurrent import check_kernels
from r2keras.export.sizes import FileSizes, measure, measure_float
from r2keras.export.slim import slim
from r2keras.export.tflm_forms import SMALLER, Form, smallest
from r2keras.export.tflm_loops import check_sizes, spell_out_updates
from r2keras.export.tflm_read import MARK, STAYS_FLOAT, stored_form
from r2keras.export.tflm_rewrite import TAKES_COMPUTED, channel_axis, consumers, rewrite, spell_out_select
from r2keras.export.tflm_runtime import find_arena
from r2keras.record import CompressionRecord


@dataclasses.dataclass(frozen=True)
class TFLMSizes(FileSizes):
    """Sizes of a file for microcontrollers, in bytes.

    Args:
        tensors: one row a compressed weight; `container_bits` and `note` say what is stored.
        float_bytes: 4 times all values of the Keras model, biases and statistics included.
        file_bytes: the file, which lies in the device's flash.
        gzip_bytes: the file after gzip.
        arena_bytes: the memory that the interpreter needs to run it (`tflm_arena`); None if the file was not tried.

    Example:

    >>> TFLMSizes((), 2600, 1400, 900, 4096).arena_bytes
    4096
    """

    arena_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        return {**super().to_dict(), "arena_bytes": self.arena_bytes}


@dataclasses.dataclass(eq=False)
class _Written:
    """One constant of the file: where it is, what it held, whose weights, and the form stored instead or why none."""

    subgraph: int
    tensor: int
    constant: np.ndarray
    name: str
    form: Form | None
    reason: str
    named: list[int]


def to_tflm(
    model: keras.Model,
    path: str | os.PathLike,
    record: CompressionRecord | None = None,
    *,
    check: bool = True,
) -> TFLMSizes:
    """Writes a model as a `.tflite` file for microcontrollers, its recorded weights as look-up tables of 1 to 7 bits.

    The model is converted to float, for one sample at a time. Each recorded weight's constant is replaced by packed
    indices and a table of the values that occur, up to 128 of them, which a DECODE operator looks up directly in front
    of the operator that uses the weight: memory holds the floats of one operator's weights at a time. Activations stay
    float. Outputs differ from Keras' by float rounding only. A weight takes the form that takes the fewest bytes:

    - one table, where the constant has few values (a scale a tensor, no batch normalization);
    - one table, and a factor a channel behind the operator (`act(m * conv(x, table[i]) + bias)`), where scales of
      channels or a folded batch normalization make its values many;
    - a table for each channel, where that is smaller: few channels, 1 or 2 bits;
    - 8-bit integers on one grid, with such factors: uniform grids of 8 bits (16-bit ones for mid-rise grids).

    Uniform grids are tables of their levels. Vector palettes (`dim` above 1) are written out value by value: of
    `2^b` rows of `dim` values, an index takes up to `b + log2(dim)` bits. A weight that takes less as floats (a few
    hundred values) stays float, and the row's note says so. One of more than 128 different values that are on no grid
    (a palette of 8 bits), or of an operator that has no place for tables, stays float too, with a warning.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend, with the values of `record`.
        path: the file to write, whole or not at all.
        record: what `finalize` or `calibrate` returned with the model; None writes a float file.
        check: whether the file is loaded by LiteRT for Microcontrollers before it is written: that finds operators that
            it does not have, and the memory that it needs. Needs tflite-micro, which exists for Linux (x86-64); False
            writes the file anywhere, untried.

    Returns:
        The sizes of the file and of each weight in it, and the memory that it needs.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed; with `check`: tflite-micro is not.
        RuntimeError: Keras runs on another backend, TensorFlow's converter refuses the model, or the process that looks
            for the least memory failed.
        TypeError: a subclassed model.
        ValueError: the model is not built, still wrapped for training, has a batch size other than 1, computes in half
            precision, or has NaN or infinite weights; the record does not belong to it; a recorded weight is not in the
            converted file; with `check`: microcontrollers have no such operator.
        OSError: the file cannot be written.

    Warns:
        UserWarning: recorded weights that have to stay float, and why.

    Example:

    >>> import tempfile
    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.PaletteSpec(num_bits=3, min_size=0))])
    >>> small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    >>> found = to_tflm(small, os.path.join(tempfile.mkdtemp(), "mcu.tflite"), record)
    >>> found.tensors[0].note
    '3-bit indices into a table of 8'

    Source: Cho et al., DKM, arXiv 2108.12659, section 3 (palettes).
    """
    _check(model, record, check)
    file, written = convert(model, 1), []
    spell_out_select(file)
    spell_out_updates(file)
    check_sizes(file, model.name)
    if record is not None:
        where = list(constants(file))
        written = [_put(file, where[place.constant], place, record) for place in places_of(where, record)]
    content, file = _finished(file, written)
    arena_bytes = arena_of(content, f"the model {model.name!r}") if check else None
    found = _measured(model, record, file, content, {item.name: item.reason for item in written if item.reason})
    atomic_write_bytes(path, content)
    _warn(written)
    return TFLMSizes(**vars(found), arena_bytes=arena_bytes)


def _check(model: keras.Model, record: CompressionRecord | None, check: bool) -> None:
    """Raises for what cannot be exported, before any work."""
    check_backend()
    check_model(model)
    packages.schema()
    if check:
        packages.microcontrollers()
    batches = {tensor.shape[0] for tensor in model.inputs} - {None, 1}
    if batches:
        raise ValueError(
            f"The model {model.name!r} takes {min(batches)} samples at once. Expected one, or an open number, for "
            "microcontrollers. Build it again without a batch size and copy the weights with set_weights."
        )
    if record is not None:
        check_record(model, record)
        check_kernels(model, record)


def _put(file: Any, where: Where, place: Place, record: CompressionRecord) -> _Written:
    """Stores one weight in the place of its constant, or names the constant that stays."""
    subgraph, tensor, constant = where
    graph, name, constant = file.subgraphs[subgraph], SEPARATOR.join(place.matches), constant.copy()
    strangers = {kind_of(file, op) for op in consumers(graph, tensor)} - TAKES_COMPUTED
    form, reason = None, f"{', '.join(sorted(strangers))} takes constants only"
    if not strangers:
        owner, axis = record.tensors[place.owner], channel_axis(file, graph, tensor)
        form, reason = smallest(owner, place.matches[place.owner], constant, axis)
    if form is None:
        graph.tensors[tensor].name = name
        return _Written(subgraph, tensor, constant, name, None, reason, [tensor])
    return _Written(subgraph, tensor, constant, name, form, "", rewrite(file, subgraph, tensor, form, name))


def _finished(file: Any, written: list[_Written]) -> tuple[bytes, Any]:
    """Returns the file's bytes and what was read back from them, every weight compared."""
    moved = prune(file)
    for item in written:
        if item.subgraph == 0:
            item.tensor, item.named = moved[item.tensor], [moved[i] for i in item.named]
    slim(file, {(item.subgraph, tensor) for item in written for tensor in item.named})
    file.description = MARK
    content = write(file)
    file = parse(content)
    for item in written:
        _compare(file, item)
    return content, file


def _compare(file: Any, item: _Written) -> None:
    """Raises RuntimeError unless the file holds what was to be stored, and it gives the float constant."""
    graph = file.subgraphs[item.subgraph]
    if item.form is None:
        values = values_of(file, graph.tensors[item.tensor])
    else:
        store = stored_form(file, graph, item.tensor)
        values = store.values()
        if not np.array_equal(values, item.form.store.values()):
            raise broken(item.name, "the stored values differ")
        if item.form.factor is not None:
            along = np.ones(values.ndim, int)
            along[item.form.axis] = -1
            values = values * values_of(file, graph.tensors[item.named[-1]]).reshape(along)
    off = np.abs(values - item.constant)
    if not np.all(off <= TOLERANCE * np.abs(item.constant) + SMALLEST):
        raise broken(item.name, f"a value is off by {off.max():.3g}")


def _measured(
    model: keras.Model, record: CompressionRecord | None, file: Any, content: bytes, reasons: dict[str, str]
) -> FileSizes:
    """Returns the file's sizes; rows of weights that stay float say why."""
    if record is None:
        num_values = sum(int(np.prod(v.shape)) for _, layer in leaf_layers(model) for v in layer.weights)
        return measure_float(kernel_shapes(model), num_values, content)
    found = measure(record, file, content, "the file")
    why = {one: reason for names, reason in reasons.items() for one in names.split(SEPARATOR)}
    rows = [
        dataclasses.replace(row, note=f"{row.note}: {why[row.name]}") if row.note == STAYS_FLOAT else row
        for row in found.tensors
    ]
    return dataclasses.replace(found, tensors=tuple(rows))


def _warn(written: list[_Written]) -> None:
    """Warns of weights that stay float but would be smaller otherwise."""
    kept = [f"{item.name!r} ({item.reason})" for item in written if item.reason not in ("", SMALLER)]
    if kept:
        warnings.warn(f"{len(kept)} of {len(written)} recorded weights stay float: {'; '.join(kept)}.", stacklevel=3)
