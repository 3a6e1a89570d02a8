"""Base classes of the range regularizers: their options, registration, and learned scalars."""

from __future__ import annotations

import weakref
from typing import Any

import keras

from r2keras._models.keras_internals import regularizer_table
from r2keras._util.errors import invalid
from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras.ops.range_loss import as_float, channel_std, channels, check_dim, safe_std


def register(cls: type) -> type:
    """Registers a regularizer under `r2keras>Name` and, for strings and hand-written configs, under `Name`."""
    cls = keras.saving.register_keras_serializable(package="r2keras")(cls)
    keras.saving.get_custom_objects()[cls.__name__] = cls
    # `keras.regularizers.get` looks up strings in its own table only, not among the registered objects.
    regularizer_table().update({cls.__name__: cls, f"r2keras>{cls.__name__}": cls})
    return cls


def check_number(name: str, value: Any, *, positive: bool = False) -> float:
    """Returns a finite number of at least 0 (above 0 if `positive`) as float; raises for anything else."""
    expected = f"a finite number {'above 0' if positive else 'of at least 0'}"
    number = as_number(value)
    if number is None:
        raise TypeError(invalid(name, expected, value))
    if not is_finite(number) or number < 0 or (positive and number == 0):
        raise ValueError(invalid(name, expected, value))
    return float(number)


def check_flag(name: str, value: object) -> bool:
    """Returns a bool, or raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(invalid(name, "True or False", value))
    return value


def check_granularity(granularity: object, dim: int, channel_axis: Any) -> int | tuple[int, ...] | None:
    """Returns the channel axis, several as a tuple, or raises if the three arguments do not go together."""
    if not isinstance(granularity, str):
        raise TypeError(invalid("granularity", "'per_tensor' or 'per_channel'", granularity))
    if granularity not in ("per_tensor", "per_channel"):
        raise ValueError(invalid("granularity", "'per_tensor' or 'per_channel'", granularity))
    if granularity == "per_channel" and dim > 1:
        fix = "Palette vectors span several channels: use dim=1, or granularity='per_tensor'"
        raise ValueError(invalid("dim", "1 together with granularity='per_channel'", dim, fix))
    if granularity == "per_tensor" and channel_axis is not None:
        fix = "Leave it out, or use granularity='per_channel'"
        raise ValueError(invalid("channel_axis", "None together with granularity='per_tensor'", channel_axis, fix))
    axes = channel_axis if isinstance(channel_axis, (list, tuple)) else (channel_axis,)
    integers = tuple(axis for axis in map(as_int, axes) if axis is not None)
    if channel_axis is not None and (not axes or len(integers) < len(axes)):
        kind = TypeError if axes else ValueError
        raise kind(invalid("channel_axis", "an integer, several integers, or None", channel_axis))
    if channel_axis is None:
        return None
    return integers if isinstance(channel_axis, (list, tuple)) else integers[0]


class RangeRegularizer(keras.regularizers.Regularizer):
    """The options of every R2 regularizer: `factor`, `dim`, `scale_free`, `granularity` and `channel_axis`."""

    def _set_options(
        self,
        factor: float,
        dim: int,
        scale_free: bool,
        granularity: str,
        channel_axis: int | tuple[int, ...] | None,
    ) -> None:
        """Checks and stores the common arguments."""
        self.dim = dim = check_dim(dim)
        self.factor = check_number("factor", factor)
        self.scale_free = check_flag("scale_free", scale_free)
        self.channel_axis = check_granularity(granularity, dim, channel_axis)
        self.granularity = granularity

    @property
    def _layout(self) -> dict[str, Any]:
        """The arguments of the losses for an arranged weight: coordinates of vectors, or rows of channels."""
        return {"dim": self.dim} if self.granularity == "per_tensor" else {"channel_axis": 0}

    def _arranged(self, w):
        """Returns the weight in float32; per channel, with one channel per row."""
        if self.granularity == "per_tensor":
            return as_float(w)
        return channels(as_float(w), -1 if self.channel_axis is None else self.channel_axis)

    def _unit(self, arranged):
        """Returns the standard deviation of the weight, or of every channel."""
        return safe_std(arranged) if self.granularity == "per_tensor" else channel_std(arranged)

    def _scaled(self, w):
        """Returns the arranged weight, divided by its standard deviations if scale-free."""
        w = self._arranged(w)
        return w / self._unit(w) if self.scale_free else w

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        axis = list(self.channel_axis) if isinstance(self.channel_axis, tuple) else self.channel_axis
        options = {"factor": self.factor, "dim": self.dim, "scale_free": self.scale_free}
        return {**options, "granularity": self.granularity, "channel_axis": axis}


class OneWeight(RangeRegularizer):
    """A regularizer with a learned scalar, for Keras 3 and tf_keras.

    One instance serves one weight, because a shared scalar could not be restored from a file. Subclasses implement
    `initialize` and `_loss`; the class for each Keras is also a layer, and implements `_add_scalar` and `_name_of`.
    """

    weights: list
    _weight: weakref.ref | None = None
    # The function that attaches one instance per weight, for error messages.
    _attach = "r2keras.regularize"

    def __init__(
        self,
        factor: float,
        dim: int,
        scale_free: bool,
        granularity: str,
        channel_axis: int | tuple[int, ...] | None,
    ) -> None:
        # A low-precision policy would make the scalar too coarse for its small steps.
        super().__init__(dtype="float32")
        self._set_options(factor, dim, scale_free, granularity, channel_axis)
        self.built = True

    def __call__(self, w):
        """Returns the loss of a weight as a scalar tensor."""
        self._claim(w)
        return self.factor * self._loss(w)

    @property
    def weight(self):
        """The weight this instance belongs to; None before the first call on a variable."""
        return self._weight() if self._weight is not None else None

    def initialize(self, weights) -> None:
        """Sets the learned scalar to its start value for these weights.

        Args:
            weights: the weight (array, tensor or variable) that will be regularized.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `initialize`.")

    def _loss(self, w):
        """Returns the loss without the factor."""
        raise NotImplementedError(f"{type(self).__name__} must implement `_loss`.")

    def _add_scalar(self, name: str, start: float) -> Any:
        """Creates the learned variable."""
        raise NotImplementedError(f"{type(self).__name__} must implement `_add_scalar`.")

    def _name_of(self, w) -> str | None:
        """Returns the name of a layer's weight; None for arrays and tensors."""
        raise NotImplementedError(f"{type(self).__name__} must implement `_name_of`.")

    def _scalar_shape(self) -> tuple[int, ...]:
        """Returns the shape of the learned variable: one value, or one per coordinate of the palette vectors."""
        return () if self.dim == 1 else (self.dim,)

    def _claim(self, w) -> None:
        """Stores the weight this instance belongs to, and refuses any other."""
        path = self._name_of(w)
        if path is None:
            return
        owner = self.weight
        if owner is None:
            self._weight = weakref.ref(w)
        elif owner is not w:
            name = type(self).__name__
            owner_name = self._name_of(owner)
            expected = f"the one weight that this {name} belongs to ({owner_name}), because its scalar is saved with it"
            fix = f"Give every weight its own {name}(...), or use {self._attach}, which creates one for each"
            raise ValueError(invalid("w", expected, path, fix))


class LearnedRegularizer(OneWeight, keras.layers.Layer):
    """A regularizer with a learned scalar, which Keras tracks because the regularizer is also a layer.

    The layer that owns the weight owns the scalar, which is trained, saved, cloned and frozen with it.

    `layer.trainable = False` freezes the scalar. A layer constructed with `trainable=False` leaves it among the
    trainable weights, as Keras does with all sublayers; it then gets no gradient, because no loss depends on it.
    """

    def _add_scalar(self, name: str, start: float) -> keras.Variable:
        """Creates the learned variable."""
        initializer = keras.initializers.Constant(start)
        return self.add_weight(
            name=name, shape=self._scalar_shape(), initializer=initializer, dtype="float32", autocast=False
        )

    def _name_of(self, w) -> str | None:
        """Returns the path of a Keras 3 weight; None for arrays and tensors. Refuses a weight of tf_keras."""
        if isinstance(w, keras.Variable):
            return w.path
        if hasattr(w, "assign"):
            # tf_keras would call this object, but never train, track or save its scalar.
            fix = f"Layers of tf_keras take r2keras.tfmot.{type(self).__name__}"
            raise ValueError(invalid("w", "a weight of a Keras 3 layer, or a tensor", getattr(w, "name", w), fix))
        return None
