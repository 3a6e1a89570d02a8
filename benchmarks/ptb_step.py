"""Words per second of the Penn Treebank example's training step, with the full and the sampled softmax.

    python benchmarks/ptb_step.py                    # prints the table; some minutes on 2 cores
    python benchmarks/ptb_step.py --processor_time   # on a shared machine

Every variant trains a network of 300 units on the same window of 20 x 30 words; the variants run in random order.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read by the imports below.

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import tensorflow as tf
from common import interleave, machine, machine_line, markdown
from ptb_lib.model import BATCH, LENGTH, build, latent_weights
from ptb_lib.softmax import Sampler
from ptb_lib.step import CLIP, Step

from r2keras import QuantSpec

FEW_WORDS, DROPOUT, RATE = 40, 0.5, 1.0
CLOCKS = {False: ("ms", time.perf_counter), True: ("processor ms", time.process_time)}

flags.DEFINE_integer("words", 10_000, "Words of the vocabulary.")
flags.DEFINE_integer("units", 300, "Units of the LSTM.")
flags.DEFINE_integer("length", LENGTH, "Words per window, over which the step is unrolled.")
flags.DEFINE_integer("rounds", 5, "Rounds; the table shows their median.")
flags.DEFINE_integer("repeats", 5, "Steps per variant and round.")
flags.DEFINE_bool("processor_time", False, "Measure processor time instead of wall time.")


def main(argv: list[str]) -> None:
    del argv
    options, about = flags.FLAGS, machine()
    unit, clock = CLOCKS[options.processor_time]
    steps = variants(options.words, options.units)
    for step in steps.values():
        step()
    figures = interleave(steps, options.rounds, options.repeats, clock=clock)
    medians = {name: statistics.median(seconds) for name, seconds in figures.items()}
    cells = [[name, f"{1000 * t:.0f}", f"{BATCH * options.length / t:,.0f}"] for name, t in medians.items()]
    print(markdown(["step", unit, "words per second"], cells))
    print(machine_line(about))


def variants(words: int, units: int) -> dict[str, Callable[[], object]]:
    """Returns every step as a function without arguments, by its name in the table."""
    return {
        "Keras, `train_on_batch`": keras_step(words, units),
        "the example, softmax over all words": example_step(words, units, sampled=False),
        "the example, softmax over a sample": example_step(words, units),
        f"the same with a vocabulary of {FEW_WORDS} words": example_step(FEW_WORDS, units),
        "W3A3, softmax over a sample": example_step(words, units, num_bits=3),
        "W2A2, softmax over a sample": example_step(words, units, num_bits=2),
    }


def window(words: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a window of words with Zipf-distributed frequencies, as in a text."""
    drawn = np.random.default_rng(0).zipf(1.2, (2, BATCH, flags.FLAGS.length))
    return tuple(np.minimum(drawn - 1, words - 1).astype(np.int32))


def keras_step(words: int, units: int) -> Callable[[], object]:
    """Returns a step of the float model in plain Keras."""
    net = build(words, units, DROPOUT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(RATE, global_clipnorm=CLIP), loss, jit_compile=False)
    x, y = window(words)
    return lambda: float(net.train_on_batch(x, y))


def example_step(words: int, units: int, *, sampled: bool = True, num_bits: int | None = None) -> Callable[[], object]:
    """Returns a step of the example."""
    spec = None if num_bits is None else QuantSpec(num_bits=num_bits, method="alternating")
    net = build(words, units, DROPOUT, spec, spec)
    latent_weights(net)["recurrent_kernel"].assign(np.random.default_rng(0).normal(size=(units, 4 * units)) * 0.05)
    sampler = Sampler(words, 0)
    step = Step(net, sampler.log_weights if sampled else None, DROPOUT)
    drawn = sampler.draw() if sampled else np.zeros(0, np.int32)
    inputs = (*map(tf.constant, (*window(words), drawn)), tf.constant(RATE))
    return lambda: float(step.run(*inputs))


if __name__ == "__main__":
    app.run(main)
