"""One differentiable palette, forward and backward: ours, or the formula written naively. For `dkm.py`.

    python benchmarks/dkm_step.py '{"way": "r2keras", "num_bits": 4, "dim": 1, "size": 65536}'

prints one row as JSON. TensorFlow, graph mode, 2 threads.
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
REPEATS, FEWEST = 9, 3


def apart(config: dict[str, Any]) -> dict[str, float]:
    """Returns what `measure` finds in a fresh process.

    Raises:
        RuntimeError: the process failed, as it does where the memory is not enough.
    """
    command = [sys.executable, __file__, json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise RuntimeError(f"The process that measured {config} ended with status {done.returncode}: {words}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    way: str, num_bits: int, dim: int, size: int, updates: int = UPDATES, search: bool = True, seconds: float = 60.0
) -> dict[str, float]:
    """Measures forward and backward in this process.

    Args:
        way: `"r2keras"` or `"naive"`.
        num_bits: bits of an index.
        dim: weights a table row.
        size: number of weights.
        updates: updates of the centroids in a step.
        search: whether the first codebook is searched (and `start_s` tells the time); else it is some of the weights.
        seconds: no more steps once these have passed; 3 to 9 are run.

    Returns:
        `step_s` and `cpu_s`, the fastest step; `extra_mb`, the most memory above what packages and weights take, MiB;
        `start_s` with `search`.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    from r2keras import PaletteSpec, _centroids

    spec, random = PaletteSpec(num_bits=num_bits, dim=dim), np.random.default_rng(0)
    values = (random.normal(size=(size // dim, dim)) * 0.02).astype("float32")
    begin = time.perf_counter()
    start = _centroids.start(values[None], spec.entries) if search else _spread(values, spec.entries)[None]
    start_s = time.perf_counter() - begin
    step = _step(tf, way, values, tf.constant(start), spec.temperature, updates)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    found = _timed(step, seconds) | {"extra_mb": memory("VmHWM") - before}
    return found | {"start_s": start_s} if search else found


def memory(name: str) -> float:
    """Returns a figure of /proc/self/status in MiB: VmRSS (now) or VmHWM (the highest since it was reset)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def naive(tf, vectors, codebook, tau, updates: int = UPDATES):
    """The formula, with the whole map of vectors by centroids at every step."""

    def shares(book):
        return tf.nn.softmax(-tf.reduce_sum(tf.square(vectors[:, None] - book[None]), -1) / tau)

    for _ in range(updates):
        a = shares(codebook)
        codebook = tf.matmul(a, vectors, transpose_a=True) / tf.reduce_sum(a, 0)[:, None]
    return tf.matmul(shares(codebook), codebook)


def _step(tf, way: str, values, start, temperature: float, updates: int):
    """Returns the compiled step: the gradient of a fixed function of the palette's values."""
    import numpy as np

    from r2keras.ops import dkm

    upstream = tf.constant(np.random.default_rng(1).normal(size=values.shape).astype("float32"))
    weight, tau = tf.Variable(values), tf.constant(temperature * values.var(), tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            if way == "naive":
                found = naive(tf, weight, start[0], tau, updates)
            else:
                found = dkm.soft_palette(weight[None], start, temperature=temperature, steps=updates)[0][0]
            loss = tf.reduce_sum(found * upstream)
        return tape.gradient(loss, weight)

    return step


def _timed(step, seconds: float) -> dict[str, float]:
    """Returns the fastest step, in seconds of the wall and of the processor; the first, which compiles, is left out."""
    step()
    walls, cpus, begin = [], [], time.perf_counter()
    while len(walls) < FEWEST or (len(walls) < REPEATS and time.perf_counter() - begin < seconds):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"step_s": min(walls), "cpu_s": min(cpus)}


def _spread(values, entries: int):
    """Returns evenly chosen vectors."""
    return values[:: len(values) // entries][:entries]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
