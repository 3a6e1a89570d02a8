"""One differentiable palette, forward and backward, by r2keras or by the naive formula, for `dkm.py`.

    python benchmarks/dkm_step.py '{"way": "r2keras", "num_bits": 4, "dim": 1, "size": 65536}'

Prints one row as JSON. Runs TensorFlow in graph mode on 2 threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = ("r2keras", "naive")
THREADS = 2
UPDATES = 3
# Most and fewest timed steps.
REPEATS, FEWEST = 9, 3


def apart(config: dict[str, Any]) -> dict[str, float]:
    """Runs `measure` in a fresh process.

    Raises:
        RuntimeError: the process failed, for example because the memory is too small.
    """
    command = [sys.executable, __file__, json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"The process that measured {config} ended with status {done.returncode}: {words}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    way: str, num_bits: int, dim: int, size: int, updates: int = UPDATES, search: bool = True, seconds: float = 60.0
) -> dict[str, float]:
    """Measures forward and backward in this process.

    Args:
        way: `"r2keras"` or `"naive"`.
        num_bits: bits of an index.
        dim: weights per table row.
        size: number of weights.
        updates: updates of the centroids per step.
        search: whether the initial codebook is searched, which `start_s` measures; if not, it consists of weights.
        seconds: time after which no further step starts; between 3 and 9 steps are run.

    Returns:
        `step_s` and `cpu_s`, the wall and processor time of the fastest step; `extra_mb`, the peak memory beyond that
        of packages and weights, MiB; with `search` also `start_s`.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    from r2keras import PaletteSpec
    from r2keras.layers.kernels import initial_codebook

    spec, random = PaletteSpec(num_bits=num_bits, dim=dim), np.random.default_rng(0)
    values = (random.normal(size=(size // dim, dim)) * 0.02).astype("float32")
    begin = time.perf_counter()
    start = initial_codebook.start(values[None], spec.entries) if search else _spread(values, spec.entries)[None]
    start_s = time.perf_counter() - begin
    step = _step(tf, way, values, tf.constant(start), spec.temperature, updates)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Resets VmHWM.
    row = _timed(step, seconds) | {"extra_mb": memory("VmHWM") - before}
    if search:
        row["start_s"] = start_s
    return row


def memory(name: str) -> float:
    """Returns a value of /proc/self/status in MiB: VmRSS (current memory) or VmHWM (peak since the last reset)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def naive(tf, vectors, codebook, tau, updates: int = UPDATES):
    """Computes the formula with the whole map of vectors by centroids at every step."""

    def assignments(book):
        return tf.nn.softmax(-tf.reduce_sum(tf.square(vectors[:, None] - book[None]), -1) / tau)

    for _ in range(updates):
        a = assignments(codebook)
        codebook = tf.matmul(a, vectors, transpose_a=True) / tf.reduce_sum(a, 0)[:, None]
    return tf.matmul(assignments(codebook), codebook)


def _step(tf, way: str, values, start, temperature: float, updates: int):
    """Returns the compiled step: the gradient of a fixed linear function of the palette's values."""
    import numpy as np

    from r2keras.ops import dkm

    upstream = tf.constant(np.random.default_rng(1).normal(size=values.shape).astype("float32"))
    weight, tau = tf.Variable(values), tf.constant(temperature * values.var(), tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            if way == "naive":
                palette = naive(tf, weight, start[0], tau, updates)
            else:
                palette = dkm.soft_palette(weight[None], start, temperature=temperature, steps=updates)[0][0]
            loss = tf.reduce_sum(palette * upstream)
        return tape.gradient(loss, weight)

    return step


def _timed(step, seconds: float) -> dict[str, float]:
    """Returns the wall and processor seconds of the fastest step; the first step, which compiles, is left out."""
    step()
    walls, cpus, begin = [], [], time.perf_counter()
    while len(walls) < FEWEST or (len(walls) < REPEATS and time.perf_counter() - begin < seconds):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"step_s": min(walls), "cpu_s": min(cpus)}


def _spread(values, entries: int):
    """Returns `entries` evenly spaced vectors of `values`."""
    return values[:: len(values) // entries][:entries]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
