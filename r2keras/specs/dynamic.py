"""Specs whose products round each row of their input to 8 bits at run time: which grids of weights they take."""

from __future__ import annotations

from typing import Any

from r2keras._util.errors import invalid

# The `activation_method` of kernels whose products round each row of their input.
DYNAMIC = "dynamic"
# The bits of a rounded input, and the largest code of a weight that multiplies it.
DYNAMIC_BITS, LARGEST_CODE = 8, 127


def is_dynamic(spec: object) -> bool:
    """Whether a spec rounds the rows that its weights multiply.

    Args:
        spec: a spec of weights, or None.

    Example:

    >>> is_dynamic(None)
    False
    """
    return getattr(spec, "activation_method", None) == DYNAMIC


def check_dynamic(spec: Any, activation_bits: int) -> None:
    """Raises ValueError for arguments of a `QuantSpec` that contradict `activation_method="dynamic"`.

    Args:
        spec: the `QuantSpec`, its grid resolved.
        activation_bits: its bits of activations.
    """
    condition = f" with activation_method={DYNAMIC!r}"
    if activation_bits != DYNAMIC_BITS:
        raise ValueError(invalid("activation_bits", f"{DYNAMIC_BITS}{condition}", activation_bits, "Pass 8"))
    if spec.activation_range is not None:
        fix = "Each row has a range of its own at run time"
        raise ValueError(invalid("activation_range", "None" + condition, spec.activation_range, fix))
    if not spec.symmetric:
        fix = "The products take codes around zero"
        raise ValueError(invalid("symmetric", "True" + condition, False, fix))
    if spec.granularity == "per_group":
        fix = "The products take one scale per output channel: use 'per_channel'"
        expected = "'per_channel', 'per_gate' or 'per_tensor'" + condition
        raise ValueError(invalid("granularity", expected, spec.granularity, fix))
    if spec.method == "alternating":
        fix = "The products take one scale per output channel: use method='balanced' or 'lsq'"
        raise ValueError(invalid("method", "a method on a uniform grid" + condition, spec.method, fix))
    if spec.quant_min < -LARGEST_CODE or (spec.levels == "mid_rise" and spec.num_bits == 8):
        fix = f"The products take codes up to {LARGEST_CODE}: leave levels and narrow_range out, or pass num_bits=7"
        expected = "at most 7, or levels='mid_tread' and narrow_range=True," + condition
        raise ValueError(invalid("num_bits", expected, spec.num_bits, fix))
