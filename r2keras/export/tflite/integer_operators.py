"""The LiteRT operators that compute on 8-bit integers, and the grids of their outputs."""

from __future__ import annotations

import dataclasses

from r2keras.export.tflite.activation_grid import ActivationGrid


@dataclasses.dataclass(frozen=True)
class Rule:
    """The integer form of one kind of operator.

    Args:
        version: the operator's lowest version for int8.
        output: grid of its output: `"own"`, any grid; `"same"`, that of the input; `"joined"`, any grid, for the inputs
            too; `"fixed"`, the one that LiteRT prescribes.
        grid: the prescribed grid.
        data: the position of its activation among the inputs; its weight is at position 1, its bias behind both.
        all_inputs: whether all inputs are activations; otherwise only that one is.
        kernel_axis: the axis of the output channels of its weight; None if it has no weight.
        narrow: its lowest version for int8 activations and 4-bit weights; 0 if it takes 8-bit ones only.
        shares_scale: whether all channels of the weight may share one scale.
        constant: the number of equal values that a constant among its inputs may have: `"one"`, `"any"`, or `"none"`.
        keeps_order: whether rounding before or after it gives the same values.
        non_negative: whether its kernel stops at negative inputs.
    """

    version: int
    output: str
    grid: ActivationGrid | None = None
    data: int = 0
    all_inputs: bool = False
    kernel_axis: int | None = None
    narrow: int = 0
    shares_scale: bool = False
    constant: str = "none"
    keeps_order: bool = False
    non_negative: bool = False


# LiteRT's kernels accept no other grid for outputs in [0, 1] and in [-1, 1].
_PROBABILITY = ActivationGrid(1 / 256, -128)
_SIGNED = ActivationGrid(1 / 128, 0)

# Versions as LiteRT's converter writes them (op_version.cc). SQUARED_DIFFERENCE has an int8 kernel, but is part of
# normalizations alone, whose variance and its root 8 bits do not hold.
RULES = {
    "CONV_2D": Rule(3, "own", kernel_axis=0, narrow=7),
    "DEPTHWISE_CONV_2D": Rule(3, "own", kernel_axis=3, narrow=7),
    "TRANSPOSE_CONV": Rule(3, "own", data=2, kernel_axis=0),
    "FULLY_CONNECTED": Rule(5, "own", kernel_axis=0, narrow=10, shares_scale=True),
    "ADD": Rule(2, "own", all_inputs=True, constant="one"),
    "SUB": Rule(3, "own", all_inputs=True, constant="one"),
    "MUL": Rule(2, "own", all_inputs=True, constant="one"),
    "PRELU": Rule(1, "own", all_inputs=True, constant="any"),
    "LEAKY_RELU": Rule(2, "own"),
    "HARD_SWISH": Rule(1, "own"),
    "GELU": Rule(2, "own"),
    "ELU": Rule(1, "own"),
    "EXP": Rule(2, "own"),
    "LOG": Rule(2, "own"),
    "ABS": Rule(2, "own"),
    "SQRT": Rule(2, "own", non_negative=True),
    "RSQRT": Rule(2, "own", non_negative=True),
    "RELU": Rule(2, "own", keeps_order=True),
    "RELU6": Rule(2, "own", keeps_order=True),
    "SOFTMAX": Rule(2, "fixed", grid=_PROBABILITY),
    "LOGISTIC": Rule(2, "fixed", grid=_PROBABILITY),
    "TANH": Rule(2, "fixed", grid=_SIGNED),
    "MEAN": Rule(2, "own"),
    "SUM": Rule(2, "own"),
    "AVERAGE_POOL_2D": Rule(2, "same"),
    "CONCATENATION": Rule(2, "joined", all_inputs=True, keeps_order=True),
    "MAXIMUM": Rule(2, "joined", all_inputs=True, constant="one", keeps_order=True),
    "MINIMUM": Rule(2, "joined", all_inputs=True, constant="one", keeps_order=True),
    "MAX_POOL_2D": Rule(2, "same", keeps_order=True),
    "REDUCE_MAX": Rule(2, "same", keeps_order=True),
    "RESHAPE": Rule(1, "same", keeps_order=True),
    "SQUEEZE": Rule(2, "same", keeps_order=True),
    "EXPAND_DIMS": Rule(1, "same", keeps_order=True),
    "TRANSPOSE": Rule(2, "same", keeps_order=True),
    "PAD": Rule(2, "same", keeps_order=True),
    "MIRROR_PAD": Rule(2, "same", keeps_order=True),
    "STRIDED_SLICE": Rule(2, "same", keeps_order=True),
    "SLICE": Rule(2, "same", keeps_order=True),
    "SPACE_TO_BATCH_ND": Rule(2, "same", keeps_order=True),
    "BATCH_TO_SPACE_ND": Rule(2, "same", keeps_order=True),
    "RESIZE_BILINEAR": Rule(2, "same"),
    "RESIZE_NEAREST_NEIGHBOR": Rule(2, "same", keeps_order=True),
}
# LiteRT for Microcontrollers computes these on floats alone.
FLOAT_ON_MCU = frozenset({"EXP", "LOG", "SQRT"})
# The fused activation functions that integer operators compute.
FUSED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
