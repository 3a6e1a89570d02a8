"""Plan of activation quantization: the tensors to quantize, after activation functions and residual sums."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import keras

from r2keras._models.graph import Graph, TensorKey
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.numeric import as_int
from r2keras.compression.activation_planner import ActivationPlanner
from r2keras.compression.edges import with_edges
from r2keras.compression.integer_forms import with_integer_forms
from r2keras.compression.weight_plan import has_activation_bits
from r2keras.specs import ActivationSpec, Recipe
from r2keras.specs.dynamic import is_dynamic


def activation_plan(
    model: keras.Model, recipe: Recipe, *, input_bits: int | None = None, output_bits: int | None = None
) -> dict[str, ActivationSpec]:
    """Returns the specs of the activations that a recipe quantizes, which `prepare` inserts.

    A tensor is quantized once, where LiteRT's fused operators end: after convolution, batch normalization and
    activation function together, after a residual sum (and the activation function that follows it directly), after a
    layer's own activation. Pooling, reshaping, padding, dropout and concatenation pass their inputs on. A tensor
    that reaches only the model's outputs, directly or through such layers or a final activation function (logits,
    probabilities), stays float.

    With 8 bits, tensors are also quantized where LiteRT's integer operators round in between: before activation
    functions other than ReLU; after average pooling; after concatenation, maximum and minimum, whose inputs have to
    share one grid and have none of their own if nothing else reads them; between the two convolutions of a separable
    one. `prepare` and `calibrate` first make layers of all of these: `"conv_gelu"` of a convolution with
    `activation="gelu"`, `"sep/depthwise_kernel"` and `"sep/pointwise_kernel"` of a separable convolution, and of swish
    a `"sigmoid"` and a `"product"`.

    The state of a recurrent layer is quantized inside its time loop instead: `prepare` makes it a
    `layers.QuantizedLSTM` (or GRU, or SimpleRNN).

    The recipe's first rule that matches any layer of such a group decides. A group that no rule matches, such as a sum,
    takes the spec of its inputs.

    Args:
        model: a built Functional or Sequential model.
        recipe: the recipe; specs with `activation_bits` quantize the outputs of their layers.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float. Their range follows the
            `activation_range` of the layer that they feed.
        output_bits: bits of the other tensors that an integer-only file rounds: the model's outputs, before a final
            softmax, sigmoid or tanh (which becomes a separate layer where it is part of another), and the results of
            global average pooling; 2 to 8; None leaves them float. Their range follows the `activation_range` of the
            layer that they come from.

    Returns:
        Specs by the path of the layer whose output is quantized, in the order they run.

    Raises:
        ValueError: the recipe has `activation_bits` but no tensor to quantize; a bad `input_bits` or
            `output_bits`.

    Warns:
        UserWarning: the `activation_bits` of a rule quantize no tensor, as in a rule for the last layer alone.

    Example:

    >>> from r2keras import QuantSpec
    >>> hidden = [keras.layers.Dense(3, name="a"), keras.layers.ReLU(name="r"), keras.layers.Dense(2)]
    >>> layers = [keras.Input((4,)), *hidden]
    >>> recipe = Recipe([(".*", QuantSpec(num_bits=4, activation_bits=4))])
    >>> {path: spec.unsigned for path, spec in activation_plan(keras.Sequential(layers), recipe).items()}
    {'r': True}

    Source: Jacob et al., arXiv 1712.05877, section 3.
    """
    view = view_of(model)
    recipe = with_edges(recipe, view)
    return warned_plan(with_layers_to_round(view, recipe, output_bits), recipe, input_bits, output_bits)


def warned_plan(
    view: ModelView, recipe: Recipe, input_bits: int | None, output_bits: int | None
) -> dict[str, ActivationSpec]:
    """Returns the plan of `activation_plan` for a model from `with_layers_to_round`; warns at its caller's caller."""
    plan, idle = planned(view, recipe, input_bits, output_bits)
    for pattern in idle:
        warnings.warn(
            f"The activation_bits of the recipe's rule {pattern!r} quantize nothing. Expected a matched layer whose "
            "output feeds another (under activation_method='alternating' a recurrent one); outputs of the model stay "
            "float. Leave activation_bits out of this rule.",
            UserWarning,
            stacklevel=3,
        )
    return plan


def planned(
    view: ModelView, recipe: Recipe, input_bits: int | None, output_bits: int | None = None
) -> tuple[dict[str, ActivationSpec], list[str]]:
    """Returns the plan of `activation_plan`, and the patterns of rules whose activation bits quantize nothing."""
    model = view.model
    input_spec = None if input_bits is None else _end_spec("input_bits", input_bits)
    end_spec = None if output_bits is None else _end_spec("output_bits", output_bits)
    if input_spec is end_spec is None and not has_activation_bits(recipe):
        return {}, []
    graph = view.graph
    planner = ActivationPlanner(graph, recipe, _kernels_of(view), end_spec, _integers_of(view))
    plan = {} if input_spec is None else _input_plan(model, input_spec, planner)
    if end_spec is None and not has_activation_bits(recipe):
        return plan, []
    outputs = planner.plan()
    if not outputs and not has_activation_bits(recipe):
        expected = (
            f"None for the model {model.name!r}, of which they quantize nothing: it has no float output other than "
            "recurrent states"
        )
        raise ValueError(invalid("output_bits", expected, output_bits, "Leave output_bits out"))
    if not outputs and not planner.has_states:
        expected = (
            "activation_bits for a layer whose output feeds another (under activation_method='alternating' a recurrent "
            "one), because outputs of the model stay float"
        )
        received = f"a recipe with which no activation of {model.name!r} can be quantized"
        raise ValueError(invalid_part("recipe", expected, received, "Leave activation_bits out"))
    return plan | outputs, planner.idle()


def with_layers_to_round(view: ModelView, recipe: Recipe, output_bits: int | None) -> ModelView:
    """Returns a model in which all that `activation_plan` quantizes is the output of a layer.

    Args:
        view: the model; returned unchanged if that is the case already.
        recipe: the recipe.
        output_bits: see `activation_plan`; a softmax, sigmoid or tanh at the end then becomes a layer of its own.
    """
    end_spec = None if output_bits is None else _end_spec("output_bits", output_bits)
    planner = ActivationPlanner(view.graph, recipe, _kernels_of(view), end_spec, _integers_of(view))
    return with_integer_forms(view, planner.is_on_integers, planner.own_functions() if end_spec else {})


def _integers_of(view: ModelView) -> set[TensorKey]:
    """Returns the tensors of a model that are not floats, such as an argmax or a mask."""
    dtypes = _dtypes(view.model, "")
    integers = {call.output for call in view.graph.calls if not dtypes.get(call.path, True)}
    floats = [keras.backend.is_float_dtype(tensor.dtype) for tensor in view.model.outputs]
    return integers | {tensor for tensor, is_float in zip(view.graph.outputs, floats, strict=True) if not is_float}


def _dtypes(model: keras.Model, prefix: str) -> dict[str, bool]:
    """Returns whether each operation of a model that is not a layer returns floats, by path."""
    found: dict[str, bool] = {}
    for operation in model.layers if isinstance(model, keras.Sequential) else model.operations:
        path = prefix + operation.name
        if isinstance(operation, keras.Model):
            found |= _dtypes(operation, path + "/")
        elif not isinstance(operation, keras.Layer):
            found[path] = keras.backend.is_float_dtype(keras.tree.flatten(operation.output)[0].dtype)
    return found


def _kernels_of(view: ModelView) -> Callable:
    """Returns a function that gives the kernels of a layer of a model as pairs `(name, variable)`."""
    pairs = {id(layer): [(k.name, k.variable) for k in view.kernels_in(path)] for path, layer in view.layers}
    return lambda layer: pairs[id(layer)]


def plan_graph(graph: Graph, recipe: Recipe, kernels: Callable) -> dict[str, ActivationSpec]:
    """Returns the plan of `activation_plan` for the calls of a model of Keras 3 or tf_keras.

    Args:
        graph: the calls.
        recipe: the recipe.
        kernels: returns the kernels of a layer as pairs `(name, variable)`.
    """
    return ActivationPlanner(graph, recipe, kernels).plan()


def _input_plan(model: keras.Model, spec: ActivationSpec, planner: ActivationPlanner) -> dict[str, ActivationSpec]:
    """Returns the specs of a model's float inputs, by name, with the range rules of the layers that they feed."""
    plan = {}
    for index, tensor in enumerate(model.inputs):
        if keras.backend.is_float_dtype(tensor.dtype):
            plan[tensor.name] = dataclasses.replace(spec, range=planner.range_of_input((index, 0)))
    return plan


def integer_ends(
    integer: bool, recipe: Recipe, input_bits: int | None, output_bits: int | None
) -> tuple[int | None, int | None]:
    """Returns the bits of inputs and outputs, which are 8 if the file is to be fully integer.

    Raises:
        ValueError: other bits are given, or the recipe does not quantize activations to 8 bits.
    """
    if not integer:
        return input_bits, output_bits
    for name, num_bits in (("input_bits", input_bits), ("output_bits", output_bits)):
        if num_bits not in (None, 8):
            raise ValueError(invalid(name, "8 or None with integer=True", num_bits, f"Leave {name} out"))
    if any(is_dynamic(spec) for _, spec in recipe.rules):
        expected = "False for a recipe with activation_method='dynamic', whose products take float inputs"
        raise ValueError(invalid("integer", expected, True, "Leave integer out, or use Recipe.int8()"))
    if all(spec is None or spec.activation_bits != 8 for _, spec in recipe.rules):
        received = "a recipe without it"
        fix = "Use Recipe.int8(), or pass activation_bits=8 to its specs"
        raise ValueError(invalid_part("recipe", "activation_bits=8 in a rule with integer=True", received, fix))
    return 8, 8


def _end_spec(name: str, num_bits: int) -> ActivationSpec:
    """Returns the spec of inputs or outputs; raises for bits that they cannot have."""
    if not 2 <= (as_int(num_bits) or 0) <= 8:
        raise ValueError(invalid(name, "None or an integer from 2 to 8", num_bits))
    return ActivationSpec(num_bits=num_bits)
