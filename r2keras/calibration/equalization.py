"""Cross-layer equalization: channel ranges evened out between neighbouring layers, the function unchanged."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from r2keras import _model
from r2keras.calibration import graph, linear

SWEEPS = 50
TOLERANCE = 1e-3
# Layers `f` that keep channels apart and for which f(s x) = s f(x) with s > 0.
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
    """Returns a copy of a model that computes the same with evener kernels, which a scale a tensor fits better.

    Where a layer's channel `i` reaches only one other layer, through an activation with `f(s x) = s f(x)`, the channel
    may be divided by any `s_i > 0` in the first layer and multiplied in the second. With the ranges `r1_i = max |W1|`
    over what makes the channel and `r2_i = max |W2|` over what takes it, `s_i = sqrt(r1_i r2_i) / r2_i` makes the two
    equal: `W1 / s`, `b1 / s`, `s W2`. Pairs are visited in order, again and again until nothing moves. A channel whose
    weights are all zero on either side stays as it is.

    Args:
        model: a built Functional or Sequential model, its batch normalisations folded (`fold_batch_norm`). It is left
            untouched.
        unclip: whether ReLU layers with a maximum (ReLU6) become plain ReLU first, as the paper has it for MobileNetV2.
            That changes what the float model computes; with False such pairs are left alone.

    Returns:
        A model of the same class.

    Raises:
        TypeError: a subclassed model.
        ValueError: no pair of layers can be equalized (the message says what is between them); a weight is not finite.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="relu", name="a"),
    ...                           keras.layers.Dense(1, name="b")])
    >>> model.set_weights([np.array([[8.0], [1.0]]), np.zeros(1), np.array([[2.0]]), np.zeros(1)])
    >>> float(equalize(model).get_layer("b").kernel[0, 0])
    4.0

    Source: Nagel et al., arXiv 1906.04721, section 4.1.
    """
    return equalize_with_factors(model, unclip=unclip)[0]


def equalize_with_factors(model: keras.Model, *, unclip: bool = False) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """Equalizes, and tells by layer path the factors by which the layer's input channels became smaller."""
    result = _model.rebuild(model, lambda path, layer: _unclipped(layer) if unclip else None)
    nodes = graph.nodes(result)
    pairs = _pairs(result.name, nodes)
    weights = {path: _Weights(path, nodes[path].layer) for pair in pairs for path in pair}
    factors = {second: np.ones(weights[second].num_inputs) for _, second in pairs}
    for _ in range(SWEEPS):
        moved = 0.0
        for first, second in pairs:
            scale = _scale(weights[first].output_ranges(), weights[second].input_ranges())
            weights[first].divide_outputs(scale)
            weights[second].multiply_inputs(scale)
            factors[second] *= scale
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < TOLERANCE:
            break
    for part in weights.values():
        part.assign()
    return result, factors


def _scale(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns `sqrt(r1 r2) / r2`, 1 for dead channels."""
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.divide(first, second, out=np.ones_like(first), where=alive))


class _Weights:
    """A layer's kernels and bias in float64, with its input and output channels."""

    def __init__(self, path: str, layer: keras.Layer):
        self.layer = layer
        first = layer.depthwise_kernel if isinstance(layer, linear.SEPARABLE) else layer.kernel
        variables = {"first": first, "last": linear.output_kernel(layer)}
        if layer.bias is not None:
            variables["bias"] = layer.bias
        # One entry for a layer whose one kernel has both its inputs and its outputs.
        self.variables = {id(variable): variable for variable in variables.values()}
        self.keys = {name: id(variable) for name, variable in variables.items()}
        self.values = {key: _model.to_numpy(v).astype(np.float64) for key, v in self.variables.items()}
        for key, variable in self.variables.items():
            _model.check_finite(f"{path}/{variable.name}", self.values[key])

    @property
    def num_inputs(self) -> int:
        return len(self.input_ranges())

    def input_ranges(self) -> np.ndarray:
        """Returns `max |W|` of what takes each input channel."""
        kernel = np.abs(self.values[self.keys["first"]])
        if isinstance(self.layer, linear.TRANSPOSED):
            return kernel.reshape(-1, kernel.shape[-1]).max(axis=0)
        kernel = kernel.reshape(-1, *kernel.shape[-2:]).max(axis=0)
        groups = getattr(self.layer, "groups", 1) if isinstance(self.layer, linear.CONVOLUTIONS) else 1
        return kernel.reshape(len(kernel), groups, -1).max(axis=-1).T.reshape(-1)

    def output_ranges(self) -> np.ndarray:
        """Returns `max |W|` of what makes each output channel."""
        kernel = np.abs(self.values[self.keys["last"]])
        if isinstance(self.layer, linear.TRANSPOSED):
            kernel = np.moveaxis(kernel, -1, -2)
        if isinstance(self.layer, linear.DEPTHWISE):
            kernel = kernel.reshape(*kernel.shape[:-2], -1)
        return kernel.reshape(-1, kernel.shape[-1]).max(axis=0)

    def divide_outputs(self, scale: np.ndarray) -> None:
        """Makes output channels smaller."""
        self.values[self.keys["last"]] /= linear.per_output(self.layer, scale)
        if "bias" in self.keys:
            self.values[self.keys["bias"]] /= scale

    def multiply_inputs(self, scale: np.ndarray) -> None:
        """Makes the weights of input channels larger."""
        self.values[self.keys["first"]] *= self._per_input(scale)

    def assign(self) -> None:
        """Writes the values into the layer."""
        for key, variable in self.variables.items():
            variable.assign(self.values[key].astype(np.float32))

    def _per_input(self, scale: np.ndarray) -> np.ndarray:
        """Reshapes one value an input channel to broadcast against the first kernel."""
        if isinstance(self.layer, linear.TRANSPOSED):
            return scale
        if not isinstance(self.layer, linear.CONVOLUTIONS) or self.layer.groups == 1:
            return scale[:, None]
        return np.repeat(scale.reshape(self.layer.groups, -1).T, self.layer.filters // self.layer.groups, axis=1)


def _pairs(name: str, nodes: dict[str, graph.Node]) -> list[tuple[str, str]]:
    """Returns the pairs of layers that can be equalized, in order; raises if there is none."""
    found, obstacles = [], []
    for path, node in nodes.items():
        if not _is_channelwise(node.layer):
            continue
        end, obstacle = _follow(nodes, node)
        if end is not None:
            found.append((path, end))
        elif obstacle:
            obstacles.append(f"{path!r}: {obstacle}")
    if not found:
        raise ValueError(
            f"Nothing in the model {name!r} can be equalized. Expected a Dense layer or a convolution that feeds only "
            "one other, through ReLU, LeakyReLU or no activation. Received: "
            f"{'; '.join(obstacles[:3]) or 'fewer than two such layers'}. Leave the step out, or fold batch norm first."
        )
    return found


def _follow(nodes: dict[str, graph.Node], node: graph.Node) -> tuple[str | None, str]:
    """Walks from a layer to the one that takes its channels; else says what is in the way."""
    if node.layer.activation not in ACTIVATIONS:
        return None, f"activation {getattr(node.layer.activation, '__name__', node.layer.activation)!r}"
    while True:
        if node.uses != 1 or len(set(node.consumers)) != 1:
            return None, "its output goes to several layers" if node.uses == 1 else "it is called several times"
        node = nodes.get(node.consumers[0])
        if node is None:
            return None, ""
        if node.producer is None:
            return None, f"{node.path!r} has several inputs or calls"
        if _is_channelwise(node.layer):
            return node.path, ""
        if not _is_homogeneous(node.layer):
            return None, f"followed by {node.path!r}, {_described(node.layer)}"


def _is_channelwise(layer: keras.Layer | None) -> bool:
    """Whether a layer is linear with one input and one output axis."""
    return linear.is_linear(layer) and not isinstance(layer, layers.EinsumDense)


def _is_homogeneous(layer: keras.Layer | None) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold
    if isinstance(layer, layers.Activation):
        return layer.activation in ACTIVATIONS
    return isinstance(layer, HOMOGENEOUS)


def _described(layer: keras.Layer | None) -> str:
    """Names a layer that is in the way."""
    if isinstance(layer, layers.ReLU):
        return f"a ReLU that ends at {layer.max_value}" if layer.max_value is not None else "a ReLU with a threshold"
    return "an operation" if layer is None else f"a {type(layer).__name__}"


def _unclipped(layer: keras.Layer) -> keras.Layer | None:
    """Returns a plain ReLU for one with a maximum."""
    if isinstance(layer, layers.ReLU) and layer.max_value is not None:
        return layers.ReLU.from_config({**layer.get_config(), "max_value": None})
    if isinstance(layer, layers.Activation) and layer.activation is keras.activations.relu6:
        return layers.Activation.from_config({**layer.get_config(), "activation": "relu"})
    return None
