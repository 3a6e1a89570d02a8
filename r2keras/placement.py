"""Where activations are quantized: once a tensor, after the activation function or the residual sum."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable

import keras

from r2keras import _model
from r2keras._errors import invalid
from r2keras._graph import Call, Graph, Tensor, graph_of
from r2keras.recipe import Recipe
from r2keras.specs import ActivationSpec

# They move or pool values that lie on a grid already.
PASSING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Masking", "ActivityRegularization", "Concatenate"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"),
    *("AlphaDropout", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D"),
    *("ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "Pad", "Transpose", "Squeeze", "ExpandDims"),
    *(f"{g}{k}Pooling{d}D" for g in ("", "Global") for k in ("Max", "Average") for d in (1, 2, 3)),
)
ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Relu", "Relu6", "Sigmoid", "Tanh", "Silu")
# LiteRT's integer operators compute these to a grid of their own.
FIXED = ("softmax", "sigmoid", "tanh")
NORMS = ("BatchNormalization",)
FOLDING = ("Conv", "Dense", "Depthwise", "Separable")
# They quantize their states, which are their outputs, inside their time loops.
RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
NEVER_NEGATIVE_KINDS = ("Relu", "Relu6", "Sigmoid", "Softmax")


def activation_plan(
    model: keras.Model, recipe: Recipe, *, input_bits: int | None = None, output_bits: int | None = None
) -> dict[str, ActivationSpec]:
    """Returns which tensors of a model a recipe quantizes, and how: what `prepare` inserts.

    A tensor is quantized once, where LiteRT's fused operators end: after convolution, batch normalisation and
    activation function together, after a residual sum (and the activation function that follows it directly), after a
    layer's own activation. Pooling, reshaping, padding, dropout and concatenation pass their inputs on. What reaches
    the model's outputs only through such layers or a last activation function (logits, probabilities) stays float.
    The state of a recurrent layer is quantized inside its time loop instead: `prepare` makes it a
    `layers.QuantizedLSTM` (or GRU, or SimpleRNN).

    The recipe's first rule that matches any layer of such a group decides; a group that no rule matches, as a sum may
    be, takes the spec of the tensors it is made from.

    Args:
        model: a built Functional or Sequential model.
        recipe: what becomes what; specs with `activation_bits` quantize the outputs of their layers.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of what else a file on integers from end to end rounds: the model's outputs, before a last
            softmax, sigmoid or tanh (which becomes a layer of its own where it is part of another), and averages over
            all of an image; 2 to 8; None leaves them float.

    Returns:
        Specs by the path of the layer whose output is quantized, in the order they run.

    Raises:
        ValueError: the recipe has `activation_bits` but there is no tensor to quantize; a bad `input_bits` or
            `output_bits`.

    Warns:
        UserWarning: a rule has `activation_bits` and decides no tensor, as one for the last layer alone.

    Example:

    >>> from r2keras import QuantSpec
    >>> hidden = [keras.layers.Dense(3, name="a"), keras.layers.ReLU(name="r"), keras.layers.Dense(2)]
    >>> layers = [keras.Input((4,)), *hidden]
    >>> recipe = Recipe([(".*", QuantSpec(num_bits=4, activation_bits=4))])
    >>> {path: spec.unsigned for path, spec in activation_plan(keras.Sequential(layers), recipe).items()}
    {'r': True}

    Source: Jacob et al., arXiv 1712.05877, section 3.
    """
    bare = model if output_bits is None else with_bare_ends(model)
    plan, idle = planned(bare, recipe, input_bits, output_bits)
    for pattern in idle:
        warnings.warn(
            f"The activation_bits of the recipe's rule {pattern!r} quantize nothing. Expected a matched layer whose "
            "output feeds another (under activation_method='alternating' a recurrent one); outputs of the model stay "
            "float. Leave them out of this rule.",
            UserWarning,
            stacklevel=2,
        )
    return plan


def planned(
    model: keras.Model, recipe: Recipe, input_bits: int | None, output_bits: int | None = None
) -> tuple[dict[str, ActivationSpec], list[str]]:
    """Returns the plan of `activation_plan`, and the patterns of rules whose activation bits come to nothing."""
    plan = {} if input_bits is None else _input_plan(model, input_bits)
    ends = None if output_bits is None else _end_spec("output_bits", output_bits)
    if ends is None and not any(spec is not None and spec.activation_bits for _, spec in recipe.rules):
        return plan, []
    graph = graph_of(model)
    floats = [keras.backend.is_float_dtype(tensor.dtype) for tensor in model.outputs]
    integers = {tensor for tensor, is_float in zip(graph.outputs, floats, strict=True) if not is_float}
    planner = _Planner(graph, recipe, _model.kernels, ends, integers)
    found = planner.plan()
    if not found and not planner.asks:
        raise ValueError(
            f"The output_bits quantize nothing of {model.name!r}. Expected a float output that is no recurrent state. "
            "Leave output_bits out."
        )
    if not found and not planner.has_states:
        raise ValueError(
            f"The recipe has activation_bits, but no activation of {model.name!r} can be quantized with it. Expected a "
            "matched layer whose output feeds another (under activation_method='alternating' a recurrent one). Outputs "
            "of the model stay float: leave activation_bits out."
        )
    return plan | found, planner.idle()


def with_bare_ends(model: keras.Model) -> keras.Model:
    """Returns a model whose last softmax, sigmoid or tanh is a layer of its own, `"<layer>_softmax"`.

    Args:
        model: a built Functional or Sequential model; returned as it is where it ends so already.
    """
    functions = _Planner(graph_of(model), Recipe([(".*", None)]), _model.kernels).own_functions()

    def bare(path: str, layer: keras.Layer) -> keras.Layer | None:
        return type(layer).from_config(layer.get_config() | {"activation": None}) if path in functions else None

    def append(path: str) -> keras.Layer | None:
        function = functions.get(path)
        return function and keras.layers.Activation(function, name=f"{path.rpartition('/')[2]}_{function}")

    return _model.rebuild(model, bare, append=append) if functions else model


def plan_graph(graph: Graph, recipe: Recipe, kernels: Callable) -> dict[str, ActivationSpec]:
    """Returns what `activation_plan` does for the calls of any model, of tf_keras too.

    Args:
        graph: the calls.
        recipe: what becomes what.
        kernels: returns the kernels of a layer as pairs `(name, variable)`.
    """
    return _Planner(graph, recipe, kernels).plan()


class _Planner:
    """Decides, call by call, what becomes of the output."""

    def __init__(
        self,
        graph: Graph,
        recipe: Recipe,
        kernels: Callable,
        ends: ActivationSpec | None = None,
        integers: Iterable[Tensor] = (),
    ):
        self.graph, self.recipe, self.kernels, self.ends = graph, recipe, kernels, ends
        # Outputs of the model that are no floats, as an argmax.
        self.integers = set(integers)
        self.consumers = graph.consumers()
        self.makers = {call.number: call for call in graph.calls}
        # The places of rules that quantize an activation or a state.
        self.used: set[int | None] = set()

    def plan(self) -> dict[str, ActivationSpec]:
        """Returns the specs by path."""
        found = {}
        for call in self.graph.calls:
            if self.ends and self._is_end(call):
                found[call.path] = dataclasses.replace(self.ends, unsigned=never_negative(call))
                self.used.add(self._rule(call))
            elif not (self._passes(call) or self._fuses_forward(call) or self._ends((call.number, 0))):
                place = self._rule(call)
                spec = None if place is None else self.recipe.rules[place][1]
                activation = spec and spec.activation(unsigned=never_negative(call))
                if activation and not _has_state(call):
                    found[call.path] = activation
                    self.used.add(place)
        return found

    def _is_end(self, call: Call) -> bool:
        """Whether integer operators round an output that no rule is for: at the model's end, or an average of all."""
        if _averages_all(call):
            return True
        if self._passes(call) or _has_state(call) or self._is_fixed(call) or not self._reaches_end(call):
            return False
        return not self._fuses_forward(call) or all(map(self._is_fixed, self.consumers[call.number, 0]))

    def _reaches_end(self, call: Call) -> bool:
        """Whether a call makes a float output, itself or through layers that pass it on."""
        tensor = (call.number, 0)
        if tensor in self.graph.outputs:
            return tensor not in self.integers
        return self._ends(tensor) and all(self._reaches_end(taker) for taker in self.consumers.get(tensor, []))

    @property
    def asks(self) -> bool:
        """Whether any rule has activation bits."""
        return any(spec is not None and spec.activation_bits for _, spec in self.recipe.rules)

    def own_functions(self) -> dict[str, str]:
        """Returns the softmax, sigmoid or tanh that ends the model as part of a layer, by the layer's path."""
        calls = [c for c in self.graph.calls if not self._is_fixed(c) and not _has_state(c)]
        return {c.path: _function(c) for c in calls if _function(c) in FIXED and self._reaches_end(c)}

    def _is_fixed(self, call: Call) -> bool:
        """Whether a call is nothing but a softmax, sigmoid or tanh."""
        return call.kind.lower() in FIXED or (call.kind == "Activation" and _function(call) in FIXED)

    def idle(self) -> list[str]:
        """Returns the patterns of rules with activation bits that come to nothing; after `plan`."""
        with_bits = [place for place, (_, spec) in enumerate(self.recipe.rules) if spec and spec.activation_bits]
        states = {self.recipe.index(*self._names(call)) for call in self.graph.calls if _has_state(call)}
        return [self.recipe.rules[place][0] for place in with_bits if place not in self.used | states]

    @property
    def has_states(self) -> bool:
        """Whether the recipe quantizes the state of any recurrent layer."""
        specs = [self.recipe.match(*self._names(call)) for call in self.graph.calls if _has_state(call)]
        return any(spec is not None and spec.activation_bits for spec in specs)

    def _passes(self, call: Call) -> bool:
        return call.kind in PASSING or call.kind == "InputLayer"

    def _fuses_forward(self, call: Call) -> bool:
        """Whether the only taker of the output belongs to the same operator."""
        takers = self.consumers.get((call.number, 0), [])
        if len(takers) != 1 or (call.number, 0) in self.graph.outputs or call.kind in ACTIVATIONS:
            return False
        folds = takers[0].kind in NORMS and call.kind.startswith(FOLDING) and _linear(call)
        return folds or (takers[0].kind in ACTIVATIONS and _linear(call))

    def _ends(self, tensor: Tensor) -> bool:
        """Whether a tensor reaches nothing but the model's outputs."""
        takers = self.consumers.get(tensor, [])
        passing = all(c.kind in PASSING or c.kind in ACTIVATIONS for c in takers)
        return passing and all(self._ends((call.number, 0)) for call in takers)

    def _rule(self, call: Call) -> int | None:
        """Returns the place of the first rule that matches the group, else that of the groups it is made from."""
        group = self._group(call)
        names = [name for member in group for name in self._names(member)]
        place = self.recipe.index(*names)
        if place is not None:
            return place
        sources = [self._source(tensor) for tensor in group[-1].inputs]
        places = [self._rule(source) for source in sources if source.kind != "InputLayer"]
        return next((p for p in places if p is not None and self.recipe.rules[p][1] is not None), None)

    def _group(self, call: Call) -> list[Call]:
        """Returns a call and those before it that fuse into it, the last first."""
        group = [call]
        while group[-1].inputs:
            before = self.makers[group[-1].inputs[0][0]]
            if self._passes(before) or not self._fuses_forward(before):
                break
            group.append(before)
        return group

    def _source(self, tensor: Tensor) -> Call:
        """Returns the call whose output a tensor is, through layers that pass it on."""
        call = self.makers[tensor[0]]
        return self._source(call.inputs[0]) if call.kind in PASSING and call.inputs else call

    def _names(self, call: Call) -> list[str]:
        """Returns what a recipe's patterns are searched in: the layer's path and its kernels'."""
        kernels = [] if call.layer is None else self.kernels(call.layer)
        return [call.path, *(f"{call.path}/{name}" for name, _ in kernels)]


def _has_state(call: Call) -> bool:
    """Whether a layer's output is nothing but its state."""
    layer = call.layer
    if isinstance(layer, keras.layers.Bidirectional):
        return layer.merge_mode in ("concat", None) and isinstance(layer.forward_layer, RECURRENT)
    return isinstance(layer, RECURRENT)


def _averages_all(call: Call) -> bool:
    """Whether a pool averages over all of an image: integer operators do so to a grid of its own."""
    if not call.kind.startswith("AveragePooling"):
        return call.kind.startswith("GlobalAverage")
    try:
        shape = call.layer.input.shape[1:-1]
    except (AttributeError, ValueError):  # A layer that is called in several places.
        return False
    return call.layer.data_format == "channels_last" and tuple(shape) == tuple(call.layer.pool_size)


def _function(call: Call) -> str | None:
    """Returns the name of a layer's own activation function."""
    function = getattr(call.layer, "activation", None)
    return getattr(function, "__name__", "custom") if callable(function) else None


def _linear(call: Call) -> bool:
    return _function(call) in (None, "linear")


def never_negative(call: Call) -> bool:
    """Whether the values that a call returns are never negative."""
    if call.kind == "ReLU":
        return bool(call.layer.negative_slope == 0)
    return call.kind in NEVER_NEGATIVE_KINDS or _function(call) in NEVER_NEGATIVE


def _input_plan(model: keras.Model, input_bits: int) -> dict[str, ActivationSpec]:
    spec = _end_spec("input_bits", input_bits)
    return {tensor.name: spec for tensor in model.inputs if keras.backend.is_float_dtype(tensor.dtype)}


def _end_spec(name: str, num_bits: int) -> ActivationSpec:
    """Returns the spec of inputs or outputs; raises for bits that they cannot have."""
    if isinstance(num_bits, bool) or not isinstance(num_bits, int) or not 2 <= num_bits <= 8:
        raise ValueError(invalid(name, "None or an integer from 2 to 8", num_bits))
    return ActivationSpec(num_bits=num_bits)
