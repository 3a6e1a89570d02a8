"""Defaults of `to_litert` for each target, and the arguments that a target does not take."""

from __future__ import annotations

import dataclasses

from r2keras._util.errors import check_choice, check_int, invalid
from r2keras.record import CompressionRecord, PalettizedTensor
from r2keras.specs.targets import ACTIVATIONS, ENDS, FORMS, RECURRENT, TARGETS, Target

INTEGER_BITS = 8
# Samples per run that a file may be made for.
LARGEST_BATCH = 2**16
INTEGERS = (
    "Give the recipe activations of 8 bits, and integer inputs and outputs: calibrate(model, "
    "Recipe.uniform(..., activation_bits=8), data, integer=True)"
)


@dataclasses.dataclass(frozen=True)
class Form:
    """The arguments of `to_litert` after those that were left out got their defaults.

    Args:
        activations: `"float"`, `"dynamic"` or `"int8"`.
        io: `"float"` or `"int8"`.
        optimize: `"size"`, `"memory"` or `"latency"`.
        recurrent: `"loop"` or `"fused"`.
        batch_size: samples per run; None is as open as the model.
        needs_product: whether a dynamic file without one packed product is an error: it is where the caller asked for
            a dynamic file.
    """

    activations: str
    io: str
    optimize: str
    recurrent: str
    batch_size: int | None
    needs_product: bool


def check_choices(target: str, batch_size: int | None, **given: str | None) -> None:
    """Raises ValueError for an argument that is not one of its choices, or that the target does not take.

    Args:
        target: a key of `TARGETS`.
        batch_size: the argument of `to_litert`.
        given: its other arguments by name; None where they were left out.
    """
    check_choice("target", TARGETS, target)
    choices = {"activations": ACTIVATIONS, "io": ENDS, "optimize": FORMS, "recurrent": RECURRENT}
    for name, value in given.items():
        if value is None:
            continue
        check_choice(name, choices[name], value)
        taken = getattr(TARGETS[target], name)
        if value not in taken:
            expected = f"{' or '.join(map(repr, taken))} for target={target!r}"
            raise ValueError(invalid(name, expected, value, f"Leave {name}= out, or choose another target"))
    if batch_size is not None:
        check_int("batch_size", batch_size, 1, LARGEST_BATCH)
        if TARGETS[target].one_sample and batch_size != 1:
            raise ValueError(invalid("batch_size", f"1 for target={target!r}", batch_size, "Leave batch_size= out"))


def form_for(
    target: str,
    record: CompressionRecord | None,
    has_loops: bool,
    *,
    activations: str | None,
    io: str | None,
    optimize: str | None,
    recurrent: str | None,
    batch_size: int | None,
) -> Form:
    """Returns the form of a file: what the caller asked for, and the target's defaults for the rest.

    Args:
        target: a key of `TARGETS`.
        record: the record of the model, or None.
        has_loops: whether the model has recurrent layers.
        activations: the argument of `to_litert`; None if it was left out, here and below.
        io: likewise.
        optimize: likewise.
        recurrent: likewise.
        batch_size: likewise.

    Raises:
        ValueError: the target computes on integers, and the record has no grids for that.
    """
    chosen = TARGETS[target]
    computes = activations or _activations(target, record, has_loops)
    by_default = (computes == "int8" and _integer_form(chosen, record)) or chosen.optimize[0]
    return Form(
        computes,
        io or (chosen.io[0] if computes == "int8" else "float"),
        optimize or by_default,
        recurrent or chosen.recurrent[0],
        batch_size if batch_size is not None else chosen.batch_size,
        needs_product=activations == "dynamic",
    )


def _activations(target: str, record: CompressionRecord | None, has_loops: bool) -> str:
    """Returns what a target computes in if the caller does not say it."""
    has_grids = record is not None and _has_integer_grids(record)
    if TARGETS[target].activations == ("int8",):
        _check_grids(target, record, has_grids)
        return "int8"
    if target == "any" or record is None:
        return "float"
    # Integer files take recurrent layers only if they round the rows of their input, and int8 tables only.
    takes_integers = (not has_loops or record.dynamic_kernels) and not _palettes(record, of_int8=False)
    if has_grids and takes_integers:
        return "int8"
    # Rounding rows as well would make the file another function than the model, whose activations are rounded.
    return "float" if record.activations and not record.dynamic_kernels else "dynamic"


def _integer_form(target: Target, record: CompressionRecord | None) -> str:
    """Returns the default of `optimize` for integer operators; "" is the target's."""
    has_palettes = record is not None and _palettes(record, of_int8=True)
    # LiteRT's integer operators take centroids, not indices.
    return "latency" if has_palettes and target.optimize[0] == "size" else target.integer_optimize


def _palettes(record: CompressionRecord, *, of_int8: bool) -> bool:
    """Whether a record has palettes with int8 tables, or with others."""
    palettes = [tensor for tensor in record.tensors.values() if isinstance(tensor, PalettizedTensor)]
    return any((tensor.spec.table_dtype == "int8") is of_int8 for tensor in palettes)


def _has_integer_grids(record: CompressionRecord) -> bool:
    """Whether all activations of a record have 8 bits, as integer operators need them."""
    grids = record.activations.values()
    return bool(grids) and all(grid.num_bits == INTEGER_BITS for grid in grids)


def _check_grids(target: str, record: CompressionRecord | None, has_grids: bool) -> None:
    """Raises ValueError unless the record has grids to compute on."""
    if has_grids:
        return
    received = "None" if record is None else "a record without activations of 8 bits"
    float_route = ", or write a file with float activations: to_tflm(model, path, record)" if target == "mcu" else ""
    expected = f"a record with activations of 8 bits for target={target!r}, which computes on integers"
    raise ValueError(
        f"Invalid value for argument `record`. Expected {expected}. Received: {received}. {INTEGERS}{float_route}."
    )
