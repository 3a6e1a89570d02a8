"""Tensors that Keras marks as sparse: `tensor * number` is marked so although its values are dense."""

from __future__ import annotations

from typing import Any

import keras


class IgnoresSparseMarks(keras.layers.Layer):
    """Base class of layers whose outputs are dense, whatever Keras says of their inputs.

    Keras would infer the output's shape from a call on sparse tensors, which most operations do not take. With this
    class it calls the layer on dense ones. At run time, the layer gets the tensors as they are.
    """

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the shapes and dtypes of the outputs for dense inputs of the same shapes."""
        args, kwargs = keras.tree.map_structure(_unmarked, (args, kwargs))
        return super().compute_output_spec(*args, **kwargs)


def _unmarked(value: Any) -> Any:
    """Returns a symbolic tensor without the mark, and anything else unchanged."""
    if isinstance(value, keras.KerasTensor) and value.sparse:
        return keras.KerasTensor(value.shape, value.dtype, name=value.name)
    return value
