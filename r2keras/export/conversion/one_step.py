"""`streaming`: one time step of a recurrent model, with its states as inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from r2keras._models import rebuild
from r2keras._models.either_keras import SourceModel
from r2keras._models.keras_internals import run_through_graph
from r2keras._util.errors import invalid_part
from r2keras.export.conversion.checks import checked_source

# The prefix of the names of state inputs.
STATE = "state_"
# The step is compared with the whole sequence on a random one of this length. Sums in another order differ by rounding;
# a model that uses other steps differs by far more than this share of the largest output.
TRIAL_STEPS = 4
OUTPUT_TOLERANCE = 1e-4
EXPECTED = "a model whose outputs at a step depend only on that step and earlier ones"
FIX = "Export the model itself"


def streaming(model: keras.Model) -> keras.Model:
    """Returns a model of one time step, with the states of its recurrent layers as inputs and outputs.

    Forward: `outputs_t, states_t = step(inputs_t, states_(t-1))`, starting from states of zeros, computes what `model`
    computes for the whole sequence: `outputs_t` is the output at step `t` or, if `model` returns only the output of the
    last step, the output for the sequence up to `t`. A file of the step runs on endless data and keeps nothing between
    calls. The step is for inference; it has no gradient to train it with.

    Loops are unrolled, so the file of `to_litert` has none. Names, values and grids stay the same, and the record of
    `model` is valid for the step. The step is compared with `model` on a short random sequence before it is returned.

    Args:
        model: a built Functional or Sequential model with LSTM, GRU or SimpleRNN layers, plain or quantized (call
            `finalize` first), stateful or not. Its inputs are `(batch, time, ...)`.

    Returns:
        A model that takes the inputs `(1, 1, ...)` of `model`, then `state_0`, `state_1`, ... of shape `(1, units)`,
        and returns the outputs of `model`, then the new states in the same order. A masked step does not change the
        states, and its outputs have no meaning.

    Raises:
        TypeError: a subclassed model.
        ValueError: the model is not built, still wrapped for training, or has no recurrent layer; a layer runs
            backwards, gets a state from another layer, or is of another kind; a layer uses several steps at once.

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
    source = checked_source(model)
    _check(source)
    copy = rebuild.rebuild(source.view, lambda path, layer: _stateless(layer))
    vocabulary_size = _vocabulary_size(source)
    trial = [_sample(tensor, vocabulary_size) for tensor in copy.inputs]
    try:
        whole = _run_layers(copy, trial, lambda layer, *args, **options: layer(*args, **options))
        step = _step(copy)
    except (ValueError, TypeError, RuntimeError) as error:
        received = f"the model {model.name!r}, which does not run on single steps: {_first_line(error)}"
        raise ValueError(invalid_part("model", EXPECTED, received, FIX)) from error
    _compare(model.name, step, trial, whole)
    return step


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _check(source: SourceModel) -> None:
    """Raises ValueError unless the model has recurrent layers whose states come from earlier steps only."""
    if not source.recurrent:
        received = f"the model {source.name!r}, which has no recurrent layer"
        raise ValueError(invalid_part("model", "a model with an LSTM, a GRU or a SimpleRNN", received, FIX))
    reserved = [tensor.name for tensor in source.model.inputs if tensor.name.startswith(STATE)]
    if reserved:
        expected = f"names of inputs that do not begin with {STATE!r}"
        received = f"the input {reserved[0]!r}, whose name is reserved for states"
        raise ValueError(invalid_part("model", expected, received, "Rename the input"))
    direct = {id(layer) for layer in source.model.layers}
    for path, layer in source.recurrent:
        if id(layer) not in direct:
            reason = "it is inside another layer or model, and not in the model itself"
        elif not isinstance(layer, (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)):
            reason = "it is not an LSTM, GRU or SimpleRNN"
        elif layer.go_backwards:
            reason = "it runs backwards, from the end of the sequence"
        else:
            continue
        expected = "recurrent layers that run on single steps"
        raise ValueError(invalid_part("model", expected, f"the recurrent layer {path!r}: {reason}", FIX))


def _stateless(layer: keras.Layer) -> keras.Layer | None:
    """Returns a copy of a recurrent layer that keeps no state between calls; None for other layers."""
    return rebuild.copy_layer(layer, stateful=False) if isinstance(layer, keras.layers.RNN) else None


def _vocabulary_size(source: SourceModel) -> int | None:
    """Returns the number of words that every embedding of a model has; None without embeddings."""
    sizes = [layer.input_dim for _, layer in source.layers if isinstance(layer, keras.layers.Embedding)]
    return min(sizes, default=None)


def _sample(tensor: keras.KerasTensor, vocabulary_size: int | None) -> np.ndarray:
    """Returns a short random sequence for an input: row numbers if the model has embeddings, else normal values."""
    if len(tensor.shape) < 2 or None in tensor.shape[2:]:
        expected = "inputs of shape (batch, time, ...) with known sizes after the time axis"
        received = f"the input {tensor.name!r} of shape {tuple(tensor.shape)}"
        raise ValueError(invalid_part("model", expected, received, "Give the Input its full shape"))
    rng = np.random.default_rng(0)
    shape = (1, TRIAL_STEPS, *tensor.shape[2:])
    if vocabulary_size is not None:
        return rng.integers(0, vocabulary_size, shape).astype(tensor.dtype)
    return rng.normal(size=shape).astype(tensor.dtype)


def _run_layers(model: keras.Model, inputs: list, call: Callable) -> list:
    """Runs a model's layers, each through `call`, on tensors that may have other shapes; returns the outputs."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = [call(layer, *inputs)]
        return inputs
    return keras.tree.flatten(run_through_graph(model, inputs, call))


def _step(model: keras.Model) -> keras.Model:
    """Returns the model of one step; it takes over the layers of `model`, which must not be used afterwards."""
    before: list[keras.KerasTensor] = []
    after: list[keras.KerasTensor] = []
    unrolled: dict[int, keras.Layer] = {}

    def call(layer, *args, **options):
        if not isinstance(layer, keras.layers.RNN):
            return layer(*args, **options)
        if len(args) > 1 or options.get("initial_state") is not None:
            raise ValueError(f"the layer {layer.name!r} gets its state from another layer")
        sizes = keras.tree.flatten(layer.state_size)
        states = [_input(f"{STATE}{len(before) + number}", (1, size)) for number, size in enumerate(sizes)]
        # A layer that was called once keeps the number of its outputs, so a new one has to return the states.
        single = unrolled.setdefault(id(layer), rebuild.copy_layer(layer, return_state=True, unroll=True))
        output, *new = single(*args, initial_state=states, **options)
        rebuild.transfer(layer.name, layer, single)
        before.extend(states)
        after.extend(new)
        # At a masked step an unrolled loop has no earlier output to repeat; the first state is the last output.
        output = output if layer.return_sequences else new[0]
        return [output, *new] if layer.return_state else output

    inputs = [_input(tensor.name, (1, 1, *tensor.shape[2:]), tensor.dtype) for tensor in model.inputs]
    outputs = _run_layers(model, inputs, call)
    return keras.Model([*inputs, *before], [*outputs, *after], name=model.name)


def _input(name: str, shape: tuple[int, ...], dtype: str = "float32") -> keras.KerasTensor:
    """Returns an input of a fixed shape."""
    return keras.Input(batch_shape=shape, dtype=dtype, name=name)


def _compare(name: str, step: keras.Model, inputs: list[np.ndarray], whole: list) -> None:
    """Raises ValueError unless single steps give the outputs of the whole sequence."""
    states = [np.zeros(tensor.shape, np.float32) for tensor in step.inputs[len(inputs) :]]
    parts = []
    for t in range(TRIAL_STEPS):
        results = [keras.ops.convert_to_numpy(y) for y in step([*(x[:, t : t + 1] for x in inputs), *states])]
        parts.append(results[: len(whole)])
        states = results[len(whole) :]
    for expected, *columns in zip(map(keras.ops.convert_to_numpy, whole), *parts, strict=True):
        joined = np.concatenate(columns, axis=1) if columns[0].ndim == expected.ndim > 2 else columns[-1]
        tolerance = OUTPUT_TOLERANCE * max(np.abs(expected).max(), 1)
        if joined.shape != expected.shape or np.abs(joined - expected).max() > tolerance:
            received = f"the model {name!r}, which has other outputs step by step than for a whole sequence"
            raise ValueError(invalid_part("model", EXPECTED, received, FIX))
