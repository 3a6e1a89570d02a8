"""Choice of the grid of each activation: which calls round their output, and by which rule of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from r2keras._models.call_kinds import (
    ACTIVATIONS,
    FIXED,
    FOLDING,
    NORMS,
    activation_name,
    has_state,
    is_global_average,
    is_linear,
    never_negative,
    passes_on,
)
from r2keras._models.graph import Call, Graph, TensorKey
from r2keras._models.integer_calls import ORDERED, fixed_function, is_fixed, is_fused, is_inner_average, joins
from r2keras._models.walk import full_name
from r2keras.compression.integer_forms import PARTS
from r2keras.compression.weight_plan import rounds_values
from r2keras.specs import ActivationSpec, Recipe, Spec


class ActivationPlanner:
    """Chooses the spec of each call's output.

    Args:
        graph: the calls of a model.
        recipe: the recipe.
        kernels: returns the kernels of a layer as pairs `(name, variable)`.
        end_spec: the spec of the model's outputs and of global average pooling; None leaves them float.
        integers: outputs of the model that are not floats.

    Attributes:
        used: after `plan`, the indices of the rules that quantize an activation or a state.
    """

    def __init__(
        self,
        graph: Graph,
        recipe: Recipe,
        kernels: Callable,
        end_spec: ActivationSpec | None = None,
        integers: Iterable[TensorKey] = (),
    ):
        self.graph = graph
        self.recipe = recipe
        self.kernels = kernels
        self.end_spec = end_spec
        # Outputs of the model that are not floats, such as an argmax.
        self.integers = set(integers)
        self.used: set[int | None] = set()
        # Answers by call: residual sums ask the calls before them again and again.
        self._rules: dict[int, int | None] = {}
        self._tensors_that_end: dict[TensorKey, bool] = {}

    def plan(self) -> dict[str, ActivationSpec]:
        """Returns the specs by path."""
        plan: dict[str, ActivationSpec] = {}
        for call in self.graph.calls:
            if call.output in self.integers:
                continue
            if self.end_spec and self._is_end(call):
                self.used.add(self._rule(call))
                if self._join_behind(call.output) is None:
                    plan[call.path] = self._end_spec_of(self.end_spec, call)
                continue
            spec = self._spec(call)
            if spec is None or has_state(call):
                continue
            self.used.add(self._rule(self._last(call)))
            if spec.num_bits < 8 or self._join_behind(call.output) is None:
                function = fixed_function(call) if spec.num_bits == 8 else None
                plan[call.path] = spec if function is None else ActivationSpec(range=function, unsigned=spec.unsigned)
        return plan

    def range_of_input(self, tensor: TensorKey) -> str | None:
        """Returns the range rule of the first layer that a tensor feeds and that has one; None if none has."""
        for call in self.graph.consumers(tensor):
            found = None if self._passes(call) else self._range_by(self._rule(call))
            if found is None and (self._passes(call) or self._fuses_forward(call)):
                found = self.range_of_input(call.output)
            if found is not None:
                return found
        return None

    def _range_by(self, rule_index: int | None) -> str | None:
        """Returns the range rule that a rule of the recipe gives activations; None if it gives none."""
        spec = None if rule_index is None else self.recipe.rules[rule_index][1]
        activation = None if spec is None else spec.activation()
        return None if activation is None else activation.range

    def _end_spec_of(self, spec: ActivationSpec, call: Call) -> ActivationSpec:
        """Returns the spec of the outputs for one call, with the range rule of its layer."""
        return dataclasses.replace(spec, unsigned=never_negative(call), range=self._range_by(self._rule(call)))

    def is_on_integers(self, call: Call) -> bool:
        """Whether a call is part of a group of layers whose output gets a grid of 8 bits."""
        last = self._last(call)
        if last.output in self.integers or has_state(last):
            return False
        if self.end_spec and self._is_end(last):
            return self.end_spec.num_bits == 8
        return not self._ends(last.output) and self._bits(last) == 8

    def _spec(self, call: Call) -> ActivationSpec | None:
        """Returns the spec of a call's output by the recipe; None if it stays float."""
        last = self._last(call)
        on_integers = self.is_on_integers(call)
        if self._passes(call):
            rounded = on_integers and (joins(call) or is_inner_average(call))
        elif call is last:
            rounded = not self._ends(call.output)
        else:
            consumer = self.graph.only_consumer(call)
            rounded = on_integers and consumer is not None and not is_fused(consumer)
        if not rounded:
            return None
        if self.end_spec and self._is_end(last):
            return self._end_spec_of(self.end_spec, call)
        spec = self._rule_spec(last)
        return spec.activation(unsigned=never_negative(call)) if spec else None

    def _bits(self, call: Call) -> int | None:
        """Returns the bits of a call's output by the recipe."""
        spec = self._rule_spec(call)
        activation = spec and spec.activation()
        return activation.num_bits if activation else None

    def _rule_spec(self, call: Call) -> Spec | None:
        """Returns the spec of a call's group by the recipe."""
        rule_index = self._rule(call)
        return None if rule_index is None else self.recipe.rules[rule_index][1]

    def _last(self, call: Call) -> Call:
        """Returns the last call of the group that a call is part of."""
        consumer = self.graph.only_consumer(call)
        if self._passes(call) or consumer is None or not self._fuses_forward(call):
            return call
        return self._last(consumer)

    def _join_behind(self, tensor: TensorKey) -> Call | None:
        """Returns the one call that rounds a tensor, with others, in the place of its producer; else None."""
        call = self.graph.producer(tensor)
        if tensor in self.graph.outputs or fixed_function(call) or is_global_average(call):
            return None
        found = [self._join_at(consumer) for consumer in self.graph.consumers(tensor)]
        return found[0] if found and all(join is found[0] for join in found) else None

    def _join_at(self, call: Call) -> Call | None:
        """Returns the call itself if it joins tensors on one grid of 8 bits, else such a one that is behind it."""
        if joins(call):
            return call if self.is_on_integers(call) else None
        return self._join_behind(call.output) if call.kind in ORDERED else None

    def _is_end(self, call: Call) -> bool:
        """Whether integer operators round an output without a rule: an end of the model, or global average pooling."""
        if is_global_average(call):
            return True
        joined = joins(call) and self.end_spec is not None and self.end_spec.num_bits == 8
        if (self._passes(call) and not joined) or has_state(call) or is_fixed(call) or not self._reaches_end(call):
            return False
        return not self._fuses_forward(call) or all(map(is_fixed, self.graph.consumers(call.output)))

    def _reaches_end(self, call: Call) -> bool:
        """Whether a call's output is a float output of the model, directly or through layers that pass it on."""
        if call.output in self.graph.outputs:
            return call.output not in self.integers
        return self._ends(call.output) and all(map(self._reaches_end, self.graph.consumers(call.output)))

    def own_functions(self) -> dict[str, str]:
        """Returns the softmax, sigmoid or tanh at the end of the model that is part of a layer, by the layer's path."""
        calls = [call for call in self.graph.calls if not is_fixed(call) and not has_state(call)]
        names = ((call, activation_name(call)) for call in calls)
        return {call.path: name for call, name in names if name in FIXED and self._reaches_end(call)}

    def idle(self) -> list[str]:
        """Returns the patterns of rules whose activation bits quantize nothing; call it after `plan`."""
        states = {self.recipe.index(*self._names(call)) for call in self.graph.calls if has_state(call)}
        used = self.used | states
        rules = enumerate(self.recipe.rules)
        return [pattern for i, (pattern, spec) in rules if rounds_values(spec) and i not in used]

    @property
    def has_states(self) -> bool:
        """Whether the recipe quantizes the state of any recurrent layer."""
        specs = [self.recipe.match(*self._names(call)) for call in self.graph.calls if has_state(call)]
        return any(map(rounds_values, specs))

    def _passes(self, call: Call) -> bool:
        """Whether a call passes its input on, or is an input of the model."""
        return passes_on(call) or call.kind == "InputLayer"

    def _fuses_forward(self, call: Call) -> bool:
        """Whether the only consumer of the output belongs to the same operator."""
        consumer = self.graph.only_consumer(call)
        if consumer is None or call.kind in ACTIVATIONS or not is_linear(call):
            return False
        return consumer.kind in ACTIVATIONS or (consumer.kind in NORMS and call.kind.startswith(FOLDING))

    def _ends(self, tensor: TensorKey) -> bool:
        """Whether a tensor reaches only the model's outputs."""
        if tensor not in self._tensors_that_end:
            consumers = self.graph.consumers(tensor)
            passing = all(passes_on(call) or call.kind in ACTIVATIONS for call in consumers)
            self._tensors_that_end[tensor] = passing and all(self._ends(call.output) for call in consumers)
        return self._tensors_that_end[tensor]

    def _rule(self, call: Call) -> int | None:
        """Returns the index of the first rule that matches a call's group, else that of the groups it reads."""
        if call.number not in self._rules:
            self._rules[call.number] = self._searched_rule(call)
        return self._rules[call.number]

    def _searched_rule(self, call: Call) -> int | None:
        """Finds the result of `_rule`."""
        group = self._group(call)
        names = [name for member in group for name in self._names(member)]
        rule_index = self.recipe.index(*names)
        if rule_index is not None:
            return rule_index
        sources = [self._source(tensor) for tensor in group[-1].inputs]
        indices = [self._rule(source) for source in sources if source.kind != "InputLayer"]
        return next((i for i in indices if i is not None and self.recipe.rules[i][1] is not None), None)

    def _group(self, call: Call) -> list[Call]:
        """Returns a call and the calls before it that fuse into it, the last one first."""
        group = [call]
        while group[-1].inputs:
            before = self.graph.producer(group[-1].inputs[0])
            if self._passes(before) or not self._fuses_forward(before):
                break
            group.append(before)
        return group

    def _source(self, tensor: TensorKey) -> Call:
        """Returns the call that computes a tensor, before any layers that pass it on."""
        call = self.graph.producer(tensor)
        return self._source(call.inputs[0]) if passes_on(call) and call.inputs else call

    def _names(self, call: Call) -> list[str]:
        """Returns the names in which a recipe's patterns are searched: the layer's path and its kernels' full names."""
        kernels = [] if call.layer is None else self.kernels(call.layer)
        names = [call.path, *(full_name(call.path, name) for name, _ in kernels)]
        parent, _, part = call.path.rpartition("/")
        # A part of a separable convolution belongs to the rules of that layer.
        return [*names, parent] if part in PARTS and parent else names
