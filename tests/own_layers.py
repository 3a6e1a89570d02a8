"""Layers as users write them: made of unnamed layers, without `build`, without `get_config`, holding models."""

import keras
from keras import layers, ops


class Block(layers.Layer):
    """Two unnamed layers, and neither `build` nor names."""

    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first, self.second = layers.Dense(2 * width, "relu"), layers.Dense(width)

    def call(self, x):
        return x + self.second(self.first(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Half(layers.Layer):
    """A `build` that creates a weight and leaves the layers inside to their first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.norm = layers.Dense(6), layers.BatchNormalization()

    def build(self, input_shape):
        self.mixing = self.add_weight(shape=(input_shape[-1], 6))
        super().build(input_shape)

    def call(self, x, training=None):
        return self.norm(self.inner(ops.matmul(x, self.mixing)), training=training)


class Deep(layers.Layer):
    """Layers in a list, a dictionary and a model, three deep."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block()]
        self.halves = {"a": Half()}
        self.net = keras.Sequential([layers.Dense(6), layers.Dense(6)])

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x)
        return self.net(self.halves["a"](x, training=training))


class Repeated(layers.Layer):
    """Names that are given twice, to layers and to weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = layers.Dense(6, name="proj"), layers.Dense(6, name="proj")

    def build(self, input_shape):
        self.u, self.v = (self.add_weight(name="w", shape=(6, 6)) for _ in range(2))

    def call(self, x):
        return self.b(self.a(ops.matmul(ops.matmul(x, self.u), self.v)))


class Taking(layers.Layer):
    """A layer that is given a model."""

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        self.net = net

    def call(self, x):
        return self.net(x)

    def get_config(self):
        return {**super().get_config(), "net": keras.saving.serialize_keras_object(self.net)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "net": keras.saving.deserialize_keras_object(config["net"])})


class Pair(layers.Layer):
    """Several inputs, an argument that is not a tensor, and a result in a dictionary."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = layers.Dense(6), layers.Dense(6)

    def call(self, x, other, factor=1.0, training=None):
        return {"sum": self.a(x["left"]) + factor * self.b(other), "left": x["left"]}


class Bare(layers.Layer):
    """Neither `get_config` nor **kwargs, which Keras' own config does not fit."""

    def __init__(self, units=6):
        super().__init__()
        self.units = units

    def build(self, input_shape):
        self.mixing = self.add_weight(shape=(input_shape[-1], self.units))

    def call(self, x):
        return ops.matmul(x, self.mixing)


OBJECTS = {kind.__name__: kind for kind in (Block, Half, Deep, Repeated, Taking, Pair, Bare)}


def stack():
    """A layer that is three deep, after one that is used twice."""
    block, x = Block(), keras.Input((6,))
    return keras.Model(x, Deep()(block(block(x))))


def given():
    """A layer that is given a model, after one whose weights share names."""
    net = keras.Sequential([layers.Dense(6), layers.Dense(6)])
    return keras.Sequential([keras.Input((6,)), Repeated(), Taking(net)])


def pair():
    """Several inputs, of which one is in a dictionary."""
    left, right = keras.Input((4,), name="left"), keras.Input((5,), name="right")
    return keras.Model([left, right], Pair(name="pair")({"left": left}, right, factor=2.0)["sum"])


def steps():
    """A layer for each time step, made of layers and a model."""
    x = keras.Input((4, 6))
    return keras.Model(x, layers.TimeDistributed(keras.Sequential([layers.Dense(5), layers.Dense(4)]), name="steps")(x))


class Transposed(layers.Layer):
    """A projection by the table of an embedding or the kernel of a dense layer that it holds, as tutorials tie them."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def build(self, input_shape):
        size = 20 if isinstance(self.source, layers.Embedding) else self.source.kernel.shape[0]
        self.bias = self.add_weight(name="bias", shape=(size,), initializer="zeros")

    def call(self, x):
        weight = self.source.embeddings if isinstance(self.source, layers.Embedding) else self.source.kernel
        return ops.matmul(x, ops.transpose(weight)) + self.bias

    def get_config(self):
        return {**super().get_config(), "source": keras.saving.serialize_keras_object(self.source)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "source": keras.saving.deserialize_keras_object(config["source"])})


OBJECTS["Transposed"] = Transposed


def words(layer=Transposed):
    """A table of words that is also the output projection."""
    x, table = keras.Input((6,), dtype="int32"), layers.Embedding(20, 8, name="table")
    return keras.Model(x, layer(table, name="tied")(layers.GlobalAveragePooling1D()(table(x))))


def decoder():
    """A decoder with the weights of its encoder, whose batch normalization could be folded."""
    x, encoder = keras.Input((8,)), layers.Dense(5, name="encoder")
    return keras.Model(x, Transposed(encoder, name="tied")(layers.BatchNormalization(name="norm")(encoder(x))))
