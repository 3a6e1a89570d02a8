"""The first and last layers with kernels, to which a recipe's rule for the edges of a model applies."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from r2keras._models.graph import Graph
from r2keras._models.walk import ModelView, kernels
from r2keras._util.errors import EdgesError, invalid, invalid_part
from r2keras.specs import EDGES, Recipe


def with_edges(recipe: Recipe, view: ModelView) -> Recipe:
    """Returns a recipe whose rules for the edges of a model name its first and last layers with kernels.

    Args:
        recipe: the recipe; returned unchanged if it has no such rule.
        view: the model.

    Raises:
        TypeError: `recipe` is not a Recipe.
        EdgesError: the model has no layer with kernels between the first and the last ones.
    """
    if not isinstance(recipe, Recipe):
        fix = "The order of the arguments is model, recipe, data" if isinstance(recipe, np.ndarray) else ""
        raise TypeError(invalid("recipe", "an r2keras.Recipe", recipe, fix))
    return edges_in(recipe, lambda: view.graph, kernels)


def edges_in(recipe: Recipe, graph: Callable[[], Graph], kernels_of: Callable) -> Recipe:
    """Does the work of `with_edges` for a model of Keras 3 or tf_keras.

    Args:
        recipe: the recipe.
        graph: returns the calls of the model; called if the recipe has a rule for the edges.
        kernels_of: returns the kernels of a layer.
    """
    if all(pattern != EDGES for pattern, _ in recipe.rules):
        return recipe
    paths = _edges(graph(), kernels_of)
    named = f"^({'|'.join(map(re.escape, paths))})$"
    return Recipe([(named if pattern == EDGES else pattern, spec) for pattern, spec in recipe.rules], recipe.steps)


def _edges(graph: Graph, kernels_of: Callable) -> list[str]:
    """Returns the paths of the layers without another kernel before them, or without one after them."""
    with_kernels = {call.number: call.layer is not None and bool(kernels_of(call.layer)) for call in graph.calls}
    before: dict[int, bool] = {}
    after: dict[int, bool] = {}
    for call in graph.calls:
        sources = {tensor[0] for tensor in call.inputs}
        before[call.number] = any(before[source] or with_kernels[source] for source in sources)
    for call in reversed(graph.calls):
        consumers = {consumer.number for consumer in graph.consumers(call.output)}
        after[call.number] = any(after[consumer] or with_kernels[consumer] for consumer in consumers)
    layers = [call for call in graph.calls if with_kernels[call.number]]
    edges = {call.path: None for call in layers if not (before[call.number] and after[call.number])}
    if all(call.path in edges for call in layers):
        found = ", ".join(map(repr, edges)) or "none"
        expected = "a model with a kernel between its first and its last ones, because the recipe has a rule for these"
        fix = "Use Recipe.uniform(..., edges=None), or rules by name"
        raise EdgesError(invalid_part("model", expected, f"a model whose layers with kernels are: {found}", fix))
    return list(edges)
