"""Layers of a model under reconstruction: learned kernels and biases, and rounded activations with a gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._models import values, walk
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras.layers.quantize_activation import GridActivation
from r2keras.layers.wrappers.substitute import SubstituteWeights
from r2keras.ops.affine import expand
from r2keras.ops.ste import custom_gradient, round_through
from r2keras.record import QuantizedTensor, broadcast_scales

# The names of the weights that shift a layer's outputs.
OFFSETS = ("bias", "beta")
# Share of half a step by which a weight starts off its code, at most: nearer to the next code, noise would move it.
INSIDE = 0.8


class LearnedWeights(SubstituteWeights):
    """Runs a layer with kernels `scale (1 + g) (round(v + r u) - zero_point)` and offsets `b + |b| c`.

    Training changes `u`, `g` and `c`, which start at 0; the gradient of rounding is 1. They are in units that suit one
    learning rate: `r u` in steps of the grid, `g` as a share of the scale, `c` as a share of `|b|`, the root mean
    square of the offsets.

    Args:
        layer: an unbuilt copy of a layer of the quantized model.
        tensors: codes and scales of its kernels at the start, by their names.
        floats: the float kernels by the same names; `v` is as close to them as it can without changing a code.
        offsets: biases at the start, by their names; those that are all zero are not learned.
        rate: the factor `r`; 0 keeps the codes.
    """

    def __init__(
        self,
        layer: keras.Layer,
        tensors: dict[str, QuantizedTensor],
        floats: dict[str, np.ndarray],
        offsets: dict[str, np.ndarray],
        rate: float,
        **kwargs: Any,
    ):
        super().__init__(layer, **kwargs)
        self.tensors, self.rate = tensors, rate
        self.positions = {name: _start(tensor, floats[name]) for name, tensor in tensors.items()}
        self.offsets = {name: offset for name, offset in offsets.items() if np.any(offset)}
        self.moves: dict[str, keras.Variable] = {}
        self.gains: dict[str, keras.Variable] = {}
        self.shifts: dict[str, keras.Variable] = {}

    def build_substitutes(self, *, trained: bool) -> None:
        """Adds the learned variables."""
        for name, tensor in self.tensors.items():
            self.gains[name] = self._variable(f"{name}_gain", tensor.scale.shape)
            if self.rate:
                self.moves[name] = self._variable(f"{name}_move", tensor.codes.shape)
        for name, offset in self.offsets.items():
            self.shifts[name] = self._variable(f"{name}_shift", offset.shape)

    def _variable(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        return self.add_weight(name=name.replace("/", "_"), shape=shape, initializer="zeros")

    @property
    def learned(self) -> list[keras.Variable]:
        """The variables that training changes."""
        return [*self.moves.values(), *self.gains.values(), *self.shifts.values()]

    def learn(self, learns: bool) -> None:
        """Sets whether the next training changes the layer."""
        self.trainable = True
        # The layer's own weights are only replaced.
        self.layer.trainable = False
        for variable in self.learned:
            variable.trainable = learns

    def substitutes(self, training: bool | None) -> list[tuple[keras.Variable, Any]]:
        """Returns the kernels on their grids, and the offsets."""
        variables = dict(walk.relative_weights(self.layer))
        pairs = []
        for name, tensor in self.tensors.items():
            shape = tensor.codes.shape
            scale = ops.convert_to_tensor(tensor.scale) * (1.0 + ops.convert_to_tensor(self.gains[name]))
            zero = ops.convert_to_tensor(broadcast_scales(tensor.zero_point, shape))
            pairs.append((variables[name], expand(scale, shape) * (self._codes(name) - zero)))
        for name, offset in self.offsets.items():
            shift = _size(offset) * ops.convert_to_tensor(self.shifts[name])
            pairs.append((variables[name], ops.convert_to_tensor(offset) + shift))
        return pairs

    def _codes(self, name: str) -> Any:
        """Returns the codes of a kernel as floats, with a gradient."""
        spec = self.tensors[name].spec
        position = ops.convert_to_tensor(self.positions[name])
        if name in self.moves:
            position = position + self.rate * ops.convert_to_tensor(self.moves[name])
        # Clipped after rounding, so that a weight beyond the last code still has a gradient that brings it back.
        return clip_through(round_through(position), spec.quant_min, spec.quant_max)

    def learned_tensors(self) -> dict[str, QuantizedTensor]:
        """Returns the learned codes and scales by the names of the kernels."""
        found = {}
        for name, tensor in self.tensors.items():
            codes = ops.convert_to_numpy(self._codes(name)).astype(np.int8)
            # A scale cannot pass zero, whatever the learning rate.
            share = np.maximum(1 + values.to_numpy(self.gains[name]), np.float32(1e-3))
            found[name] = dataclasses.replace(tensor, codes=codes, scale=tensor.scale * share)
        return found

    def learned_offsets(self) -> dict[str, np.ndarray]:
        """Returns the learned offsets by their names."""
        return {
            name: offset + np.float32(_size(offset)) * values.to_numpy(self.shifts[name])
            for name, offset in self.offsets.items()
        }


class PassingGrid(IgnoresSparseMarks):
    """Rounds its input to the grid of a `GridActivation`, with a gradient of 1 inside the grid's range.

    Args:
        grid: the layer that it stands for.
        drop: probability with which a value passes unrounded while `drops` is set.
        seed: seed of the choice.
    """

    holds_constants = True

    def __init__(self, grid: GridActivation, drop: float, seed: int):
        super().__init__(name=grid.name, autocast=False)
        self.scale, self.zero_point, self.limits = grid.scale, float(grid.zero_point), grid.limits
        self.drop = drop
        self.supports_masking = True
        if drop:
            self.random = keras.random.SeedGenerator(seed)
            self.share = self.add_weight(name="share", shape=(), initializer="zeros", trainable=False)
        self.built = True

    def drops(self, does: bool) -> None:
        """Sets whether values pass unrounded at random."""
        if self.drop:
            self.share.assign(self.drop if does else 0.0)

    def call(self, inputs):
        """Returns the rounded tensor."""
        x = ops.cast(inputs, "float32")
        codes = round_through(ops.clip(x / self.scale + self.zero_point, *self.limits))
        rounded = self.scale * (codes - self.zero_point)
        if self.drop:
            chance = keras.random.uniform(ops.shape(x), seed=self.random)
            rounded = ops.where(chance < ops.convert_to_tensor(self.share), x, rounded)
        return ops.cast(rounded, inputs.dtype)


def clip_through(x, low: float, high: float):
    """Clips a tensor, with a gradient of 1."""
    return custom_gradient(lambda t: (ops.clip(t, low, high), lambda upstream: upstream))(x)


def _start(tensor: QuantizedTensor, weight: np.ndarray) -> np.ndarray:
    """Returns the positions of float weights on a grid, moved into the cells of their codes."""
    scale, zero_point = (broadcast_scales(array, weight.shape) for array in (tensor.scale, tensor.zero_point))
    steps = np.clip(weight / scale + zero_point, tensor.codes - INSIDE / 2, tensor.codes + INSIDE / 2)
    return steps.astype(np.float32)


def _size(offset: np.ndarray) -> float:
    """Returns the root mean square of a layer's offsets."""
    return float(np.sqrt(np.mean(np.square(offset, dtype=np.float64))))
