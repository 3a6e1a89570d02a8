"""Random small models of the matrix, with their inputs: a seed always gives the same."""

from __future__ import annotations

import dataclasses
import random

import keras
import numpy as np
from keras import layers

from benchmarks.matrix_layers import DOMAINS, RANKS, Net, Tensor, flatten

SHAPES = {"vector": (7,), "sequence": (6, 4), "image": (7, 7, 3), "volume": (4, 4, 4, 2)}
# The block that a seed is about, and the inputs that it takes.
FEATURED = [(domain, name) for domain, blocks in DOMAINS.items() for name in blocks if domain != "volume"]
FEATURED += [("volume", "conv3d"), ("tokens", "embedding"), ("tokens", "lstm"), ("tokens", "attention")]
# The first seeds are of many kinds, too.
random.Random(0).shuffle(FEATURED)
WORDS = 11
SAMPLES = 32
# Shapes that a strided layer leaves too small for the next one are drawn again.
ATTEMPTS = 50


@dataclasses.dataclass
class Case:
    """A model, inputs to train or calibrate on, and others to compare on.

    Args:
        model: the float model.
        kinds: the kinds of layers that it contains.
        fitting: inputs for training and calibration.
        testing: other inputs of the same kind.
    """

    model: keras.Model
    kinds: list[str]
    fitting: list[np.ndarray]
    testing: list[np.ndarray]


def build(seed: int) -> Case:
    """Returns the model and the inputs of a seed."""
    keras.backend.clear_session()
    for attempt in range(ATTEMPTS):
        rng = random.Random(f"model {seed} {attempt}")
        keras.utils.set_random_seed(seed)
        net = Net(rng)
        try:
            model = _model(net, *FEATURED[seed % len(FEATURED)])
        except ValueError:  # Keras: an axis became too short.
            keras.backend.clear_session()
            continue
        random_weights(model, np.random.default_rng(seed))
        fitting, testing = (_inputs(model, np.random.default_rng([seed, part])) for part in range(2))
        return Case(model, sorted(net.kinds), fitting, testing)
    raise RuntimeError(f"Seed {seed} gives no model in {ATTEMPTS} attempts. Expected shapes that fit. Mend the blocks.")


def _model(net: Net, domain: str, featured: str) -> keras.Model:
    """Returns a model with the featured block, other blocks around it, and one head or two."""
    inputs, x = _entrance(net, domain)
    if featured != "embedding":
        before = net.rng.choice((0, 0, 1)) if domain != "volume" else 0
        for _ in range(before):
            x = _block(net, x, same_rank=True)
        x = _block(net, x, featured)
    for _ in range(net.rng.choice((0, 1, 1, 2))):
        x = _block(net, x)
    ends = [_head(net, x)]
    if net.maybe(0.15):
        net.add("two outputs")
        ends.append(_head(net, x))
    if net.maybe(0.1) and len(x.shape) == 2:
        net.add("two inputs")
        other = keras.Input((5,), name="other")
        inputs.append(other)
        ends[0] = layers.Dense(3, name="joined")(layers.Concatenate()([ends[0], other]))
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], ends if len(ends) > 1 else ends[0], name="net")


def _entrance(net: Net, domain: str) -> tuple[list[Tensor], Tensor]:
    """Returns the model's inputs, and the tensor that the blocks start from."""
    if domain == "tokens":
        net.add("embedding")
        tokens = keras.Input((6,), dtype=net.rng.choice(("int32", "float32")), name="tokens")
        table = layers.Embedding(WORDS, net.units(), mask_zero=net.maybe(0.3), name=net.name("embedding"))
        return [tokens], table(tokens)
    x = keras.Input(SHAPES[domain], name=net.name("input"))
    return [x], x


def _block(net: Net, x: Tensor, name: str | None = None, same_rank: bool = False) -> Tensor:
    """Adds a block by name, or any that takes the tensor."""
    blocks = DOMAINS[RANKS[len(x.shape)]]
    for _ in range(ATTEMPTS):
        chosen = name or net.rng.choice(list(blocks))
        y = blocks[chosen](net, x)
        if not same_rank or len(y.shape) == len(x.shape):
            break
    net.add(chosen)
    return y


def _head(net: Net, x: Tensor) -> Tensor:
    """Returns an output: a dense layer on the whole, or on every position."""
    if len(x.shape) > 2 and net.maybe(0.85):
        x = flatten(net, x)
    function = net.rng.choice((None, None, "softmax", "sigmoid"))
    return layers.Dense(net.rng.choice((1, 3, 4)), activation=function, name=net.name("head"))(x)


def random_weights(model: keras.Model, rng: np.random.Generator) -> None:
    """Gives weights that start as zeros or ones (biases, statistics, slopes) values as after training."""
    for weight in model.weights:
        if not keras.backend.is_float_dtype(weight.dtype) or len(np.unique(weight)) > 1:
            continue
        start, noise = np.asarray(weight), rng.normal(size=weight.shape)
        positive = "variance" in weight.name
        weight.assign(np.exp(0.3 * noise) if positive else start + 0.3 * noise)


def _inputs(model: keras.Model, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns random inputs of a model: words for tokens, else normal values."""
    arrays = []
    for tensor in model.inputs:
        shape = (SAMPLES, *tensor.shape[1:])
        words = tensor.name == "tokens"
        values = rng.integers(0, WORDS, shape) if words else rng.normal(size=shape)
        arrays.append(values.astype(tensor.dtype))
    return arrays
