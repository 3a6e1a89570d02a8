"""Properties of layer calls on integers: what one operator computes, and which tensors have to share a grid."""

from __future__ import annotations

import keras

from r2keras._models.call_kinds import ACTIVATIONS, FIXED, FOLDING, activation_name, is_global_average
from r2keras._models.graph import Call

# LiteRT's integer operators take inputs on one grid, that of their output, for these layers and operations.
JOINING = ("Concatenate", "Maximum", "Minimum")
# Layers and operations that return the values of their input in order: rounding before or after them is the same.
ORDERED = (
    *("Flatten", "Reshape", "Permute", "Identity", "ActivityRegularization", "Transpose", "Squeeze", "ExpandDims"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D"),
    *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
)
# Functions that LiteRT computes as part of a convolution or a sum.
FUSED = ("linear", "relu", "relu6")
SWISH = ("silu", "swish")


def joins(call: Call) -> bool:
    """Whether a call takes several tensors, which LiteRT requires on one grid."""
    return call.kind in JOINING and len(set(call.inputs)) > 1


def is_fixed(call: Call) -> bool:
    """Whether a call is a softmax, sigmoid or tanh and nothing else."""
    return call.kind.lower() in FIXED or (call.kind == "Activation" and activation_name(call) in FIXED)


def fixed_function(call: Call) -> str | None:
    """Returns the function of a call whose integer form has a fixed grid, `"tanh"` or `"sigmoid"`; else None."""
    if not is_fixed(call):
        return None
    name = activation_name(call) if call.kind == "Activation" else call.kind.lower()
    return "tanh" if name == "tanh" else "sigmoid"


def is_fused(call: Call) -> bool:
    """Whether a call is an activation function that is part of the operator before it."""
    if call.kind == "Activation":
        return activation_name(call) in FUSED
    if call.kind == "ReLU" and call.layer is not None:
        layer = call.layer
        return not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6)
    return call.kind not in ACTIVATIONS or call.kind in ("Relu", "Relu6")


def is_inner_average(call: Call) -> bool:
    """Whether a layer averages over windows without padding, which on integers is a depthwise convolution."""
    if call.kind not in ("AveragePooling1D", "AveragePooling2D") or call.layer is None or is_global_average(call):
        return False
    return call.layer.padding == "valid" and call.layer.data_format == "channels_last"


def separate_function(call: Call) -> str | None:
    """Returns the activation function of a convolution or dense layer that is an operator of its own on integers."""
    name = activation_name(call)
    if call.layer is None or not call.kind.startswith((*FOLDING, "EinsumDense")) or name is None or name in FUSED:
        return None
    return name if getattr(keras.activations, name, None) is call.layer.activation else None
