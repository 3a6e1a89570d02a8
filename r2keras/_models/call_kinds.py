"""Properties of layer calls: passing inputs on, fusion into one operator, fixed grids, non-negative outputs."""

from __future__ import annotations

import keras

from r2keras._models.graph import Call

# Layers and operations that move or pool values, which then lie on the grid of their input.
PASSING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Masking", "ActivityRegularization", "Concatenate"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"),
    *("AlphaDropout", "UpSampling1D", "UpSampling2D", "UpSampling3D", "Resizing", "ZeroPadding1D", "ZeroPadding2D"),
    *("ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "Pad", "Transpose", "Squeeze", "ExpandDims"),
    *(f"{g}{k}Pooling{d}D" for g in ("", "Global") for k in ("Max", "Average") for d in (1, 2, 3)),
)
# Layers and operations that only apply an activation function.
ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Relu", "Relu6", "Sigmoid", "Tanh", "Silu")
# LiteRT's integer operators have a fixed output grid for these functions.
FIXED = ("softmax", "sigmoid", "tanh")
NORMS = ("BatchNormalization",)
# Beginnings of the kinds of layers into which the converter folds a batch normalization.
FOLDING = ("Conv", "Dense", "Depthwise", "Separable")
# Recurrent layers quantize their state, which is their output, inside the time loop.
RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
# Packages whose functions are known by their names; a function of the caller may have the same name as one of these.
LIBRARIES = ("keras", "tf_keras", "tensorflow", "jax", "torch")
# Activation functions, and kinds of operations, that never return negative values.
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
NEVER_NEGATIVE_KINDS = ("Relu", "Relu6", "Sigmoid", "Softmax", "Exp", "Absolute", "Abs", "Sqrt", "Rsqrt", "Square")


def passes_on(call: Call) -> bool:
    """Whether a call moves or pools values: all of `PASSING`, but no interpolation beyond the range of its input."""
    interpolation = getattr(call.layer, "interpolation", None)
    return call.kind in PASSING and interpolation in (None, "nearest", "bilinear")


def has_state(call: Call) -> bool:
    """Whether a layer's output is its recurrent state."""
    layer = call.layer
    if isinstance(layer, keras.layers.Bidirectional):
        return layer.merge_mode in ("concat", None) and isinstance(layer.forward_layer, RECURRENT)
    return isinstance(layer, RECURRENT)


def is_global_average(call: Call) -> bool:
    """Whether a layer is global average pooling: as an integer operator it has an output grid of its own."""
    if not call.kind.startswith("AveragePooling"):
        return call.kind.startswith("GlobalAverage")
    if call.layer is None:
        return False
    try:
        shape = call.layer.input.shape[1:-1]
    except (AttributeError, ValueError):  # A layer that is called several times.
        return False
    return call.layer.data_format == "channels_last" and tuple(shape) == tuple(call.layer.pool_size)


def activation_name(call: Call) -> str | None:
    """Returns the name of a layer's own activation function; `"custom"` for a function of the caller."""
    function = getattr(call.layer, "activation", None)
    if not callable(function):
        return None
    known = (getattr(function, "__module__", None) or "").partition(".")[0] in LIBRARIES
    return getattr(function, "__name__", "custom") if known else "custom"


def is_linear(call: Call) -> bool:
    """Whether a layer has no activation function of its own, or the linear one."""
    return activation_name(call) in (None, "linear")


def never_negative(call: Call) -> bool:
    """Whether a call never returns negative values."""
    if call.kind == "ReLU" and call.layer is not None:
        return bool(call.layer.negative_slope == 0)
    return call.kind in NEVER_NEGATIVE_KINDS or activation_name(call) in NEVER_NEGATIVE
