"""Writes a record's codes into a converted float file: exactly, for float operators, or for integer operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from r2keras.export.conversion.activation_marks import restore_grids
from r2keras.export.integer.float_operators import NO_GRID
from r2keras.export.integer.huffman_weights import encode_constant
from r2keras.export.integer.integer_graph import Integerizer, needs_range
from r2keras.export.integer.products import squares_as_products
from r2keras.export.integer.ranges import measured
from r2keras.export.integer.weights import IntegerWeight, check_weights
from r2keras.export.litert.dynamic_products import dynamic_weight, why_float
from r2keras.export.litert.embedding_rows import is_table, look_up
from r2keras.export.litert.not_packed import no_product
from r2keras.export.litert.plane_weight import PlaneWeight, check_planes
from r2keras.export.litert.read_back import Written, check_written
from r2keras.export.litert.replace_constant import replace_constant
from r2keras.export.tflite.activation_grid import Data
from r2keras.export.tflite.call_once import Once
from r2keras.export.tflite.cleanup import prune, slim
from r2keras.export.tflite.interpreter import parse
from r2keras.export.tflite.schema import SEPARATOR, constants
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.tflite.writer import write
from r2keras.export.weights.assignment import Assignment, Where, assignments_of
from r2keras.export.weights.decode_operator import INTEGER_MARK
from r2keras.export.weights.palette import StoredPalette, store_palette
from r2keras.export.weights.uniform import Stored, store
from r2keras.record import CompressionRecord, PalettizedTensor

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

# Replaces operators of a subgraph that read integer weights, or the integers that hold these.
Pack = Callable[[Subgraph, Sequence[IntegerWeight]], None]


class Storage(NamedTuple):
    """How the weights of a file are stored.

    Args:
        once: decodes palettes once; None decodes them where they are used.
        pack: gives integer weights the operators and integers that the runtime has; None leaves them.
        one_scale: whether weights of float operators are decoded from 8-bit codes with one scale, which is all that
            DEQUANTIZE takes on LiteRT for Microcontrollers.
        huffman: whether these codes become Huffman codes where that is smaller.
        float_kinds: kinds of operators that the runtime computes on floats alone.
    """

    once: Once | None = None
    pack: Pack | None = None
    one_scale: bool = False
    huffman: bool = False
    float_kinds: Collection[str] = ()


def exact_file(
    file: ModelT,
    record: CompressionRecord,
    storage: Storage,
    *,
    packed: CompressionRecord | None = None,
    needs_product: bool = True,
) -> tuple[bytes, ModelT]:
    """Writes the codes of a record into a float file, edited in place.

    Args:
        file: the schema's `ModelT`.
        record: codes, indices and scales.
        storage: how weights are stored.
        packed: the record whose codes matrix products take, each row of their input rounded to 8 bits: those of its
            dynamic kernels, or all of them if it has none. None for a file without such products.
        needs_product: whether `packed` needs one such product.

    Returns:
        The file's bytes, and the file as read back from them, compared with the record.

    Raises:
        ValueError: `packed` and `needs_product`, and the model lacks such a product.
    """
    where = list(constants(file))
    assignments = assignments_of(where, record)
    kernels = set(record.dynamic_kernels)
    weights: list[IntegerWeight | PlaneWeight] = []
    written, reasons = [], {}
    for assignment in assignments:
        subgraph, tensor, _ = where[assignment.constant]
        packs = packed is not None and (not kernels or not kernels.isdisjoint(assignment.matches))
        graph = Subgraph(file, subgraph)
        weight = dynamic_weight(graph, tensor, assignment, packed) if packed and packs else None
        if weight is not None:
            weights.append(weight)
        else:
            if packed and packs and not weights:
                reasons[assignment.owner] = why_float(graph, tensor, packed.tensors[assignment.owner])
            written.append(_put(file, where[assignment.constant], assignment, record, storage))
    if packed is not None and needs_product and not weights:
        raise no_product({name: reasons[name] for name in record.tensors if name in reasons})
    _warn_of_float_rows(kernels.difference(*(weight.assignment.matches for weight in weights)) if packed else set())
    return _finished(file, written, weights, packed or record)


def integer_file(
    file: ModelT, record: CompressionRecord, storage: Storage, io: str, data: Data | None
) -> tuple[bytes, ModelT]:
    """Converts a float file to integer operators, edited in place.

    Args:
        file: the schema's `ModelT` that `activation_marks.convert_marked` returned.
        record: codes, scales and grids.
        storage: how weights are stored.
        io: `"float"` or `"int8"`.
        data: inputs to measure ranges on, or None.

    Returns:
        The file's bytes, and the file as read back from them, compared with the record.

    Raises:
        ValueError: see `to_litert`.
    """
    restore_grids(file, record)
    squares_as_products(Subgraph(file))
    where = list(constants(file))
    assignments = assignments_of(where, record)
    ranges = {} if data is None else measured(file, needs_range(file), data)
    assignments_by_tensor, kernels = {}, set(record.dynamic_kernels)
    for assignment in assignments:
        subgraph, tensor, _ = where[assignment.constant]
        if subgraph == 0:
            assignments_by_tensor[tensor] = assignment if kernels.isdisjoint(assignment.matches) else None
    integerizer = Integerizer(file, record, assignments_by_tensor, ranges, storage.float_kinds)
    integerizer.run(io)
    if storage.pack is not None:
        storage.pack(integerizer.graph, integerizer.weights)
    new_indices = prune(file)
    for item in integerizer.weights:
        item.tensors = [new_indices.get(i, i) for i in item.tensors]
        item.coded = [new_indices[i] for i in item.coded]
    weights: list[IntegerWeight | PlaneWeight] = [*integerizer.weights]
    written: list[Written] = []
    for assignment in assignments:
        subgraph, tensor, constant = where[assignment.constant]
        # A constant that became the weight of an integer operator has left the file.
        if subgraph > 0 or tensor in new_indices:
            new_index = tensor if subgraph > 0 else new_indices[tensor]
            rounds = not kernels.isdisjoint(assignment.matches)
            packed = dynamic_weight(Subgraph(file, subgraph), new_index, assignment, record) if rounds else None
            if packed is not None:
                weights.append(packed)
            else:
                written.append(_put(file, (subgraph, new_index, constant), assignment, record, storage))
    content, read_back = _finished(file, written, weights, record)
    _warn(integerizer.reasons, integerizer.count)
    _warn_of_float_rows(kernels.difference(*(weight.assignment.matches for weight in weights)))
    return content, read_back


def _finished(
    file: ModelT, written: list[Written], weights: list[IntegerWeight | PlaneWeight], record: CompressionRecord
) -> tuple[bytes, ModelT]:
    """Returns the file's bytes, and the file as read back from them, its weights compared with the record."""
    planes = [weight for weight in weights if isinstance(weight, PlaneWeight)]
    integers = [weight for weight in weights if isinstance(weight, IntegerWeight)]
    named = {(weight.subgraph, tensor) for weight in integers for tensor in weight.named}
    named |= {(weight.subgraph, tensor) for weight in planes for tensor in weight.tensors}
    slim(file, named | {(item.subgraph, tensor) for item in written for tensor in item.constants})
    if any(weight.coded for weight in integers) or any(item.coded for item in written):
        file.description = INTEGER_MARK
    content = write(file)
    read_back = parse(content)
    check_written(read_back, written)
    check_weights(read_back, integers, record)
    check_planes(read_back, planes, record)
    return content, read_back


def _warn(reasons: list[str], count: int) -> None:
    """Warns of operators that compute in float."""
    if reasons:
        fix = " Pass data= to give ranges to what has no grid." if any(NO_GRID in why for why in reasons) else ""
        warnings.warn(
            f"{len(reasons)} of {len(reasons) + count} operators compute in float: {'; '.join(reasons)}.{fix}",
            stacklevel=4,
        )


def _warn_of_float_rows(names: set[str]) -> None:
    """Warns of kernels whose products compute in float, though the model rounds the rows of their input."""
    if names:
        warnings.warn(
            f"The file does not round the rows in front of {', '.join(sorted(names))}, as the Keras model does: "
            "TensorFlow's converter has merged the kernel with another layer, or uses it elsewhere too. There the file "
            "computes with float rows, and is not faster. Put no batch normalization or scaling directly before the "
            "layer.",
            stacklevel=4,
        )


def _put(file: ModelT, where: Where, assignment: Assignment, record: CompressionRecord, storage: Storage) -> Written:
    """Replaces a constant by the stored form of its weight."""
    subgraph, tensor, constant = where
    graph = Subgraph(file, subgraph)
    owner = record.tensors[assignment.owner]
    match = assignment.matches[assignment.owner]
    constant = constant.copy()
    if isinstance(owner, PalettizedTensor):
        stored: Stored | StoredPalette = store_palette(owner, match, constant)
    else:
        stored = store(owner, match, constant, one_scale=storage.one_scale)
    name = SEPARATOR.join(assignment.matches)
    if is_table(graph, tensor, stored):
        named, lookup = look_up(graph, tensor, stored, name)
        return Written(subgraph, tuple(named), (subgraph, lookup.rows), owner, match, stored, constant, lookup.ids)
    holder, named = replace_constant(graph, tensor, stored, name, storage.once)
    coded = encode_constant(graph, named[0], stored.codes) if storage.huffman else []
    return Written(holder, tuple(named), (subgraph, tensor), owner, match, stored, constant, coded=tuple(coded))
