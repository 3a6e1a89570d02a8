"""Export to LiteRT for Microcontrollers: weights as look-up tables of 1 to 7 bits."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models.either_keras import SourceModel
from r2keras._util import optional_packages
from r2keras._util.errors import check_choice, invalid_part
from r2keras._util.files import atomic_write_bytes
from r2keras.export.conversion.checks import check_backend, check_record, checked_source
from r2keras.export.conversion.converter import convert
from r2keras.export.conversion.recurrent_layers import check_kernels
from r2keras.export.conversion.rounded_rows import check_float_rows
from r2keras.export.runtime.file_sizes import FileSizes, measure, measure_float
from r2keras.export.runtime.tflm_model import find_arena
from r2keras.export.runtime.tflm_sizes import TFLMSizes
from r2keras.export.tflite.cleanup import prune, slim
from r2keras.export.tflite.interpreter import parse
from r2keras.export.tflite.schema import SEPARATOR, constants, values_of
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.tflite.writer import write
from r2keras.export.tflm.loops import check_sizes, spell_out_updates
from r2keras.export.tflm.replace_constant import TAKES_COMPUTED, channel_axis, rewrite
from r2keras.export.tflm.select import spell_out_select
from r2keras.export.weights.assignment import Assignment, Where, assignments_of
from r2keras.export.weights.decode_operator import MARK
from r2keras.export.weights.lookup_forms import SMALLER, Form, smallest
from r2keras.export.weights.lookup_read_back import STAYS_FLOAT, stored_form
from r2keras.export.weights.matching import SMALLEST
from r2keras.export.weights.mismatch import DECODING_TOLERANCE, broken
from r2keras.export.weights.uniform import along
from r2keras.record import CompressionRecord

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

FORMS = ("memory", "size")


@dataclasses.dataclass(eq=False)
class _Written:
    """One constant of the file, and the form that replaces it.

    Args:
        subgraph: index of the subgraph.
        tensor: index of the float tensor.
        constant: the float values.
        name: names of the weights that it holds, joined.
        form: the stored form; None: the constant stays float.
        reason: why it stays float; "" otherwise.
        named: tensors that carry the name, with the stored values first.
    """

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
    optimize: str = "memory",
    check: bool = True,
) -> TFLMSizes:
    """Writes a model as a `.tflite` file for microcontrollers, with recorded weights as look-up tables of 1 to 7 bits.

    The file takes one sample at a time and computes in float. Its outputs differ from Keras' by float rounding only.
    `docs/deploy/tflm_forms.md` explains the stored forms and their sizes.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend, with the values of `record`.
        path: the file to write; it is written completely or not at all.
        record: the record that `finalize` or `calibrate` returned with the model; None writes a float file.
        optimize: `"memory"` or `"size"`. With `"size"`, weights on uniform grids become Huffman codes where that is
            smaller. Decoding them takes more time, and one byte more of memory for each value of the operator's
            weights.
        check: whether LiteRT for Microcontrollers loads the file before it is written, to find operators that it lacks
            and the memory that the file needs. Needs tflite-micro, which exists for Linux (x86-64) only.

    Returns:
        The sizes of the file and of each weight in it, and the memory that it needs.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed; tflite-micro is not, with `check`.
        RuntimeError: Keras runs on another backend; TensorFlow's converter rejects the model; the search for the
            smallest memory failed.
        TypeError: the model is subclassed.
        ValueError: the model is not built, is still wrapped for training, has a batch size other than 1, computes in
            half precision, rounds rows at run time, or has NaN or infinite weights; the record belongs to another
            model; a recorded weight is not in the converted file; LiteRT for Microcontrollers lacks an operator, with
            `check`.
        OSError: the file cannot be written.

    Warns:
        UserWarning: recorded weights must stay float; the message gives the reasons.

    Example:

    >>> import tempfile
    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.PaletteSpec(num_bits=3, min_size=0))])
    >>> small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    >>> to_tflm(small, os.path.join(tempfile.mkdtemp(), "mcu.tflite"), record).tensors[0].note
    '3-bit indices into a table of 8'

    Source: Cho et al., DKM, arXiv 2108.12659, section 3 (palettes).
    """
    check_choice("optimize", FORMS, optimize)
    source = _checked(model, record, check)
    file = convert(source, 1)
    spell_out_select(file)
    spell_out_updates(file)
    check_sizes(file, model.name)
    written: list[_Written] = []
    if record is not None:
        where = list(constants(file))
        written = [
            _replace(file, where[assignment.constant], assignment, record, optimize == "size")
            for assignment in assignments_of(where, record)
        ]
    content, file = _serialize(file, written)
    arena_bytes = find_arena(content, f"the model {model.name!r}") if check else None
    sizes = _measure(source, record, file, content, {item.name: item.reason for item in written if item.reason})
    atomic_write_bytes(path, content)
    _warn(written)
    return TFLMSizes(**vars(sizes), arena_bytes=arena_bytes)


def _checked(model: keras.Model, record: CompressionRecord | None, check: bool) -> SourceModel:
    """Returns the model, read; raises if it or the record cannot be exported, or a package is missing."""
    check_backend()
    source = checked_source(model)
    check_float_rows(source, record)
    optional_packages.require_schema()
    if check:
        optional_packages.require_microcontrollers()
    batches = {tensor.shape[0] for tensor in model.inputs} - {None, 1}
    if batches:
        expected = "a model with batch size 1 or an open one, for microcontrollers"
        received = f"the model {model.name!r}, which takes {min(batches)} samples at once"
        fix = "Build it again without a batch size and copy the weights with set_weights"
        raise ValueError(invalid_part("model", expected, received, fix))
    if record is not None:
        check_record(source, record)
        check_kernels(source, record)
    return source


def _replace(file: ModelT, where: Where, assignment: Assignment, record: CompressionRecord, huffman: bool) -> _Written:
    """Replaces a constant by the stored form of its weight, or names the constant if it stays float."""
    subgraph, tensor, values = where
    graph = Subgraph(file, subgraph)
    name, constant = SEPARATOR.join(assignment.matches), values.copy()
    unsupported = {graph.kind(op) for op in graph.consumers(tensor)} - TAKES_COMPUTED
    if unsupported:
        form, reason = None, f"{', '.join(sorted(unsupported))} takes constants only"
    else:
        owner, axis = record.tensors[assignment.owner], channel_axis(graph, tensor)
        form, reason = smallest(owner, assignment.matches[assignment.owner], constant, axis, huffman)
    if form is None:
        graph.tensor(tensor).name = name
        named = [tensor]
    else:
        named = rewrite(graph, tensor, form, name)
    return _Written(subgraph, tensor, constant, name, form, reason, named)


def _serialize(file: ModelT, written: list[_Written]) -> tuple[bytes, ModelT]:
    """Returns the file's bytes, and the file read back from them after every weight was compared."""
    new_indices = prune(file)
    for item in written:
        if item.subgraph == 0:
            item.tensor = new_indices[item.tensor]
            item.named = [new_indices[i] for i in item.named]
    slim(file, {(item.subgraph, tensor) for item in written for tensor in item.named})
    file.description = MARK
    content = write(file)
    file = parse(content)
    for item in written:
        _compare(file, item)
    return content, file


def _compare(file: ModelT, item: _Written) -> None:
    """Raises RuntimeError unless the file holds the stored form, and that form gives the float constant."""
    graph = Subgraph(file, item.subgraph)
    if item.form is None:
        values = values_of(file, graph.tensor(item.tensor))
    else:
        stored = stored_form(graph, item.tensor)
        if stored is None:
            raise broken(item.name, "the stored values are missing")
        values = stored.values()
        if not np.array_equal(values, item.form.store.values()):
            raise broken(item.name, "the stored values differ")
        if item.form.factor is not None and item.form.axis is not None:
            factor = values_of(file, graph.tensor(item.named[-1]))
            values = values * along(factor, values, item.form.axis)
    error = np.abs(values - item.constant)
    if not np.all(error <= DECODING_TOLERANCE * np.abs(item.constant) + SMALLEST):
        raise broken(item.name, f"a value is off by {error.max():.3g}")


def _measure(
    source: SourceModel, record: CompressionRecord | None, file: ModelT, content: bytes, reasons: dict[str, str]
) -> FileSizes:
    """Returns the file's sizes, with `reasons` in the notes of weights that stay float."""
    if record is None:
        return measure_float(source.kernel_shapes(), source.num_values, content)
    sizes = measure(record, file, content, "the file")
    reason_of = {name: reason for names, reason in reasons.items() for name in names.split(SEPARATOR)}
    rows = [
        dataclasses.replace(row, note=f"{row.note}: {reason_of[row.name]}") if row.note == STAYS_FLOAT else row
        for row in sizes.tensors
    ]
    return dataclasses.replace(sizes, tensors=tuple(rows))


def _warn(written: list[_Written]) -> None:
    """Warns of weights that stay float although floats are not the smallest form."""
    floats = [f"{item.name!r} ({item.reason})" for item in written if item.reason not in ("", SMALLER)]
    if floats:
        text = f"{len(floats)} of {len(written)} recorded weights stay float: {'; '.join(floats)}."
        warnings.warn(text, stacklevel=3)
