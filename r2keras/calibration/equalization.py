"""Cross-layer equalization: equal channel ranges in adjacent layers of an unchanged function."""

from __future__ import annotations

from typing import TypeGuard

import keras
import numpy as np
from keras import layers

from r2keras._models import neighbors, rebuild, values
from r2keras._models.walk import ModelView, full_name, view_of
from r2keras._util.errors import invalid_part
from r2keras.calibration import as_matrix

# Passes over all pairs at most, and the largest change of a log factor at which they stop.
SWEEPS = 50
LOG_FACTOR_TOLERANCE = 1e-3
# Layers `f` that treat channels separately and for which f(s x) = s f(x) with s > 0.
HOMOGENEOUS = (
    *(layers.LeakyReLU, layers.PReLU, layers.Identity),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
)
ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)


def equalize(model: keras.Model, *, unclip: bool = False) -> keras.Model:
    """Returns a copy of a model that computes the same function with more even kernels, which suit per-tensor scales.

    If a layer's output channel `i` reaches only one other layer, through an activation with `f(s x) = s f(x)`, the
    channel can be divided by any `s_i > 0` in the first layer and multiplied by it in the second. Let `r1_i` be the
    largest `|W1|` among the weights that produce the channel, and `r2_i` the largest `|W2|` among those that consume
    it. `s_i = sqrt(r1_i r2_i) / r2_i` makes both ranges equal: `W1 / s`, `b1 / s`, `s W2`. All pairs are visited in
    order, repeatedly until the factors are close to 1. A channel with only zero weights on either side stays.

    Args:
        model: a built Functional or Sequential model with folded batch normalizations (`fold_batch_norm`); left
            untouched.
        unclip: whether to replace ReLU layers with a maximum (ReLU6) by plain ReLU first, as the paper does for
            MobileNetV2. This changes the function of the float model. False leaves such pairs unchanged.

    Returns:
        A model of the same class.

    Raises:
        TypeError: `model` is subclassed.
        ValueError: no pair of layers can be equalized (the message names the obstacles); a weight is not finite.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="relu", name="a"),
    ...                           keras.layers.Dense(1, name="b")])
    >>> model.set_weights([np.array([[8.0], [1.0]]), np.zeros(1), np.array([[2.0]]), np.zeros(1)])
    >>> float(equalize(model).get_layer("b").kernel[0, 0])
    4.0

    Source: Nagel et al., arXiv 1906.04721, section 4.1.
    """
    return equalized(view_of(model), unclip=unclip)[0].model


def equalized(view: ModelView, *, unclip: bool = False) -> tuple[ModelView, dict[str, np.ndarray]]:
    """Returns the equalized model, and by layer path the factors by which the layer's input channels were divided."""
    result = view_of(rebuild.rebuild(view, lambda path, layer: _unclipped(layer) if unclip else None))
    # Another layer computes with the weights of a tied one as they are.
    nodes = {path: node for path, node in neighbors.nodes(result).items() if path not in result.tied_sources}
    pairs = _pairs(result.model.name, nodes)
    weights = {path: _Weights(path, nodes[path].layer) for pair in pairs for path in pair}
    factors = {second: np.ones(weights[second].num_inputs) for _, second in pairs}
    for _ in range(SWEEPS):
        largest_change = 0.0
        for first, second in pairs:
            scale = _scale(weights[first].output_ranges(), weights[second].input_ranges())
            weights[first].divide_outputs(scale)
            weights[second].multiply_inputs(scale)
            factors[second] *= scale
            largest_change = max(largest_change, float(np.abs(np.log(scale)).max()))
        if largest_change < LOG_FACTOR_TOLERANCE:
            break
    for layer_weights in weights.values():
        layer_weights.assign()
    return result, factors


def _scale(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns `sqrt(r1 r2) / r2`; 1 for channels that are zero in either layer."""
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.divide(first, second, out=np.ones_like(first), where=alive))


class _Weights:
    """A layer's kernels and bias in float64, which can be scaled per input or output channel."""

    def __init__(self, path: str, layer: keras.Layer):
        self.layer = layer
        input_kernel = layer.depthwise_kernel if isinstance(layer, as_matrix.SEPARABLE) else layer.kernel
        variables = {"first": input_kernel, "last": as_matrix.output_kernel(layer)}
        if layer.bias is not None:
            variables["bias"] = layer.bias
        # "first" and "last" are one entry if a single kernel has both the inputs and the outputs.
        self.variables = {id(variable): variable for variable in variables.values()}
        self.keys = {name: id(variable) for name, variable in variables.items()}
        self.values = {key: values.to_numpy(variable).astype(np.float64) for key, variable in self.variables.items()}
        for key, variable in self.variables.items():
            values.check_finite(full_name(path, variable.name), self.values[key])

    @property
    def num_inputs(self) -> int:
        """The number of input channels."""
        return len(self.input_ranges())

    def input_ranges(self) -> np.ndarray:
        """Returns the largest `|W|` of the weights that consume each input channel."""
        kernel = np.abs(self.values[self.keys["first"]])
        if isinstance(self.layer, as_matrix.TRANSPOSED):
            return kernel.reshape(-1, kernel.shape[-1]).max(axis=0)
        kernel = kernel.reshape(-1, *kernel.shape[-2:]).max(axis=0)
        groups = getattr(self.layer, "groups", 1) if isinstance(self.layer, as_matrix.CONVOLUTIONS) else 1
        return kernel.reshape(len(kernel), groups, -1).max(axis=-1).T.reshape(-1)

    def output_ranges(self) -> np.ndarray:
        """Returns the largest `|W|` of the weights that produce each output channel."""
        kernel = np.abs(self.values[self.keys["last"]])
        if isinstance(self.layer, as_matrix.TRANSPOSED):
            kernel = np.moveaxis(kernel, -1, -2)
        if isinstance(self.layer, as_matrix.DEPTHWISE):
            kernel = kernel.reshape(*kernel.shape[:-2], -1)
        return kernel.reshape(-1, kernel.shape[-1]).max(axis=0)

    def divide_outputs(self, scale: np.ndarray) -> None:
        """Divides the output channels by a scale each."""
        self.values[self.keys["last"]] /= as_matrix.per_output(self.layer, scale)
        if "bias" in self.keys:
            self.values[self.keys["bias"]] /= scale

    def multiply_inputs(self, scale: np.ndarray) -> None:
        """Multiplies the weights of the input channels by a scale each."""
        self.values[self.keys["first"]] *= self._per_input(scale)

    def assign(self) -> None:
        """Writes the values into the layer."""
        for key, variable in self.variables.items():
            variable.assign(self.values[key].astype(np.float32))

    def _per_input(self, scale: np.ndarray) -> np.ndarray:
        """Reshapes one value per input channel to broadcast against the first kernel."""
        if isinstance(self.layer, as_matrix.TRANSPOSED):
            return scale
        if not isinstance(self.layer, as_matrix.CONVOLUTIONS) or self.layer.groups == 1:
            return scale[:, None]
        return np.repeat(scale.reshape(self.layer.groups, -1).T, self.layer.filters // self.layer.groups, axis=1)


def _pairs(name: str, nodes: dict[str, neighbors.Node]) -> list[tuple[str, str]]:
    """Returns the pairs of layers that can be equalized, in order; raises if there is none."""
    pairs: list[tuple[str, str]] = []
    obstacles: list[str] = []
    for path, node in nodes.items():
        if not _is_channelwise(node.layer):
            continue
        second, obstacle = _next_layer(nodes, node)
        if second is not None:
            pairs.append((path, second))
        elif obstacle:
            obstacles.append(f"{path!r}: {obstacle}")
    if not pairs:
        expected = "a Dense layer or a convolution that feeds only one other, through ReLU, LeakyReLU or no activation"
        obstacle = "; ".join(obstacles[:3]) or "fewer than two such layers"
        received = f"the model {name!r}, in which nothing can be equalized ({obstacle})"
        raise ValueError(invalid_part("model", expected, received, "Leave out the step, or fold batch norm first"))
    return pairs


def _next_layer(nodes: dict[str, neighbors.Node], node: neighbors.Node) -> tuple[str | None, str]:
    """Returns the path of the layer that consumes a layer's channels; or None and the obstacle between the two."""
    activation = getattr(node.layer, "activation", None)
    if activation not in ACTIVATIONS:
        return None, f"activation {getattr(activation, '__name__', activation)!r}"
    while True:
        if node.uses != 1 or len(set(node.consumers)) != 1:
            return None, "its output goes to several layers" if node.uses == 1 else "it is called several times"
        follower = nodes.get(node.consumers[0])
        if follower is None:
            return None, ""
        node = follower
        if node.producer is None:
            return None, f"{node.path!r} has several inputs or calls"
        if _is_channelwise(node.layer):
            return node.path, ""
        if not _is_homogeneous(node.layer):
            return None, f"followed by {node.path!r}, {_described(node.layer)}"


def _is_channelwise(layer: keras.Layer | None) -> TypeGuard[keras.Layer]:
    """Whether a layer is linear with one input and one output axis."""
    return as_matrix.is_linear(layer) and not isinstance(layer, layers.EinsumDense)


def _is_homogeneous(layer: keras.Layer | None) -> bool:
    """Whether a layer `f` treats channels separately and satisfies `f(s x) = s f(x)` for `s > 0`."""
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold
    if isinstance(layer, layers.Activation):
        return layer.activation in ACTIVATIONS
    return isinstance(layer, HOMOGENEOUS)


def _described(layer: keras.Layer | None) -> str:
    """Describes a layer that prevents equalization, for messages."""
    if isinstance(layer, layers.ReLU):
        return f"a ReLU clipped at {layer.max_value}" if layer.max_value is not None else "a ReLU with a threshold"
    return "an operation" if layer is None else f"a {type(layer).__name__}"


def _unclipped(layer: keras.Layer) -> keras.Layer | None:
    """Returns a plain ReLU in place of one with a maximum; None for any other layer."""
    if isinstance(layer, layers.ReLU) and layer.max_value is not None:
        return layers.ReLU.from_config({**layer.get_config(), "max_value": None})
    if isinstance(layer, layers.Activation) and layer.activation is keras.activations.relu6:
        return layers.Activation.from_config({**layer.get_config(), "activation": "relu"})
    return None
