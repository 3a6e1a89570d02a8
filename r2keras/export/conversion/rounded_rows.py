"""Models whose products round the rows of their input: their files, in which the runtime does so."""

from __future__ import annotations

from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.row_products import rounding_layers, without_rounding
from r2keras._util.errors import invalid, invalid_part
from r2keras.record import CompressionRecord

TWIN = "a model of r2keras.dynamic_twin"


def check_rounding(source: SourceModel, activations: str, recurrent: str, record: CompressionRecord | None) -> None:
    """Raises ValueError unless a file rounds the same rows as the model.

    Args:
        source: the model.
        activations: the form of the file's activations.
        recurrent: the form of its recurrent layers.
        record: the record.
    """
    layers = {} if source.is_tf_keras else rounding_layers(source.view)
    kernels = record.dynamic_kernels if isinstance(record, CompressionRecord) else ()
    if kernels and activations == "float":
        expected = f"'dynamic' or 'int8' for a record with activation_method='dynamic', as that of {kernels[0]!r}"
        fix = "Pass activations='dynamic', or calibrate or train without activation_method='dynamic'"
        raise ValueError(invalid("activations", expected, activations, fix))
    if layers and not kernels:
        raise ValueError(_no_record(next(iter(layers)), record))
    for name in kernels:
        if not any(name.startswith(f"{path}/") for path in layers):
            received = f"a model whose layer with the kernel {name!r} computes with float rows"
            fix = "Pass the model that came with this record"
            raise ValueError(invalid_part("model", "the model of the record, which rounds rows", received, fix))
    loops = [path for path, layer in source.recurrent if path in layers]
    if loops and recurrent == "fused":
        expected = f"'loop' for the layer {loops[0]!r}, which rounds rows: the fused operator computes in float"
        raise ValueError(invalid("recurrent", expected, recurrent, "Leave recurrent out"))


def with_float_rows(source: SourceModel) -> SourceModel:
    """Returns the model that the converter gets: rows stay float, because the runtime rounds them.

    Args:
        source: the model; returned as it is if it rounds no rows.
    """
    if source.is_tf_keras or not rounding_layers(source.view):
        return source
    return read_model(without_rounding(source.view).model)


def check_float_rows(source: SourceModel, record: CompressionRecord | None) -> None:
    """Raises ValueError for a model, or a record, that needs a runtime that rounds rows."""
    layers = {} if source.is_tf_keras else rounding_layers(source.view)
    names = [*layers, *(record.dynamic_kernels if isinstance(record, CompressionRecord) else ())]
    if names:
        received = f"{names[0]!r}, which rounds the rows of its input at run time"
        fix = "Use to_litert(..., activations='dynamic'), or compress without activation_method='dynamic'"
        raise ValueError(invalid_part("model", "layers that compute on float rows", received, fix))


def _no_record(path: str, record: CompressionRecord | None) -> str:
    """Returns the message for a model that rounds rows, and no record that says so."""
    if record is None:
        received = f"a model whose layer {path!r} rounds the rows of its input, without its record"
        fix = "Pass the record that came with it and activations='dynamic'"
        return invalid_part("model", "a model that computes on float rows where record=None", received, fix)
    received = f"{TWIN}, with the layer {path!r}"
    fix = (
        "Export the model that was passed to dynamic_twin, with activations='dynamic'; to train with rounded rows, "
        "prepare with activation_method='dynamic'"
    )
    return invalid_part("model", "an ordinary Keras model", received, fix)
