"""Export of a trained network: one step as a `.tflite` file, and the perplexities of the file and of Keras."""

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
from ptb_lib.rows import RunRow
from r2keras.export import LiteRTStream, streaming, to_litert


def export(net: keras.Model, path: Path, ids: np.ndarray, console: Console) -> RunRow:
    """Writes one step of the network to a file and measures it.

    Args:
        net: a trained network of `build`; a quantized one is finalized first.
        path: the `.tflite` file.
        ids: the text, at least two words.
        console: where to draw the progress bar.

    Returns:
        The columns about the file, over the same words at batch size 1. For `keras_perplexity`, Keras starts every
        window of 30 words with the state that the file has reached. For `keras_alone_perplexity`, Keras keeps its own
        state: where a few-bit state lies within float rounding of a tie, Keras and the file may round it differently,
        and their perplexities then differ by chance. `file_ms_per_word` is the median processor time on one thread.
        Columns that begin with `packed` are about a second file of a quantized network, whose products take the codes.
    """
    model, record = (net, None) if plain(net) else r2keras.finalize(net)
    step = streaming(model)
    size = to_litert(step, path, record)
    perplexity_of_file, states, milliseconds = file_perplexity(path, ids, console)
    keras_model = one_row(model)
    packed = {} if record is None else packed_columns(step, record, path, ids, console)
    return {
        "file_bytes": size.file_bytes,
        "file_perplexity": round(perplexity_of_file, 4),
        "keras_perplexity": round(perplexity(keras_model, ids, states), 4),
        "keras_alone_perplexity": round(perplexity(keras_model, ids), 4),
        "file_words": len(ids) - 1,
        "file_ms_per_word": round(milliseconds, 3),
        **packed,
    }


def packed_columns(
    step: keras.Model, record: r2keras.CompressionRecord, path: Path, ids: np.ndarray, console: Console
) -> RunRow:
    """Writes and measures a file with `activations="dynamic"` next to `path`; `{}` if no product takes the codes."""
    path = path.with_name(f"{path.stem}_packed.tflite")
    try:
        size = to_litert(step, path, record, activations="dynamic")
    except ValueError as error:
        if "matrix product" not in str(error):
            raise
        return {}
    perplexity_of_file, _, milliseconds = file_perplexity(path, ids, console)
    return {
        "packed_bytes": size.file_bytes,
        "packed_perplexity": round(perplexity_of_file, 4),
        "packed_ms_per_word": round(milliseconds, 3),
    }


def file_perplexity(path: Path, ids: np.ndarray, console: Console) -> tuple[float, list[list[np.ndarray]], float]:
    """Returns the file's perplexity, its states at the start of each window, and milliseconds per word."""
    stream = LiteRTStream(path)
    losses, states, times = [], [], []
    pairs = list(itertools.pairwise(ids))
    for word, following in track(pairs, "file", console=console, transient=True, disable=not console.is_terminal):
        if len(losses) % LENGTH == 0:
            states.append(stream.states)
        start = time.process_time()
        logits = stream.step(word).astype(np.float64)
        times.append(time.process_time() - start)
        largest = logits.max()
        losses.append(largest + math.log(np.exp(logits - largest).sum()) - logits[following])
    return math.exp(min(float(np.mean(losses)), LARGEST_LOSS)), states, 1e3 * float(np.median(times))


def one_row(net: keras.Model) -> keras.Model:
    """Returns a copy of a plain network with batch size 1 instead of 20."""
    words = keras.Input((None,), 1, dtype="int32", name="words")
    copy = keras.models.clone_model(net, input_tensors=words)
    copy.set_weights(net.get_weights())
    return copy
