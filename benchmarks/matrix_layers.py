"""Blocks of the matrix's random models: every layer kind of the README, alone and in common structures.

A block takes the net under construction and a tensor, and returns a tensor. `DOMAINS` has the blocks by the tensors
that they take: vectors, sequences, images, volumes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

Tensor = Any
FUNCTIONS = (
    "linear",
    "relu",
    "relu6",
    "swish",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "gelu",
    "elu",
    "hard_sigmoid",
    "softplus",
)
UNITS = (3, 4, 5, 6, 8)
# Names of domains by the rank of a tensor.
RANKS = {2: "vector", 3: "sequence", 4: "image", 5: "volume"}
DEEPEST = 3


def capped(x: Tensor) -> Tensor:
    """A leaky ReLU with a cap: an activation function of the user's own."""
    return ops.minimum(ops.leaky_relu(x, 0.1), 4.0)


@keras.saving.register_keras_serializable(package="matrix")
class Built(layers.Layer):
    """A layer with unnamed weights of its own, made in `build`."""

    def __init__(self, units: int = 4, **options: Any):
        super().__init__(**options)
        self.units = units

    def build(self, input_shape):
        self.first = self.add_weight(shape=(input_shape[-1], self.units))
        self.second = self.add_weight(shape=(self.units, self.units))

    def call(self, x):
        return ops.matmul(ops.relu(ops.matmul(x, self.first)), self.second)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="matrix")
class Unbuilt(layers.Layer):
    """A layer made of other layers, without a `build` of its own, as tutorials write them."""

    def __init__(self, units: int = 4, **options: Any):
        super().__init__(**options)
        self.units = units
        self.first = layers.Dense(2 * units, activation="relu")
        self.second = layers.Dense(units)

    def call(self, x):
        return self.second(self.first(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Net:
    """A net under construction.

    Args:
        rng: makes every choice.

    Attributes:
        kinds: what the net contains, for the table.
        depth: how many models the current block is nested in.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.kinds: dict[str, None] = {}
        self.depth = 0
        self._count = 0

    def add(self, kind: str) -> None:
        """Notes that the net contains a kind of layer."""
        self.kinds[kind] = None

    def name(self, kind: str) -> str | None:
        """Returns a name for a layer, or None: Keras then counts one up."""
        self._count += 1
        return f"{kind}_{self._count}" if self.rng.random() < 0.7 else None

    def maybe(self, probability: float = 0.5) -> bool:
        """Returns True with a probability."""
        return self.rng.random() < probability

    def units(self) -> int:
        """Returns a number of output channels."""
        return self.rng.choice(UNITS)

    def function(self) -> str:
        """Returns the name of an activation function, mostly of the usual ones."""
        return self.rng.choice(("linear", "relu")) if self.maybe(0.6) else self.rng.choice(FUNCTIONS)

    def own(self) -> dict[str, Any]:
        """Returns options that convolutions and dense layers share."""
        name = self.function()
        if name not in ("linear", "relu"):
            self.add(name)
        return {"activation": name, "use_bias": self.maybe(0.8)}


def linear(net: Net, x: Tensor, units: int) -> layers.Layer:
    """Returns a layer that keeps all axes of a tensor except the last, which gets `units` channels."""
    own, rank = net.own(), len(x.shape)
    if rank == 2 or net.maybe(0.2):
        return layers.Dense(units, name=net.name("dense"), **own)
    conv = {3: layers.Conv1D, 4: layers.Conv2D, 5: layers.Conv3D}[rank]
    return conv(units, net.rng.choice((1, 3)), padding="same", name=net.name("conv"), **own)


def dense(net: Net, x: Tensor) -> Tensor:
    return layers.Dense(net.units(), name=net.name("dense"), **net.own())(x)


def norm(net: Net, x: Tensor) -> Tensor:
    """A linear layer, a batch normalization, an activation function."""
    y = linear(net, x, net.units())(x)
    y = layers.BatchNormalization(name=net.name("norm"), scale=net.maybe(0.8), center=net.maybe(0.8))(y)
    return activation(net, y) if net.maybe(0.7) else y


def layer_norm(net: Net, x: Tensor) -> Tensor:
    return layers.LayerNormalization(name=net.name("layer_norm"))(linear(net, x, net.units())(x))


def activation(net: Net, x: Tensor) -> Tensor:
    """An activation function as a layer."""
    kind = net.rng.choice(("ReLU", "ReLU6", "LeakyReLU", "ELU", "Activation", "capped", "ops"))
    net.add(kind)
    if kind == "ReLU6":
        return layers.ReLU(6.0, name=net.name("relu6"))(x)
    if kind == "ops":
        return ops.relu(x)
    if kind == "capped":
        return layers.Activation(capped, name=net.name("capped"))(x)
    if kind == "Activation":
        return layers.Activation(net.rng.choice(FUNCTIONS), name=net.name("activation"))(x)
    return getattr(layers, kind)(name=net.name(kind.lower()))(x)


def prelu(net: Net, x: Tensor) -> Tensor:
    shared = list(range(1, len(x.shape) - 1)) if net.maybe(0.7) else None
    return layers.PReLU(shared_axes=shared or None, name=net.name("prelu"))(linear(net, x, net.units())(x))


def unmarked(net: Net, x: Tensor) -> Tensor:
    """Returns a tensor that Keras does not take for sparse; on the others, layers of one's own fail in Keras itself."""
    return linear(net, x, net.units())(x) if x.sparse else x


def built(net: Net, x: Tensor) -> Tensor:
    return Built(net.units(), name=net.name("built"))(unmarked(net, x))


def unbuilt(net: Net, x: Tensor) -> Tensor:
    return Unbuilt(net.units(), name=net.name("unbuilt"))(unmarked(net, x))


def lambda_layer(net: Net, x: Tensor) -> Tensor:
    function = (lambda t: t / 2.0) if net.maybe() else (lambda t: ops.tanh(t) + 0.25)
    return layers.Lambda(function, name=net.name("lambda"))(linear(net, x, net.units())(x))


def times(net: Net, x: Tensor) -> Tensor:
    """Python numbers in the arithmetic of a Functional model, as in a hard swish."""
    y = linear(net, x, net.units())(x)
    kind = net.rng.choice(("scale", "gate", "shift", "divide"))
    if kind == "gate":
        return y * (layers.ReLU(6.0)(y + 3.0) * (1.0 / 6.0))
    return {"scale": lambda: 0.5 * y, "shift": lambda: y - 1.5, "divide": lambda: y / 3.0}[kind]()


def residual(net: Net, x: Tensor) -> Tensor:
    y = linear(net, x, x.shape[-1])(x)
    if net.maybe():
        y = linear(net, y, x.shape[-1])(y)
    total = layers.Add(name=net.name("add"))([x, y]) if net.maybe(0.7) else x + y
    return layers.ReLU(name=net.name("relu"))(total) if net.maybe() else total


def concatenation(net: Net, x: Tensor) -> Tensor:
    """Branches with ranges of their own, side by side; the first may be wider by a multiple."""
    y = [linear(net, x, net.units())(x) for _ in range(net.rng.choice((2, 3)))]
    return layers.Concatenate(name=net.name("concat"))([y[0] * 4.0 if net.maybe(0.3) else y[0], *y[1:]])


def branches(net: Net, x: Tensor) -> Tensor:
    """Two branches that a product, a maximum, a mean or a difference joins."""
    units = net.units()
    first, second = (linear(net, x, units)(x) for _ in range(2))
    kind = net.rng.choice(("Multiply", "Maximum", "Average", "Subtract"))
    net.add(kind)
    return getattr(layers, kind)(name=net.name(kind.lower()))([first, second])


def shared(net: Net, x: Tensor) -> Tensor:
    """One layer called twice."""
    layer = linear(net, x, x.shape[-1])
    if net.maybe():
        return layer(layer(x))
    return layers.Add(name=net.name("add"))([layer(x), layer(layers.ReLU(name=net.name("relu"))(x))])


def nested(net: Net, x: Tensor) -> Tensor:
    """A model inside the model, up to three deep, called once or twice."""
    inner = keras.Input(x.shape[1:])
    net.depth += 1
    own = DOMAINS[RANKS[len(x.shape)]]
    keeps = [name for name in own if name not in ("nested", "flatten", "pooling", "recurrent")]
    y = own[net.rng.choice(keeps)](net, inner)
    if net.depth < DEEPEST and net.maybe():
        y = nested(net, y)
    twice = net.maybe(0.3)
    if twice or tuple(y.shape) != tuple(x.shape):
        y = linear(net, y, x.shape[-1])(y)
        twice = twice and tuple(y.shape) == tuple(x.shape)
    net.depth -= 1
    block = keras.Model(inner, y, name=net.name("block"))
    return block(block(x)) if twice else block(x)


def conv1d(net: Net, x: Tensor) -> Tensor:
    padding = net.rng.choice(("valid", "same", "causal"))
    dilation = 2 if net.maybe(0.2) else 1
    strides = 2 if dilation == 1 and net.maybe(0.3) else 1
    options = {"strides": strides, "dilation_rate": dilation, "padding": padding}
    return layers.Conv1D(net.units(), 2, name=net.name("conv"), **options, **net.own())(x)


def depthwise1d(net: Net, x: Tensor) -> Tensor:
    multiplier = net.rng.choice((1, 2))
    return layers.DepthwiseConv1D(2, depth_multiplier=multiplier, name=net.name("depthwise"), **net.own())(x)


def separable1d(net: Net, x: Tensor) -> Tensor:
    return layers.SeparableConv1D(net.units(), 2, name=net.name("separable"), **net.own())(x)


def transpose1d(net: Net, x: Tensor) -> Tensor:
    options = {"strides": net.rng.choice((1, 2)), "padding": net.rng.choice(("same", "valid"))}
    return layers.Conv1DTranspose(net.units(), 3, name=net.name("transpose"), **options, **net.own())(x)


def einsum(net: Net, x: Tensor) -> Tensor:
    units, name = net.units(), net.name("einsum")
    if len(x.shape) == 3 and net.maybe():
        y = layers.EinsumDense("abc,cde->abde", (None, 2, units), bias_axes="de", name=name)(x)
        return layers.Reshape((x.shape[1], 2 * units))(y)
    equation = {2: "ab,bc->ac", 3: "abc,cd->abd", 4: "abcd,de->abce"}[len(x.shape)]
    return layers.EinsumDense(equation, (*x.shape[1:-1], units), bias_axes=equation[-1], name=name)(x)


def attention(net: Net, x: Tensor) -> Tensor:
    layer = layers.MultiHeadAttention(2, net.rng.choice((2, 3)), name=net.name("attention"))
    return layer(x, x) if net.maybe(0.7) else layers.Add()([x, layer(x, linear(net, x, 4)(x))])


def cell(net: Net, kind: str) -> layers.Layer:
    """Returns a recurrent layer that returns all states, or the last."""
    options = {"return_sequences": net.maybe(), "name": net.name(kind.lower())}
    if net.maybe(0.2):
        options["go_backwards"] = True
    return getattr(layers, kind)(net.units(), **options)


def recurrent(kind: str) -> Callable[[Net, Tensor], Tensor]:
    """Returns the block of a kind of recurrent layer."""
    return lambda net, x: cell(net, kind)(x)


def bidirectional(net: Net, x: Tensor) -> Tensor:
    kind = net.rng.choice(("LSTM", "GRU", "SimpleRNN"))
    inner = getattr(layers, kind)(net.units(), return_sequences=net.maybe())
    return layers.Bidirectional(inner, merge_mode=net.rng.choice(("concat", "sum")), name=net.name("both"))(x)


def distributed(net: Net, x: Tensor) -> Tensor:
    return layers.TimeDistributed(layers.Dense(net.units(), **net.own()), name=net.name("distributed"))(x)


def conv2d(net: Net, x: Tensor) -> Tensor:
    dilation = 2 if net.maybe(0.15) else 1
    strides = 2 if dilation == 1 and net.maybe(0.3) else 1
    groups = 2 if x.shape[-1] % 2 == 0 and net.maybe(0.2) else 1
    units = net.units() if groups == 1 else net.rng.choice((4, 6))
    options = {"strides": strides, "dilation_rate": dilation, "padding": net.rng.choice(("same", "valid"))}
    if dilation * 2 >= min(x.shape[1:3]):
        options["padding"] = "same"
    size = net.rng.choice((1, 3, (3, 2)))
    return layers.Conv2D(units, size, groups=groups, name=net.name("conv"), **options, **net.own())(x)


def depthwise2d(net: Net, x: Tensor) -> Tensor:
    options = {"depth_multiplier": net.rng.choice((1, 2)), "padding": net.rng.choice(("same", "valid"))}
    if min(x.shape[1:3]) < 3:
        options["padding"] = "same"
    return layers.DepthwiseConv2D(3, name=net.name("depthwise"), **options, **net.own())(x)


def separable2d(net: Net, x: Tensor) -> Tensor:
    y = layers.SeparableConv2D(net.units(), 3, padding="same", name=net.name("separable"), **net.own())(x)
    return layers.BatchNormalization(name=net.name("norm"))(y) if net.maybe() else y


def transpose2d(net: Net, x: Tensor) -> Tensor:
    options = {"strides": net.rng.choice((1, 2)), "padding": net.rng.choice(("same", "valid"))}
    y = layers.Conv2DTranspose(net.units(), 3, name=net.name("transpose"), **options, **net.own())(x)
    return layers.BatchNormalization(name=net.name("norm"))(y) if net.maybe(0.3) else y


def conv3d(net: Net, x: Tensor) -> Tensor:
    return layers.Conv3D(net.units(), 2, padding="same", name=net.name("conv"), **net.own())(x)


def pooling(net: Net, x: Tensor) -> Tensor:
    """A linear layer, and pooling, padding, cropping or repetition of its outputs."""
    rank = len(x.shape) - 2
    kinds = ("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling")
    kind = net.rng.choice(kinds[:2] if min(x.shape[1:-1]) < 4 else kinds)
    net.add(kind)
    y = linear(net, x, net.units())(x)
    arguments = {"pool_size": 2, "padding": "same"} if "Pooling" in kind else {}
    return getattr(layers, f"{kind}{rank}D")(name=net.name(kind.lower()), **arguments)(y)


def flatten(net: Net, x: Tensor) -> Tensor:
    """A vector: all values, or the largest, or the mean of each channel."""
    rank = len(x.shape) - 2
    kind = net.rng.choice(("Flatten", f"GlobalAveragePooling{rank}D", f"GlobalMaxPooling{rank}D"))
    net.add(kind)
    return getattr(layers, kind)(name=net.name("flatten"))(x)


ANYWHERE = {
    "dense": dense,
    "batch_norm": norm,
    "layer_norm": layer_norm,
    "prelu": prelu,
    "custom_build": built,
    "custom_unbuilt": unbuilt,
    "lambda": lambda_layer,
    "times_number": times,
    "residual": residual,
    "concatenate": concatenation,
    "branches": branches,
    "shared": shared,
    "nested": nested,
    "einsum": einsum,
}
DOMAINS: dict[str, dict[str, Callable[[Net, Tensor], Tensor]]] = {
    "vector": ANYWHERE,
    "sequence": {
        **ANYWHERE,
        "conv1d": conv1d,
        "depthwise1d": depthwise1d,
        "separable1d": separable1d,
        "transpose1d": transpose1d,
        "attention": attention,
        "lstm": recurrent("LSTM"),
        "gru": recurrent("GRU"),
        "simple_rnn": recurrent("SimpleRNN"),
        "bidirectional": bidirectional,
        "distributed": distributed,
        "pooling": pooling,
    },
    "image": {
        **ANYWHERE,
        "conv2d": conv2d,
        "depthwise2d": depthwise2d,
        "separable2d": separable2d,
        "transpose2d": transpose2d,
        "pooling": pooling,
    },
    "volume": {name: ANYWHERE[name] for name in ("batch_norm", "residual", "shared")} | {"conv3d": conv3d},
}
