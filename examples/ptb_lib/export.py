"""The file of a trained network: one step of it as a `.tflite`, and its perplexity beside that of Keras."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import track

import r2keras
from ptb_lib.model import LARGEST_LOSS, LENGTH, perplexity, plain
from ptb_lib.rows import Row
from r2keras.export import LiteRTStream, streaming, to_litert


def export(net: keras.Model, path: Path, ids: np.ndarray, console: Console) -> Row:
    """Writes the network's step to a file and measures it.

    Args:
        net: a trained network of `build`; a quantized one is finalized first.
        path: the `.tflite`.
        ids: the text, two words or more.
        console: where to draw the progress.

    Returns:
        The row's columns of the file, over the same words at batch size 1. Keras starts every window of 30 words at the
        state that the file has come to. `keras_alone_perplexity` is that of Keras carrying on its own: a few-bit state
        that lies within float rounding of a tie goes the other way, and from there on the two are different
        trajectories, whose perplexities differ by chance. The time of a word is the processor's, the median one, on
        one thread.
    """
    model, record = (net, None) if plain(net) else r2keras.finalize(net)
    size = to_litert(streaming(model), path, record)
    found, states, milliseconds = file_perplexity(path, ids, console)
    keras_model = one_row(model)
    return {
        "file_bytes": size.file_bytes,
        "file_perplexity": round(found, 4),
        "keras_perplexity": round(perplexity(keras_model, ids, states), 4),
        "keras_alone_perplexity": round(perplexity(keras_model, ids), 4),
        "file_words": len(ids) - 1,
        "file_ms_per_word": round(milliseconds, 3),
    }


def file_perplexity(path: Path, ids: np.ndarray, console: Console) -> tuple[float, list[list[np.ndarray]], float]:
    """Returns the file's perplexity word by word, its states at the start of each window, and milliseconds a word."""
    stream, losses, states, times = LiteRTStream(path), [], [], []
    pairs = list(itertools.pairwise(ids))
    for word, following in track(pairs, "file", console=console, transient=True, disable=not console.is_terminal):
        if len(losses) % LENGTH == 0:
            states.append(stream.states)
        begun = time.process_time()
        logits = stream.step(word).astype(np.float64)
        times.append(time.process_time() - begun)
        largest = logits.max()
        losses.append(largest + math.log(np.exp(logits - largest).sum()) - logits[following])
    return math.exp(min(float(np.mean(losses)), LARGEST_LOSS)), states, 1e3 * float(np.median(times))


def one_row(net: keras.Model) -> keras.Model:
    """Returns a copy of a plain network that takes one stream of words instead of twenty."""
    words = keras.Input((None,), 1, dtype="int32", name="words")
    copy = keras.models.clone_model(net, input_tensors=words)
    copy.set_weights(net.get_weights())
    return copy
