"""Export to LiteRT: a float `.tflite`, or one that stores the codes of a record."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING

import keras

from r2keras._models.either_keras import SourceModel
from r2keras._util import optional_packages
from r2keras._util.errors import invalid
from r2keras._util.files import atomic_write_bytes
from r2keras.export.conversion.activation_marks import convert_marked
from r2keras.export.conversion.checks import check_backend, check_record, check_record_type, checked_source
from r2keras.export.conversion.converter import convert
from r2keras.export.conversion.early_products import with_early_products
from r2keras.export.conversion.fused_lstm import check_fused, fused
from r2keras.export.conversion.lstm_gates import join_gates
from r2keras.export.conversion.recurrent_layers import check_recurrent
from r2keras.export.conversion.rounded_rows import check_rounding, with_float_rows
from r2keras.export.conversion.row_barriers import remove_barriers, with_barriers
from r2keras.export.integer.huffman_weights import encode_products
from r2keras.export.integer.packed_products import pack_products, widen_products
from r2keras.export.litert.write_codes import Storage, exact_file, integer_file
from r2keras.export.runtime.check_runs import check_runs
from r2keras.export.runtime.file_sizes import FileSizes, measure, measure_float
from r2keras.export.runtime.tflm_sizes import TFLMSizes
from r2keras.export.targets.limits import batch_of, check_palettes
from r2keras.export.targets.settings import Form, check_choices, form_for
from r2keras.export.tflite.activation_grid import Data
from r2keras.export.tflite.call_once import Once
from r2keras.export.tflite.cleanup import all_tensors, slim
from r2keras.export.tflite.integer_operators import FLOAT_ON_MCU
from r2keras.export.tflite.writer import write
from r2keras.export.weights.as_int8 import int8_palettes, int8_record
from r2keras.record import CompressionRecord
from r2keras.record.with_record import came_with_record

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

WITHOUT_RECORD = (
    "The file is float: the model came with a record, which was not passed. Write to_litert(model, path, record) for a "
    "small file."
)


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    record: CompressionRecord | None = None,
    *,
    target: str = "any",
    activations: str | None = None,
    io: str | None = None,
    data: Data | None = None,
    optimize: str | None = None,
    recurrent: str | None = None,
    batch_size: int | None = None,
) -> FileSizes:
    """Writes a model as a `.tflite` file, its recorded weights as 2-, 4- or 8-bit integers.

    The file computes `scale * (code - zero_point)`, or `scale * table[index]` for a palette, from the stored integers.
    Every code is read back and compared with the record before the file is written. docs/how_to/export.md explains
    the modes.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend with the values of `record`, or the
            tf_keras model that `r2keras.tfmot.finalize` returned.
        path: the file to write. It is written whole or not at all.
        record: what `finalize` or `calibrate` returned with the model; None writes a float file, in which all tensors
            have names.
        target: what the file is for. It sets the arguments below that are left out, and refuses what it cannot run;
            docs/deploy/index.md compares the targets. `"any"`: float activations, an open batch. `"cpu"`: integer
            operators if all activations of the record have 8 bits, packed products if none is quantized, else exact;
            one sample per run. `"browser"`: the same, with `optimize="latency"` for integers. `"ethos-u"`: integer
            operators, inputs and outputs; codes in 8-bit integers, which Arm's compiler compresses. `"mcu"`: integer
            operators that LiteRT for Microcontrollers has.
        activations: `"float"`: outputs differ from Keras' by float rounding only. `"dynamic"`: matrix products take the
            low-bit weights themselves and round each row of their float input to 8 bits (`ops.dynamic_quantize`), which
            is several times faster; of a record with `activation_method="dynamic"`, those of its dynamic kernels, so
            that the file computes what the model computes. `"int8"`: integer operators.
        io: type of the file's inputs and outputs with `activations="int8"`: `"float"` or `"int8"`.
        data: with `activations="int8"`, a few hundred unlabeled inputs (array, list of arrays, or dict by input name),
            on which ranges are measured that the record lacks. None keeps operators without a range in float.
        optimize: `"size"`: palettes are decoded once, at the first call; `"memory"`: at every call; `"latency"`: never,
            as the file stores 8-bit weights, which needs `PaletteSpec(table_dtype="int8")`. With `activations="int8"`,
            `"memory"` keeps convolutions of 4 bits as they are, as microcontrollers need them; `"size"` makes them
            products of patches, which XNNPACK runs as fast as convolutions of 8 bits. With `target="mcu"`, `"size"`
            stores weights as Huffman codes where that is smaller; such a file runs on microcontrollers only.
        recurrent: `"loop"`: every recurrent layer is a loop. `"fused"`: every LSTM is one operator, which keeps its
            state between calls until the caller resets it.
        batch_size: samples per run where the model leaves them open; None: the target's, open with `"any"`.

    Returns:
        The sizes of the file and of each weight in it; with `target="mcu"` a `TFLMSizes`, with the memory that the file
        needs.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed.
        RuntimeError: Keras runs on another backend, or TensorFlow's converter refuses the model or crashes.
        TypeError: `model` is subclassed, or `record` is not a record.
        ValueError: an argument does not fit the others, the model or the record; docs/how_to/verify.md lists the cases.
        OSError: the file cannot be written.

    Warns:
        UserWarning: with `activations="int8"`, the operators that compute in float, and why; with `"dynamic"`, kernels
            whose rows the model rounds and the file does not; without `record`, that `finalize` or `calibrate` returned
            one with the model; with `target="mcu"`, that tflite-micro is not installed to check the file.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> [row.name for row in to_litert(model, file).tensors]
    ['head/kernel']

    Source: Jacob et al., arXiv 1712.05877, section 2; Cho et al., arXiv 2108.12659, section 3.
    """
    given = {"activations": activations, "io": io, "optimize": optimize, "recurrent": recurrent}
    check_choices(target, batch_size, **given)
    check_backend()
    source = checked_source(model)
    check_record_type(record)
    form = form_for(target, record, bool(source.recurrent), batch_size=batch_size, **given)
    _check_options(form, data, record)
    form = dataclasses.replace(form, batch_size=batch_of(source, target, batch_size, form.batch_size))
    check_rounding(source, form.activations, form.recurrent, record)
    source = with_float_rows(source)
    check_recurrent(source, form.activations, record)
    optional_packages.require_schema()
    if record is None:
        if came_with_record(model):
            warnings.warn(WITHOUT_RECORD, UserWarning, stacklevel=2)
        file = _float_file(source, form)
        # Other tools tell tensors by their names. They may quantize a float file, but not the codes of a record.
        slim(file, all_tensors(file))
        content = write(file)
        file_sizes = measure_float(source.kernel_shapes(), source.num_values, content)
    else:
        check_record(source, record)
        content, file = _compressed(source, record, form, target, data)
        file_sizes = measure(record, file, content, str(path))
    arena_bytes = check_runs(target, content, f"the model {source.name!r}")
    atomic_write_bytes(path, content)
    return TFLMSizes(**vars(file_sizes), arena_bytes=arena_bytes) if target == "mcu" else file_sizes


def _compressed(
    source: SourceModel, record: CompressionRecord, form: Form, target: str, data: Data | None
) -> tuple[bytes, ModelT]:
    """Returns the bytes of a file with the codes of a record, and the file as read back from them."""
    computes, recurrent = form.activations, form.recurrent
    rounds_rows = computes == "dynamic" or (computes == "int8" and bool(record.dynamic_kernels))
    if rounds_rows:
        source = with_early_products(source) if recurrent == "loop" else source
        source = with_barriers(source, record.dynamic_kernels)
    check_palettes(record, form.optimize, target)
    stored_record = _stored_record(record, form.optimize, target)
    on_integers = computes == "int8"
    file = convert_marked(source, record, form.batch_size) if on_integers else _float_file(source, form)
    if rounds_rows:
        remove_barriers(file)
    if recurrent == "fused":
        join_gates(file, record)
    storage = _storage(file, form, target)
    if on_integers:
        return integer_file(file, stored_record, storage, form.io, data)
    packed = record if computes == "dynamic" else None
    return exact_file(file, stored_record, storage, packed=packed, needs_product=form.needs_product)


def _stored_record(record: CompressionRecord, optimize: str, target: str) -> CompressionRecord:
    """Returns the record of the codes that the file holds."""
    if optimize == "latency":
        return int8_record(record)
    return int8_palettes(record) if target == "mcu" else record


def _storage(file: ModelT, form: Form, target: str) -> Storage:
    """Returns how a file stores weights."""
    is_small = form.optimize == "size"
    if target == "mcu":
        pack = encode_products if is_small else widen_products
        return Storage(None, pack, one_scale=True, huffman=is_small, float_kinds=FLOAT_ON_MCU)
    return Storage(Once(file), pack_products) if is_small else Storage()


def _check_options(form: Form, data: Data | None, record: CompressionRecord | None) -> None:
    """Raises ValueError for arguments that contradict each other."""
    activations = form.activations
    if activations == "int8" and form.recurrent == "fused":
        raise ValueError(invalid("recurrent", "'loop' where activations='int8'", form.recurrent))
    if activations != "int8" and (form.io != "float" or data is not None):
        raise ValueError(invalid("activations", "'int8' where `io` or `data` is given", activations))
    if activations == "int8" and record is None:
        raise ValueError(invalid("record", "a record with activations where activations='int8'", None))
    if activations == "dynamic" and record is None:
        raise ValueError(invalid("record", "a record where activations='dynamic'", None))


def _float_file(source: SourceModel, form: Form) -> ModelT:
    """Returns the float file of a model."""
    if form.recurrent == "loop":
        return convert(source, form.batch_size)
    file = convert(fused(source), form.batch_size)
    check_fused(file, source)
    return file
