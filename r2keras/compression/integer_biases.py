"""Rounding of biases to steps of integer accumulators, so that Keras computes what integer operators compute."""

from __future__ import annotations

import math

import keras
import numpy as np

from r2keras._models import walk
from r2keras._models.call_kinds import NORMS, passes_on
from r2keras._models.graph import Call, Graph
from r2keras._models.values import affine_of, to_numpy
from r2keras._models.walk import ModelView, full_name, view_of
from r2keras.record import CompressionRecord, QuantizedTensor

# Half the range of int32, the type of biases.
LIMIT = 2**30
# The largest code of the slopes of a PReLU and of the factors of a batch normalization.
LARGEST_CODE = 127


def round_biases(model: keras.Model | ModelView, record: CompressionRecord) -> list[str]:
    """Rounds the biases of a quantized model to whole steps of its integer accumulators, in place.

    An integer operator sums products of codes, each worth `s_in * s_w`, and its bias is an int32 in the same unit. The
    bias that a layer adds, `b`, or with a batch normalization after it `gamma (b - mean) / sqrt(var + eps) + beta`,
    is rounded to the nearest multiple, by changing the last of its terms by at most half a step.

    Args:
        model: a model, or its view, whose kernels and activations lie on the record's grids.
        record: its record.

    Returns:
        The paths of the layers whose biases were rounded: dense layers and convolutions with one scale per channel that
        are called once, on one 8-bit grid. Others are left unchanged. The slopes of a PReLU on such a grid are rounded
        to the 255 levels that they have in an integer file, and so are the offsets of batch normalizations.
    """
    if not record.activations or any(grid.num_bits != 8 for grid in record.activations.values()):
        return []
    graph = view_of(model).graph
    rounded_paths = []
    for call in graph.calls:
        steps = _steps(graph, call, record)
        if steps is not None and _round_bias(call.layer, _norm_after(graph, call), steps):
            rounded_paths.append(call.path)
    for call in graph.calls:
        if call.kind in NORMS and graph.uses(call) == 1 and _source(graph, call) in record.activations:
            _round_norm(call.layer, record.activations[_source(graph, call) or ""].scale)
        if isinstance(call.layer, keras.layers.PReLU) and _source(graph, call) in record.activations:
            _round_slopes(call.layer)
    return rounded_paths


def _steps(graph: Graph, call: Call, record: CompressionRecord) -> np.ndarray | None:
    """Returns the size of a step of a layer's accumulators before batch normalization, one entry per channel."""
    tensor = record.tensors.get(full_name(call.path, "kernel"))
    if not isinstance(tensor, QuantizedTensor) or graph.uses(call) != 1 or not hasattr(call.layer, "use_bias"):
        return None
    source = _source(graph, call)
    grid = None if source is None else record.activations.get(source)
    scale = _scale_per_channel(tensor, call.layer)
    return None if grid is None or scale is None else np.float64(np.float32(grid.scale)) * scale


def _source(graph: Graph, call: Call) -> str | None:
    """Returns the name of the grid of a layer's input, looking back through layers that pass values on."""
    while len(call.inputs) == 1:
        call = graph.producer(call.inputs[0])
        if getattr(call.layer, "holds_constants", False):
            return call.path.removesuffix(walk.QUANTIZED_SUFFIX)
        if not passes_on(call) or "Average" in call.kind:
            return None
    return None


def _scale_per_channel(tensor: QuantizedTensor, layer: keras.Layer) -> np.ndarray | None:
    """Returns the scales of a kernel by output channel; None if they vary within one or the grid is asymmetric."""
    shape = tensor.codes.shape
    if isinstance(layer, _TRANSPOSED):
        count = shape[-2]
    else:
        count = math.prod(shape[-2:]) if "Depthwise" in type(layer).__name__ else shape[-1]
    if not isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS)) or tensor.scale.size not in (1, count):
        return None
    half_steps = bool(np.all(tensor.zero_point == -0.5))
    if not half_steps and np.any(tensor.zero_point):
        return None
    scale = tensor.scale.astype(np.float64).ravel() / (2 if half_steps else 1)
    return np.broadcast_to(scale, (count,))


_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
_CONVOLUTIONS = (
    *_TRANSPOSED,
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
)


def _norm_after(graph: Graph, call: Call) -> keras.Layer | None:
    """Returns the batch normalization that becomes part of a layer's operator."""
    consumer = graph.only_consumer(call)
    if consumer is None or consumer.layer is None or consumer.kind not in NORMS:
        return None
    if call.layer is None or call.layer.activation is not keras.activations.linear:
        return None
    rank = len(call.layer.output.shape)
    axis = 1 if getattr(call.layer, "data_format", None) == "channels_first" else -1
    return consumer.layer if consumer.layer.axis % rank == axis % rank else None


def _round_bias(layer: keras.Layer, norm: keras.Layer | None, steps: np.ndarray) -> bool:
    """Rounds the bias that a layer and the normalization after it add; returns whether there is one."""
    bias = to_numpy(layer.bias).astype(np.float64) if layer.use_bias else np.zeros(steps.size)
    if norm is None:
        if layer.use_bias:
            layer.bias.assign((bias + _to_nearest_step(bias, steps)).astype(np.float32))
        return layer.use_bias
    factor, offset = affine_of(norm)
    difference = _to_nearest_step(factor * bias + offset, steps * np.abs(factor))
    _shift(norm, factor, difference)
    return True


def _round_norm(norm: keras.layers.BatchNormalization, scale: float) -> None:
    """Rounds the offset of a batch normalization that is an operator of its own, a product with codes of 127."""
    factor, offset = affine_of(norm)
    _shift(norm, factor, _to_nearest_step(offset, scale * np.abs(factor) / LARGEST_CODE))


def _shift(norm: keras.layers.BatchNormalization, factor: np.ndarray, difference: np.ndarray) -> None:
    """Adds a difference to the outputs of a batch normalization."""
    if norm.center:
        norm.beta.assign((to_numpy(norm.beta) + difference).astype(np.float32))
    else:
        share = np.divide(difference, factor, out=np.zeros_like(difference), where=factor != 0)
        norm.moving_mean.assign((to_numpy(norm.moving_mean) - share).astype(np.float32))


def _round_slopes(layer: keras.layers.PReLU) -> None:
    """Rounds the slopes of a PReLU to whole multiples of a 127th of the largest one."""
    slopes = to_numpy(layer.alpha)
    scale = np.float32(np.abs(slopes).max(initial=0) / LARGEST_CODE) or np.float32(1)
    layer.alpha.assign((np.rint(slopes / scale) * scale).astype(np.float32))


def _to_nearest_step(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns the difference to the nearest multiple of a step; 0 where int32 could not hold the multiple."""
    count = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
    return np.where((steps > 0) & (np.abs(count) < LIMIT), np.rint(count) * steps - values, 0.0)
