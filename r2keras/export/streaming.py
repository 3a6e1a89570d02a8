"""One step of a recurrent model: states go in as inputs and come out as outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from r2keras import _model
from r2keras.export.check import check_model
from r2keras.export.recurrent import recurrent_layers

STATE = "state_"
CLOSE = 1e-4
TRIAL_STEPS = 4
FIX = "Expected a model whose outputs at a step depend on that step and those before. Export the model itself"


def streaming(model: keras.Model) -> keras.Model:
    """Returns a model of one time step, with the states of its recurrent layers as inputs and outputs.

    Forward: `outputs_t, states_t = step(inputs_t, states_(t-1))`, from states of zeros, gives what `model` gives for
    the whole sequence: `outputs_t` is the output at step `t`, or, where `model` returns that of the last step alone,
    the output of the sequence up to `t`. A file of it computes as long as data come, and keeps nothing between calls.
    For inference: there is no gradient to train it with.

    The loops are unrolled, so that the file of `to_litert` has none. Names, values and grids stay, and the record of
    `model` is the record of the step. It is tried on a short random sequence before it is returned.

    Args:
        model: a built Functional or Sequential model with LSTM, GRU or SimpleRNN layers, plain or quantized
            (`finalize` comes first); stateful ones too. Its inputs are `(batch, time, ...)`.

    Returns:
        A model with the inputs `(1, 1, ...)` of `model`, then `state_0`, `state_1`, ... of the shape `(1, units)`; and
        with its outputs, then the new states in the same order. A masked step leaves the states alone, and the
        sequence's output beside it does not count.

    Raises:
        TypeError: a subclassed model.
        ValueError: the model is not built, still wrapped for training, or has no recurrent layer; a layer runs
            backwards, gets a state from another layer, or is of another kind; a layer looks at several steps at once.

    Example:

    >>> inputs = keras.Input((None, 3))
    >>> model = keras.Model(inputs, keras.layers.GRU(4, return_sequences=True)(inputs))
    >>> step = streaming(model)
    >>> x, state = np.ones((1, 5, 3), np.float32), np.zeros((1, 4), np.float32)
    >>> for t in range(5):
    ...     y, state = map(keras.ops.convert_to_numpy, step([x[:, t : t + 1], state]))
    >>> bool(np.allclose(y[0, 0], keras.ops.convert_to_numpy(model(x))[0, -1], atol=1e-6))
    True
    """
    check_model(model)
    _check(model)
    copy = _model.rebuild(model, lambda path, layer: _plain(layer))
    trial = [_sample(copy, tensor) for tensor in copy.inputs]
    try:
        whole = _walk(copy, trial, lambda layer, *args, **options: layer(*args, **options))
        step = _step(copy)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"The model {model.name!r} does not run on single steps: {_first_line(error)}. {FIX}."
        ) from error
    _compare(model.name, step, trial, whole)
    return step


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _check(model: keras.Model) -> None:
    """Raises ValueError unless every recurrent layer has a state to hand over that comes from the steps before."""
    layers = recurrent_layers(model)
    if not layers:
        raise ValueError(f"The model {model.name!r} has no recurrent layer. Expected an LSTM, a GRU or a SimpleRNN.")
    taken = [tensor.name for tensor in model.inputs if tensor.name.startswith(STATE)]
    if taken:
        raise ValueError(f"The input {taken[0]!r} has a name that states take. Expected another name than state_...")
    direct = {id(layer) for layer in model.layers}
    for path, layer in layers:
        if id(layer) not in direct:
            reason = "it lies inside another layer or model; call it in the model itself"
        elif not isinstance(layer, (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)):
            reason = "it is no LSTM, GRU or SimpleRNN"
        elif layer.go_backwards:
            reason = "it runs backwards, from the end of the sequence"
        else:
            continue
        raise ValueError(f"The recurrent layer {path!r} has no step of its own: {reason}.")


def _plain(layer: keras.Layer) -> keras.Layer | None:
    """Returns a copy of a recurrent layer that keeps no state by itself; None for other layers."""
    return _with(layer, stateful=False) if isinstance(layer, keras.layers.RNN) else None


def _with(layer: keras.Layer, **changes: Any) -> keras.Layer:
    """Returns an unbuilt copy of a layer with changes in its config."""
    return type(layer).from_config(layer.get_config() | changes)


def _sample(model: keras.Model, tensor: Any) -> np.ndarray:
    """Returns a short random sequence for an input: numbers of rows where the model has tables, else normal ones."""
    if len(tensor.shape) < 2 or None in tensor.shape[2:]:
        raise ValueError(
            f"The input {tensor.name!r} has the shape {tuple(tensor.shape)}. Expected (batch, time, ...), "
            "of known sizes after the time."
        )
    rng, shape = np.random.default_rng(0), (1, TRIAL_STEPS, *tensor.shape[2:])
    tables = [layer for _, layer in _model.leaf_layers(model) if isinstance(layer, keras.layers.Embedding)]
    if tables:
        return rng.integers(0, min(table.input_dim for table in tables), shape).astype(tensor.dtype)
    return rng.normal(size=shape).astype(tensor.dtype)


def _walk(model: keras.Model, inputs: list[Any], call: Callable) -> list[Any]:
    """Runs a model's layers on tensors of other shapes than its own, each through `call`; returns the outputs."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = [call(layer, *inputs)]
        return inputs
    return keras.tree.flatten(model._run_through_graph(inputs, call_fn=call))


def _step(model: keras.Model) -> keras.Model:
    """Returns the model of one step, out of the layers of a copy that is used for nothing else."""
    before: list[Any] = []
    after: list[Any] = []
    unrolled: dict[int, keras.Layer] = {}

    def call(layer, *args, **options):
        if not isinstance(layer, keras.layers.RNN):
            return layer(*args, **options)
        if len(args) > 1 or options.get("initial_state") is not None:
            raise ValueError(f"the layer {layer.name!r} gets its state from another layer")
        states = [_input(f"{STATE}{len(before) + k}", (1, size)) for k, size in enumerate(_sizes(layer))]
        # A layer that was called once keeps the number of its outputs: what returns states has to be another.
        single = unrolled.setdefault(id(layer), _with(layer, return_state=True, unroll=True))
        output, *new = single(*args, initial_state=states, **options)
        _model.transfer(layer.name, layer, single)
        before.extend(states)
        after.extend(new)
        # At a masked step an unrolled loop has no output to repeat; the state is the last one.
        output = output if layer.return_sequences else new[0]
        return [output, *new] if layer.return_state else output

    inputs = [_input(t.name, (1, 1, *t.shape[2:]), t.dtype) for t in model.inputs]
    outputs = _walk(model, inputs, call)
    return keras.Model([*inputs, *before], [*outputs, *after], name=model.name)


def _sizes(layer: keras.layers.RNN) -> list[int]:
    """Returns the sizes of a layer's states."""
    return keras.tree.flatten(layer.state_size)


def _input(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Returns an input of a fixed shape."""
    return keras.Input(batch_shape=shape, dtype=dtype, name=name)


def _compare(name: str, step: keras.Model, inputs: list[np.ndarray], whole: list[Any]) -> None:
    """Raises ValueError unless single steps give the outputs of the whole sequence."""
    states = [np.zeros(t.shape, np.float32) for t in step.inputs[len(inputs) :]]
    parts = []
    for t in range(TRIAL_STEPS):
        found = [keras.ops.convert_to_numpy(y) for y in step([*(x[:, t : t + 1] for x in inputs), *states])]
        parts.append(found[: len(whole)])
        states = found[len(whole) :]
    for expected, *columns in zip(map(keras.ops.convert_to_numpy, whole), *parts, strict=True):
        joined = np.concatenate(columns, axis=1) if columns[0].ndim == expected.ndim > 2 else columns[-1]
        if joined.shape != expected.shape or np.abs(joined - expected).max() > CLOSE * max(np.abs(expected).max(), 1):
            raise ValueError(f"The model {name!r} gives other outputs step by step than for a whole sequence. {FIX}.")
