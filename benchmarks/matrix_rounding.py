"""How far rounding alone can move a quantized model of Keras: by ties, and by one code of every activation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np

from r2keras.layers.quantize_activation import GridActivation

# Of the largest value of a tensor: what another order of float additions changes.
JITTER = 2e-6
# Of the largest value of a tensor: about two units in the last place of float32.
ULPS = 2e-7
TRIALS = 8
# Layers whose output has the codes of their input.
KEEPS_CODES = (keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute)
Change = Callable[[GridActivation, np.ndarray], np.ndarray]


@contextlib.contextmanager
def _changed(before: Change, after: Change) -> Iterator[None]:
    """Changes the values of every quantized activation before and after rounding, while the block runs."""
    call = GridActivation.call

    def changed(self: GridActivation, inputs):
        values = before(self, np.asarray(inputs))
        rounded = np.asarray(call(self, keras.ops.convert_to_tensor(values)))
        return keras.ops.convert_to_tensor(after(self, rounded))

    GridActivation.call = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        GridActivation.call = call  # type: ignore[method-assign]


def _as_it_is(_: GridActivation, values: np.ndarray) -> np.ndarray:
    return values


def _outputs(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a model that is called outside of a graph."""
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def tied_samples(model: keras.Model, inputs: list[np.ndarray], tolerance: float) -> np.ndarray:
    """Returns a mask of the samples whose outputs move by `tolerance` of the range if float rounding differs."""
    jitter = _jitter(JITTER)
    plain, tied = _outputs(model, inputs), np.zeros(len(inputs[0]), bool)
    for _ in range(TRIALS):
        with _changed(jitter, _as_it_is):
            moved = _outputs(model, inputs)
        for a, b in zip(plain, moved, strict=True):
            tied |= (np.abs(a - b) > tolerance * max(float(np.ptp(a)), 1e-12)).reshape(len(a), -1).any(axis=1)
    return tied


def against_itself(model: keras.Model, data: np.ndarray) -> tuple[float, float]:
    """Compares a model with itself where float sums differ by two units in the last place before they are rounded.

    Args:
        model: a finalized classifier with one input and one output.
        data: its inputs.

    Returns:
        The root mean square difference of the outputs, and the share of equal decisions.
    """
    jitter, (plain,) = _jitter(ULPS), _outputs(model, [data])
    squares, equal = [], []
    for _ in range(TRIALS // 2):
        with _changed(jitter, _as_it_is):
            (moved,) = _outputs(model, [data])
        squares.append(np.square(moved - plain).mean())
        equal.append(np.mean(moved.argmax(axis=-1) == plain.argmax(axis=-1)))
    return float(np.sqrt(np.mean(squares))), float(np.mean(equal))


def _jitter(share: float) -> Change:
    """Returns a change that moves values by up to a share of the tensor's largest."""
    rng = np.random.default_rng(0)

    def moved(_: GridActivation, values: np.ndarray) -> np.ndarray:
        size = share * np.abs(values).max(initial=0.0)
        return values + (size * rng.uniform(-1, 1, values.shape)).astype(values.dtype)

    return moved


def _unrounded(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers whose outputs another layer reads without rounding them first."""
    found = []
    for layer in model._flatten_layers(include_self=False):
        readers = [node.operation for node in layer._outbound_nodes]
        computes = not isinstance(layer, (GridActivation, keras.Model, *KEEPS_CODES))
        if computes and not all(isinstance(reader, GridActivation) for reader in readers):
            found.append(layer)
    return found


@contextlib.contextmanager
def _rounded(layers: list[keras.Layer], change: Callable[[np.ndarray], np.ndarray]) -> Iterator[None]:
    """Changes the float outputs of layers while the block runs."""
    calls = [layer.call for layer in layers]

    def changed(call: Callable[..., object]) -> Callable[..., object]:
        def one(tensor: object) -> object:
            values = np.asarray(tensor)
            return keras.ops.convert_to_tensor(change(values)) if values.dtype.kind == "f" else tensor

        return functools.wraps(call)(lambda *args, **kwargs: keras.tree.map_structure(one, call(*args, **kwargs)))

    for layer, call in zip(layers, calls, strict=True):
        layer.call = changed(call)
    try:
        yield
    finally:
        for layer, call in zip(layers, calls, strict=True):
            layer.call = call


def one_code_off(model: keras.Model, inputs: list[np.ndarray], share: float, every_layer: bool = False) -> list[float]:
    """Returns how far each output moves (root mean square) if a share of all activations is one code off.

    Args:
        model: a finalized model.
        inputs: its inputs.
        share: share of the values that move, half of them up.
        every_layer: whether outputs of layers that Keras does not round are rounded, as in a file with `data=`: to 8
            bits over the range that they have.
    """
    rng = np.random.default_rng(0)

    def off(layer: GridActivation, values: np.ndarray) -> np.ndarray:
        moves = rng.choice([-1, 0, 1], values.shape, p=[share / 2, 1 - share, share / 2]) * layer.scale
        ends = [layer.scale * (code - layer.zero_point) for code in (-128, 127)]
        return np.clip(values + moves, *ends).astype(values.dtype)

    def to_8_bits(values: np.ndarray) -> np.ndarray:
        step = float(np.ptp(values)) / 255 or 1.0
        start = rng.uniform(0, step)
        return ((np.rint((values - start) / step)) * step + start).astype(values.dtype)

    plain = _outputs(model, inputs)
    squares = np.zeros(len(plain))
    for _ in range(TRIALS // 2):
        with _changed(_as_it_is, off), _rounded(_unrounded(model) if every_layer else [], to_8_bits):
            moved = _outputs(model, inputs)
        squares += [np.square(a - b).mean() for a, b in zip(plain, moved, strict=True)]
    return [float(value) for value in np.sqrt(squares / (TRIALS // 2))]
