"""Layers as the integer operators that compute them: functions and convolutions that round in between."""

from __future__ import annotations

from collections.abc import Callable

import keras

from r2keras._models.graph import Call, Graph
from r2keras._models.integer_calls import SWISH, separate_function
from r2keras._models.rebuild import copy_layer, rebuild, transfer
from r2keras._models.walk import ModelView, view_of
from r2keras.compression.traced_functions import composed_name, function_of, is_alone, traced
from r2keras.compression.weight_plan import WeightPlan

# The layers of a split separable convolution; their names are those of its kernels.
PARTS = ("depthwise_kernel", "pointwise_kernel")
SEPARABLE: dict[type[keras.Layer], tuple[type[keras.Layer], type[keras.Layer]]] = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}


def with_integer_forms(
    view: ModelView, is_on_integers: Callable[[Call], bool], end_functions: dict[str, str]
) -> ModelView:
    """Returns a model in which every tensor that integer operators round is the output of a layer.

    Activation functions other than ReLU become layers, `"<layer>_gelu"`; swish becomes a model of a sigmoid and a
    product; a separable convolution becomes a model of its two convolutions; a function of the caller that consists of
    Keras operations becomes a model of these, and so does a function of Keras without an integer operator.

    Args:
        view: the model; returned unchanged if nothing is to be split.
        is_on_integers: whether the output of a call is to have a grid of 8 bits.
        end_functions: functions that become layers in any case, by the paths of the layers that they are part of.
    """
    graph = view.graph
    functions = end_functions | _functions(graph, is_on_integers)
    swishes = {call.path: call.layer for call in graph.calls if _is_swish(call) and is_on_integers(call)}
    separable = {call.path for call in graph.calls if type(call.layer) in SEPARABLE and is_on_integers(call)}
    own = _own_functions(graph, is_on_integers)
    functions = {path: name for path, name in functions.items() if path not in own}
    if not functions and not swishes and not separable and not own:
        return view
    layers = view.layers_by_path

    def split(path: str, layer: keras.Layer) -> keras.Layer | None:
        if path in swishes:
            return _swish(layer.name, layer)
        if path in own and is_alone(layer):
            return own[path]
        changes = {"activation": None} if path in functions or path in own else {}
        if path in separable:
            return _split_separable(layer, **changes)
        return copy_layer(layer, **changes) if changes else None

    def append(path: str, name: str) -> keras.Layer | None:
        if path in own and not is_alone(layers[path]):
            return own[path]
        function = functions.get(path)
        if function is None:
            return None
        new_name = f"{name}_{function}"
        return _swish(new_name, layers[path]) if function in SWISH else keras.layers.Activation(function, name=new_name)

    def carry(path: str, old: keras.Layer, new: keras.Layer) -> None:
        if path not in separable:
            transfer(path, old, new)
            return
        for source, target in zip(old.weights, new.weights, strict=True):
            target.assign(keras.ops.convert_to_numpy(source))

    return view_of(rebuild(view, split, append=append, carry=carry))


def translated(plan: WeightPlan, view: ModelView) -> WeightPlan:
    """Returns a plan of weights for a model from `with_integer_forms`: the parts of a layer take over its specs."""
    known = view.layers_by_path
    new: WeightPlan = {}
    for path, specs in plan.items():
        if path in known:
            new[path] = specs
        else:
            new |= {f"{path}/{name}": {"kernel": spec} for name, spec in specs.items()}
    return new


def _functions(graph: Graph, is_on_integers: Callable[[Call], bool]) -> dict[str, str]:
    """Returns the functions that become layers, by the paths of the layers that they are part of."""
    named = [(call, separate_function(call)) for call in graph.calls]
    return {call.path: name for call, name in named if name is not None and is_on_integers(call)}


def _own_functions(graph: Graph, is_on_integers: Callable[[Call], bool]) -> dict[str, keras.Model]:
    """Returns models of the operations of the caller's functions, by the paths of the layers that they are part of."""
    found: dict[str, keras.Model] = {}
    for call in graph.calls:
        layer, function = call.layer, function_of(call)
        if layer is not None and function is not None and call.path not in found and is_on_integers(call):
            name = layer.name if is_alone(layer) else f"{layer.name}_{composed_name(call) or 'function'}"
            model = traced(function, name, layer)
            if model is not None:
                found[call.path] = model
    return found


def _is_swish(call: Call) -> bool:
    """Whether a call is a layer that applies swish and nothing else."""
    layer = call.layer
    return call.kind == "Activation" and layer is not None and layer.activation is keras.activations.silu


def _swish(name: str, layer: keras.Layer) -> keras.Model:
    """Returns a model that computes `x * sigmoid(x)` on the outputs of a layer."""
    inputs = keras.Input(batch_shape=layer.output.shape, dtype=layer.output.dtype, name=f"{name}_input")
    gate = keras.layers.Activation("sigmoid", name="sigmoid")(inputs)
    return keras.Model(inputs, keras.layers.Multiply(name="product")([inputs, gate]), name=name)


def _split_separable(layer: keras.Layer, **changes: None) -> keras.Model:
    """Returns a model of the depthwise and the pointwise convolution of a separable one."""
    config = layer.get_config() | changes
    shared = {name: config[name] for name in ("data_format", "dtype")}
    first, second = SEPARABLE[type(layer)]
    depthwise = {
        **{name: config[name] for name in ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")},
        **{name: config[name] for name in ("depthwise_initializer", "depthwise_regularizer", "depthwise_constraint")},
    }
    pointwise = {name: config[name] for name in ("filters", "use_bias", "activation", "activity_regularizer")}
    pointwise |= {
        f"kernel_{part}": config[f"pointwise_{part}"] for part in ("initializer", "regularizer", "constraint")
    }
    pointwise |= {f"bias_{part}": config[f"bias_{part}"] for part in ("initializer", "regularizer", "constraint")}
    parts = [
        first.from_config({"name": PARTS[0], "use_bias": False, **shared, **depthwise}),
        second.from_config({"name": PARTS[1], "kernel_size": 1, **shared, **pointwise}),
    ]
    model = keras.Sequential([keras.Input(batch_shape=layer.input.shape), *parts], name=layer.name)
    model.trainable = layer.trainable
    return model
