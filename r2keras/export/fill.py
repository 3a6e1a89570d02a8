"""Fills a converted float file with the codes of a record: as float operators, exactly, or as integer ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from r2keras.export.assign import Place, assign
from r2keras.export.builder import write
from r2keras.export.check import Written, check_written
from r2keras.export.containers import store
from r2keras.export.flatbuffer import SEPARATOR, constants, parse
from r2keras.export.grid import measured
from r2keras.export.integer import NO_GRID, Integerizer, needs_range
from r2keras.export.integer_weights import check_weights
from r2keras.export.lookup import is_table, look_up
from r2keras.export.marks import restore_grids
from r2keras.export.once import Once
from r2keras.export.palettes import store_palette
from r2keras.export.prune import prune
from r2keras.export.rewrite import rewrite
from r2keras.export.slim import slim
from r2keras.palettized import PalettizedTensor
from r2keras.record import CompressionRecord

Where = tuple[int, int, np.ndarray]


def exact_file(file: Any, record: CompressionRecord, once: Once | None) -> tuple[bytes, Any]:
    """Puts the record's codes into the float `file`; returns its bytes and what was read back from them, checked."""
    where = list(constants(file))
    written = [_put(file, where[place.constant], place, record, once) for place in places_of(where, record)]
    return _finished(file, written, set())


def integer_file(file: Any, record: CompressionRecord, once: Once | None, io: str, data: Any) -> tuple[bytes, Any]:
    """Makes integer operators of a float file.

    Args:
        file: the schema's `ModelT` of a model that `marks.marked` returned; edited in place.
        record: codes, scales and grids.
        once: where palettes are decoded; None: where they are used.
        io: `"float"` or `"int8"`.
        data: inputs, or None.

    Returns:
        The file's bytes and what was read back from them, checked.

    Raises:
        ValueError: see `to_litert`.
    """
    restore_grids(file, record)
    where = list(constants(file))
    places = places_of(where, record)
    ranges = {} if data is None else measured(file, needs_range(file), data)
    mine = {where[place.constant][1]: place for place in places if where[place.constant][0] == 0}
    work = Integerizer(file, record, mine, ranges)
    work.run(io)
    moved = prune(file)
    for weight in work.weights:
        weight.tensors = [moved.get(i, i) for i in weight.tensors]
    written = []
    for place in places:
        graph, tensor, constant = where[place.constant]
        if graph or tensor in moved:
            written.append(_put(file, (graph, tensor if graph else moved[tensor], constant), place, record, once))
    found = _finished(file, written, {(0, weight.tensors[0]) for weight in work.weights})
    check_weights(found[1], work.weights, record)
    _warn(work.reasons, work.count)
    return found


def places_of(where: list[Where], record: CompressionRecord) -> list[Place]:
    """Returns which constant holds which weight."""
    values = {name: tensor.values() for name, tensor in record.tensors.items()}
    places, missing = assign(values, [constant for _, _, constant in where])
    if missing:
        raise ValueError(
            f"The converted file holds no constant with the values of {', '.join(map(repr, missing))}, so its codes or "
            "indices have no place. Leave the layer out of the recipe, so that it stays float. Nothing was written."
        )
    return places


def _finished(file: Any, written: list[Written], named: set[tuple[int, int]]) -> tuple[bytes, Any]:
    """Returns the file's bytes and what was read back from them, the float operators' weights checked."""
    slim(file, named | {(item.subgraph, tensor) for item in written for tensor in item.named})
    content = write(file)
    file = parse(content)
    check_written(file, written)
    return content, file


def _warn(reasons: list[str], count: int) -> None:
    """Warns of operators that compute in float."""
    if reasons:
        fix = " Pass data= to give ranges to what has no grid." if any(NO_GRID in why for why in reasons) else ""
        warnings.warn(
            f"{len(reasons)} of {len(reasons) + count} operators compute in float: {'; '.join(reasons)}.{fix}",
            stacklevel=4,
        )


def _put(file: Any, where: Where, place: Place, record: CompressionRecord, once: Once | None) -> Written:
    """Stores one weight in the place of its constant."""
    subgraph, tensor, constant = where
    owner = record.tensors[place.owner]
    match = place.matches[place.owner]
    constant = constant.copy()
    stored = (store_palette if isinstance(owner, PalettizedTensor) else store)(owner, match, constant)
    name = SEPARATOR.join(place.matches)
    if is_table(file, file.subgraphs[subgraph], tensor, stored):
        named, found = look_up(file, file.subgraphs[subgraph], tensor, stored, name)
        return Written(subgraph, tuple(named), (subgraph, found.rows), owner, match, stored, constant, found.ids)
    holder, named = rewrite(file, subgraph, tensor, stored, name, once)
    return Written(holder, tuple(named), (subgraph, tensor), owner, match, stored, constant)
