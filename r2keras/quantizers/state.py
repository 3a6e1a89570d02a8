"""Rounding of hidden states of recurrent layers inside the time loop, on a range that is known without data."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from r2keras._util.errors import invalid
from r2keras.ops import affine
from r2keras.ops.range_quantize import on_grid
from r2keras.ops.ste import custom_gradient
from r2keras.record import QuantizedActivation
from r2keras.specs import QuantSpec

GATE_RANGES = {"sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0)}
STATE_RANGES = {"tanh": (-1.0, 1.0), "hard_tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), **GATE_RANGES}


def state_range(activation: Callable, recurrent_activation: Callable | None = None) -> tuple[float, float]:
    """Returns the range that a hidden state never leaves, extended to include 0: that of its activation function.

    The state of an LSTM is an activation times a gate, that of a GRU a mean of activations weighted by a gate, and
    gates lie in [0, 1].

    Args:
        activation: activation function of the candidate, or of an LSTM's cell state.
        recurrent_activation: activation function of the gates; None for a layer without gates.

    Raises:
        ValueError: an unbounded function, or gates that can leave [0, 1].

    Example:

    >>> import keras
    >>> state_range(keras.activations.tanh, keras.activations.sigmoid)
    (-1.0, 1.0)
    """
    fix = "Choose activation='tanh' and recurrent_activation='sigmoid', or leave state_spec out"
    name, gate_name = (getattr(function, "__name__", "") for function in (activation, recurrent_activation))
    if name not in STATE_RANGES:
        raise ValueError(invalid("activation", f"one of {', '.join(STATE_RANGES)} with state_spec", name, fix))
    if recurrent_activation is not None and gate_name not in GATE_RANGES:
        expected = f"one of {', '.join(GATE_RANGES)} with state_spec"
        raise ValueError(invalid("recurrent_activation", expected, gate_name, fix))
    return STATE_RANGES[name]


def state_grid(spec: QuantSpec, low: float, high: float) -> QuantizedActivation:
    """Returns a spec's grid over a range; a symmetric one covers `max(|low|, |high|)`.

    Args:
        spec: the grid; its method, range and granularity have no effect.
        low: lower end, at most 0.
        high: upper end.

    Returns:
        A grid without a name.

    Example:

    >>> grid = state_grid(QuantSpec(num_bits=3), -1.0, 1.0)
    >>> round(grid.scale, 3), grid.zero_point
    (0.333, 0.0)
    """
    ends = ops.convert_to_tensor([low, high], "float32")
    limits = (spec.quant_min, spec.quant_max)
    if spec.symmetric:
        zero_point = -0.5 if spec.levels == "mid_rise" else 0.0
        scale = affine.symmetric_scale(ends, (1,), *limits, zero_point)
    else:
        scale, zero_point = affine.asymmetric_range(ends, (1,), *limits)
        zero_point = float(ops.convert_to_numpy(zero_point)[0])
    return QuantizedActivation("", float(ops.convert_to_numpy(scale)[0]), zero_point, spec.num_bits)


def round_state(h, grid: QuantizedActivation):
    """Rounds a state to a fixed grid.

    Forward: `scale * (clip(round(h / scale + zero_point), -2^(b-1), 2^(b-1) - 1) - zero_point)`.
    Gradient: `dy/dh = 1` everywhere, because no state leaves the range of the grid.

    Args:
        h: float tensor; float16 and bfloat16 are computed in float32.
        grid: step, zero point (a code, or -1/2 for a mid-rise grid) and bits.

    Returns:
        Tensor of `h`'s shape and type.

    Example:

    >>> grid = state_grid(QuantSpec(num_bits=2), -1.0, 1.0)
    >>> ops.convert_to_numpy(round_state(ops.convert_to_tensor([-1.0, 0.1, 0.9]), grid)).tolist()
    [-0.75, 0.25, 0.75]

    Source: Kapur et al., arXiv 1710.07706; He et al., arXiv 1611.10176, section 3.
    """
    top = 2 ** (grid.num_bits - 1)

    @custom_gradient
    def rounded(h):
        value = on_grid(ops.cast(h, "float32"), grid.scale, float(grid.zero_point), -top, top - 1)
        return ops.cast(value, h.dtype), lambda upstream: upstream

    return rounded(h)
