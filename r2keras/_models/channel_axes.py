"""Output-channel axes of kernels, along which per-channel scales vary."""

from __future__ import annotations

import keras

from r2keras._models.keras_internals import parts_of
from r2keras._models.tf_keras_layers import is_a, last_name
from r2keras._util.errors import invalid
from r2keras.specs import QuantSpec

# Class names rather than classes, because the layers of tf_keras have the same names.
DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


def scale_shape(spec: QuantSpec, layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """Returns the shape of a weight's scale: the weight's rank, each axis 1, the full size, or a number of groups.

    Args:
        spec: the granularity.
        layer: the layer that holds the weight, directly or in a sublayer.
        variable: the weight.

    Returns:
        For a Dense kernel (8, 4): per tensor (1, 1), per channel (1, 4), per group of 2 (4, 4). For an LSTM kernel
        (8, 16): per gate (1, 4).

    Raises:
        ValueError: `channel_axis` outside the weight's rank; groups for a weight without an input axis, or with one
            that `group_size` does not divide; `granularity="per_gate"` for a layer without gates.

    Example:

    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 8))
    >>> scale_shape(QuantSpec(granularity="per_group", group_size=2), layer, layer.kernel)
    (4, 4)
    """
    shape = tuple(variable.shape)
    if spec.granularity == "per_tensor":
        return (1,) * len(shape)
    owner = _owner(layer, variable)
    if spec.granularity == "per_gate":
        return (1, _num_gates(owner, variable))
    if spec.channel_axis is None:
        channel_axes = _output_axes(owner, variable)
    else:
        channel_axes = (_checked_axis(spec.channel_axis, variable),)
    sizes = [size if axis in channel_axes else 1 for axis, size in enumerate(shape)]
    if spec.group_size is not None:
        axis = _input_axis(owner, variable, channel_axes)
        sizes[axis] = _num_groups(spec.group_size, shape[axis], variable)
    return tuple(sizes)


def output_axes(layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """Returns the axes of a kernel that keep their own scale under per-channel quantization.

    Args:
        layer: the layer that holds the weight, directly or in a sublayer.
        variable: the weight.

    Returns:
        Axes as non-negative numbers: one, or two for a depthwise kernel.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 4))
    >>> output_axes(layer, layer.kernel)
    (2, 3)
    """
    return _output_axes(_owner(layer, variable), variable)


def _owner(layer: keras.Layer, variable: keras.Variable) -> keras.Layer:
    """Returns the innermost sublayer that holds the variable."""
    parts = [part for part in parts_of(layer) if any(weight is variable for weight in part.weights)]
    return parts[-1] if parts else layer


def _output_axes(owner: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """Returns the axes of a kernel that become axes of the layer's output, as non-negative numbers."""
    rank = len(variable.shape)
    name = last_name(variable)
    if name == "embeddings":
        return (0,)
    if name == "depthwise_kernel" or is_a(owner, *DEPTHWISE):
        return (rank - 2, rank - 1)
    if is_a(owner, *TRANSPOSED):
        return (rank - 2,)
    if is_a(owner, "EinsumDense"):
        _, kernel, output = _equation(owner)
        return tuple(axis for axis, letter in enumerate(kernel) if letter in output)
    return (rank - 1,)


def _input_axis(owner: keras.Layer, variable: keras.Variable, channel_axes: tuple[int, ...]) -> int:
    """Returns the axis that groups run along: the innermost of those that products are summed over."""
    summed = [axis for axis in range(len(variable.shape)) if axis not in channel_axes]
    if not summed or (len(channel_axes) > 1 and not is_a(owner, "EinsumDense")):
        shape = tuple(variable.shape)
        expected = f"another granularity for {_path(variable)} of shape {shape}, which has no input axis to group"
        raise ValueError(invalid("granularity", expected, "per_group", "Use granularity='per_channel'"))
    return summed[-1]


def _equation(owner: keras.layers.EinsumDense) -> tuple[str, str, str]:
    """Splits "ab,bc->ac" into its three parts."""
    inputs, output = owner.equation.replace(" ", "").split("->")
    return (*inputs.split(","), output)


def _checked_axis(channel_axis: int, variable: keras.Variable) -> int:
    """Returns a spec's `channel_axis` as a non-negative number."""
    rank = len(variable.shape)
    if not -rank <= channel_axis < rank:
        expected = f"an axis of {_path(variable)}, whose shape is {tuple(variable.shape)}"
        raise ValueError(invalid("channel_axis", expected, channel_axis))
    return channel_axis % rank


def _num_gates(owner: keras.Layer, variable: keras.Variable) -> int:
    """Returns the number of gates side by side in a recurrent layer's kernel."""
    cells = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
    if not isinstance(owner, cells):
        expected = f"another granularity for {variable.path}, which is not a kernel of an LSTM, GRU or SimpleRNN"
        raise ValueError(invalid("granularity", expected, "per_gate", "Use granularity='per_channel'"))
    return variable.shape[-1] // owner.units


def _num_groups(group_size: int, size: int, variable: keras.Variable) -> int:
    """Returns the number of groups along an axis of `size` weights."""
    if size % group_size:
        raise ValueError(
            invalid(
                "group_size",
                f"a divisor of {size}, the input axis of {_path(variable)}",
                group_size,
                "Choose a divisor, or granularity='per_channel'",
            )
        )
    return size // group_size


def _path(variable: keras.Variable) -> str:
    """Returns a weight's path; a tf_keras variable has it in its name, `"conv/kernel:0"`."""
    return getattr(variable, "path", None) or variable.name.partition(":")[0]
