"""Export to LiteRT: a float `.tflite`, or one that really holds the codes of a record."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from r2keras._errors import invalid, invalid_choice
from r2keras._files import atomic_write_bytes
from r2keras.export import packages
from r2keras.export.builder import write
from r2keras.export.check import check_backend, check_model, check_record, kernel_shapes
from r2keras.export.convert import convert
from r2keras.export.fill import exact_file, integer_file
from r2keras.export.fused import check_fused, fused
from r2keras.export.gates import join_gates
from r2keras.export.int8 import int8_record
from r2keras.export.marks import convert_marked
from r2keras.export.once import Once
from r2keras.export.recurrent import check_recurrent
from r2keras.export.sizes import FileSizes, measure, measure_float
from r2keras.export.slim import slim
from r2keras.export.source import layers_of
from r2keras.record import CompressionRecord

ACTIVATIONS = ("float", "int8")
FORMS = ("size", "memory", "latency")
RECURRENT = ("loop", "fused")


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    record: CompressionRecord | None = None,
    *,
    activations: str = "float",
    io: str = "float",
    data: Any = None,
    optimize: str = "size",
    recurrent: str = "loop",
) -> FileSizes:
    """Writes a model as a `.tflite` file, its recorded weights as 2-, 4- or 8-bit integers.

    The model is converted to float first. Then each recorded weight's constant, found by its values, is replaced by
    the record's codes and an operator that computes `scale * (code - zero_point)` from them, whatever operator
    uses the weight; a folded batch normalization goes into the scales. Outputs differ from Keras' by float rounding
    only. Codes of 1-2 bits are stored in 2, of 3-4 bits in 4, of 5-8 bits in 8 bits. Every stored code is read back
    and compared with the record before anything is written.

    Of a palette the file holds the indices, in the same containers, and the table; operators compute
    `scale * table[index]` from them, a folded batch normalization being a factor a channel, beside the table. Tables of
    int8 and float16 keep their type where that saves bytes. Indices and table are compared too. `optimize` says when
    palettes are decoded; all forms compute the same:

    - `"size"`: once, at the first call, in a subgraph that CALL_ONCE runs. Dense layers come near float's speed;
      convolutions leave XNNPACK, which takes constant filters only. The float weights stay in memory, twice while read.
    - `"memory"`: at every call, where they are used. Less memory, and a few hundred bytes a weight less in the file;
      decoding comes on top of every call.
    - `"latency"`: never: the file holds each weight's own centroid in 8 bits, and uniform grids in 8 bits too, which is
      what XNNPACK runs at float's speed; 8 bits a weight, less after gzip. With `activations="int8"` such palettes
      compute on integers too.

    Recurrent models take one sample a call, unless their inputs have another fixed batch. Few-bit kernels are expanded
    inside the loop, palettes once outside of it, and states are rounded as in Keras; a state within float rounding of a
    tie may go the other way. A file keeps no state between calls: see `streaming`. TensorFlow's converter runs in a
    process of its own there, which takes some seconds. Of embedding tables only the rows looked up are decoded,
    at every call; palettes of vectors, and rows that end within a byte, are decoded as other weights are.

    With `recurrent="fused"` each LSTM is one operator, UNIDIRECTIONAL_SEQUENCE_LSTM, which computes the same from the
    same codes; these are expanded once and not at every step, so that few bits cost no time. **The operator keeps its
    state from one call to the next**: call `reset_all_variables()` on the interpreter before each sequence, as
    `LiteRTModel` and `verify` do. Where nothing resets, and on CompiledModel, which refuses it, take the loop.

    `r2keras.export.expand` makes the float file of any of them where a model is installed or loaded.

    With `activations="int8"` the operators compute on integers, as accelerators and microcontrollers ask for. The grids
    of the activations come from the record, which needs them (`activation_bits=8`, `input_bits=8`); weights keep their
    codes, in 8 bits or, from 4 bits down, in 4; biases are 32-bit integers. Outputs differ from Keras' by the integer
    operators' rounding; kernels of 4 bits round twice, which moves some codes by one (`optimize="latency"` does not). A
    record made with `output_bits=8` has grids for the model's outputs and for averages over all of an image; without it
    the operators at the end that make them, as a rule the average, the last dense layer and the softmax, stay float
    here too, and the file decides as Keras does, unless `data` gives their tensors ranges. A last softmax that returns
    floats (`io="float"`) computes in float: on 256 levels small probabilities would be zero. What has no integer form
    (a weight that is float, asymmetric, in groups, or a palette) computes in float between DEQUANTIZE and QUANTIZE,
    exactly, and a warning names it.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend, with the values of `record`; or one of
            tf_keras that `r2keras.tfmot.finalize` returned.
        path: the file to write, whole or not at all.
        record: what `finalize` or `calibrate` returned with the model, of grids, palettes or both; None writes a float
            file.
        activations: `"float"` or `"int8"`: what the operators compute on.
        io: with `activations="int8"`, what the file takes and returns: `"float"` or `"int8"`.
        data: with `activations="int8"`, unlabelled inputs (an array, a list of arrays, or a dict by input name; a few
            hundred samples) that give ranges to the tensors that the record has no grid for; None leaves these float.
        optimize: `"size"`, `"memory"` or `"latency"`, see above. `"latency"` asks for palettes that were trained with
            `PaletteSpec(table_dtype="int8")`; `"memory"` also suits delegates that know no CALL_ONCE.
        recurrent: `"loop"`: every recurrent layer is a loop. `"fused"`: LSTM layers, plain, stacked or `Bidirectional`,
            are one operator each, which has to be reset, see above.

    Returns:
        The sizes of the file and of each weight in it.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed.
        RuntimeError: Keras runs on another backend, or TensorFlow's converter refuses the model or crashes.
        TypeError: a subclassed model.
        ValueError: the model is not built, still wrapped for training, computes in half precision, or has NaN or
            infinite weights; the record does not belong to it; a recorded weight is not in the converted file; a
            recurrent layer is stateful; with `activations="int8"`: a layer is recurrent; the record has no activations,
            or some of fewer than 8 bits; no operator can compute in integers; `io="int8"` and an input or output
            without a grid; `data` that do not fit; `optimize="latency"` and a palette whose table is not int8; with
            `recurrent="fused"`: no LSTM, or a recurrent layer that is no plain LSTM, is masked, has a state on a grid,
            or starts from or hands on a state.
        OSError: the file cannot be written.

    Warns:
        UserWarning: with `activations="int8"`, operators that compute in float, and why.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> [row.name for row in to_litert(model, file).tensors]
    ['head/kernel']

    Source: Jacob et al., arXiv 1712.05877, section 2 (the arithmetic of integer operators); Cho et al., DKM,
    arXiv 2108.12659, section 3 (palettes).
    """
    for name, choices, choice in (
        ("activations", ACTIVATIONS, activations),
        ("io", ACTIVATIONS, io),
        ("optimize", FORMS, optimize),
        ("recurrent", RECURRENT, recurrent),
    ):
        if choice not in choices:
            raise ValueError(invalid_choice(name, choices, choice))
    if activations == "int8" and recurrent == "fused":
        raise ValueError(invalid("recurrent", "'loop' where activations='int8'", recurrent))
    if activations == "float" and (io != "float" or data is not None):
        raise ValueError(invalid("activations", "'int8' where `io` or `data` is given", activations))
    check_backend()
    check_model(model)
    check_recurrent(model, activations, record)
    packages.schema()
    if activations == "int8" and record is None:
        raise ValueError(invalid("record", "a record with activations where activations='int8'", None))
    if record is None:
        file = _float_file(model, recurrent)
        slim(file, set())
        content = write(file)
        num_values = sum(int(np.prod(v.shape)) for _, layer in layers_of(model) for v in layer.weights)
        found = measure_float(kernel_shapes(model), num_values, content)
    else:
        check_record(model, record)
        held = int8_record(record) if optimize == "latency" else record
        file = convert_marked(model, record) if activations == "int8" else _float_file(model, recurrent)
        if recurrent == "fused":
            join_gates(file, record)
        once = Once(file) if optimize == "size" else None
        if activations == "int8":
            content, file = integer_file(file, held, once, io, data)
        else:
            content, file = exact_file(file, held, once)
        found = measure(record, file, content, str(path))
    atomic_write_bytes(path, content)
    return found


def _float_file(model: keras.Model, recurrent: str) -> Any:
    """Returns the float file of a model, as the schema's `ModelT`."""
    if recurrent == "loop":
        return convert(model)
    file = convert(fused(model))
    check_fused(file, model)
    return file
