"""Hints that `calibrate` logs, each once per process: bits and steps that are rarely the best choice."""

from __future__ import annotations

import functools
import logging

from r2keras.export.weights.uniform import container_bits
from r2keras.record import CompressionRecord, QuantizedTensor
from r2keras.specs import Recipe

# From this number of bits on, nearest rounding is usually good enough.
ROUNDED_WELL = 4


def hints(recipe: Recipe, record: CompressionRecord) -> list[str]:
    """Returns what a user should know of the bits and steps of a recipe, given the record it led to."""
    found = []
    widths = {tensor.spec.num_bits for tensor in record.tensors.values()}
    for num_bits in sorted(width for width in widths if container_bits(width) != width):
        found.append(
            f"A .tflite file of to_litert stores {num_bits}-bit weights in {container_bits(num_bits)}-bit containers: "
            f"they take as many bytes as {container_bits(num_bits)}-bit weights."
        )
    grids = [tensor for tensor in record.tensors.values() if isinstance(tensor, QuantizedTensor)]
    if not recipe.steps and any(tensor.spec.num_bits < ROUNDED_WELL for tensor in grids):
        found.append(
            f"Weights below {ROUNDED_WELL} bits lose less accuracy with steps in the recipe: "
            'Recipe(..., steps=["adaround", "correct_bias"]).'
        )
    return found


@functools.cache
def log_once(text: str) -> None:
    """Logs a text at its first use; a log line, so that filters of warnings do not turn it into an error."""
    logging.getLogger("r2keras").warning(text)
