"""Blocks of a model: the parts between two tensors that each carry everything from what is before to what is after."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

from r2keras._models.cuts import Key, Part, parts_between_cuts


def blocks_of(
    model: keras.Model, kernels: Mapping[str, int], least: int = 2, is_cut: Callable[[Key], bool] = lambda key: True
) -> list[Part]:
    """Returns the blocks of a model, which hold all of its calls once, in the order in which they run.

    A block ends where one tensor alone is needed afterwards: a residual block is never divided.

    Args:
        model: a built Functional or Sequential model; a nested model is one call.
        kernels: number of kernels to learn by the names of layers and nested models.
        least: number of kernels from which a block ends before the next kernel.
        is_cut: whether a block may end at a tensor.

    Example:

    >>> model = keras.Sequential([keras.Input((4,))] + [keras.layers.Dense(2, name=name) for name in "abc"])
    >>> [block.layers for block in blocks_of(model, {"a": 1, "b": 1, "c": 1})]
    [('a', 'b'), ('c',)]
    """
    blocks: list[Part] = []
    layers: list[str] = []
    count, end = 0, None
    for part in parts_between_cuts(model, is_cut):
        own = sum(kernels.get(name, 0) for name in part.layers)
        if own and count >= least:
            blocks.append(Part(tuple(dict.fromkeys(layers)), end))
            layers, count = [], 0
        layers += part.layers
        count, end = count + own, part.output
    return [*blocks, Part(tuple(dict.fromkeys(layers)), None)]
