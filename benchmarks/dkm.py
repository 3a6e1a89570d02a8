"""Time and memory of one differentiable palette, forward and backward, beside the naive formula and coremltools.

    python benchmarks/dkm.py                                            # ours and the naive formula
    python benchmarks/dkm.py --peer=coremltools_dkm.py --peer_python=venv/bin/python
    python benchmarks/dkm.py --table                                    # the table, from results/dkm.json

Each row is a fresh process with 2 threads. The peer's script prints `RESULT {...}` for `--one '{"shape": ...}'`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Rows, machine, machine_line, markdown

CONFIGS = ((4, 1), (2, 1), (4, 4), (4, 2))
SHAPE = (512, 512, 3, 3)
UPDATES = 3
RESULTS = Path(__file__).with_name("results") / "dkm.json"

FLAGS = flags.FLAGS
flags.DEFINE_string("peer", None, "The peer's script.")
flags.DEFINE_string("peer_python", sys.executable, "The interpreter that has the peer's packages.")
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.")
flags.DEFINE_string("one", None, "Measure one row, way,bits,dim, in this process, and print it.")


def memory(name: str) -> float:
    """Returns a figure of /proc/self/status in MiB: VmRSS (now) or VmHWM (the highest since it was reset)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def naive(tf, vectors, codebook, tau):
    """The formula, with the whole map of vectors by centroids at every step."""

    def shares(book):
        return tf.nn.softmax(-tf.reduce_sum(tf.square(vectors[:, None] - book[None]), -1) / tau)

    for _ in range(UPDATES):
        a = shares(codebook)
        codebook = tf.matmul(a, vectors, transpose_a=True) / tf.reduce_sum(a, 0)[:, None]
    return tf.matmul(shares(codebook), codebook)


def one(way: str, num_bits: int, dim: int, repeats: int = 9) -> dict:
    """Measures ours or the naive formula in this process."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    from r2keras import PaletteSpec, _centroids
    from r2keras.ops import dkm

    spec, random = PaletteSpec(num_bits=num_bits, dim=dim), np.random.default_rng(0)
    values = (random.normal(size=(int(np.prod(SHAPE)) // dim, dim)) * 0.02).astype("float32")
    begin = time.perf_counter()
    start = tf.constant(_centroids.start(values[None], spec.entries))
    start_s = time.perf_counter() - begin
    weight, upstream = tf.Variable(values), tf.constant(random.normal(size=values.shape).astype("float32"))
    tau = tf.constant(spec.temperature * values.var(), tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            if way == "naive":
                found = naive(tf, weight, start[0], tau)
            else:
                found = dkm.soft_palette(weight[None], start, temperature=spec.temperature, steps=UPDATES)[0][0]
            loss = tf.reduce_sum(found * upstream)
        return tape.gradient(loss, weight)

    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    step()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    extra = memory("VmHWM") - before
    return {"step_s": min(walls), "cpu_s": min(cpus), "extra_mb": extra, "start_s": start_s}


def peer(script: str, python: str, num_bits: int, dim: int) -> dict:
    """Measures the peer with its own script."""
    config = {"shape": SHAPE, "n_bits": num_bits, "dim": dim, "n_init": 1}
    command = [python, script, "--one", json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    row = json.loads(next(line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")))
    extra = row["peak_rss_mb"] - row["rss_before_mb"]
    return {"step_s": row["step_min_s"], "cpu_s": row["cpu_min_s"], "extra_mb": extra, "start_s": row["init_s"]}


def apart(way: str, num_bits: int, dim: int) -> dict:
    """Measures ours or the naive formula in a fresh process."""
    command = [sys.executable, __file__, f"--one={way},{num_bits},{dim}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """Returns the rows as a table."""
    header = ["bits / dim", "who", "step, s", "processor, s", "extra memory, MiB", "start, s"]
    cells = [
        [
            f"{row['num_bits']} / {row['dim']}",
            row["way"],
            *(f"{row[name]:.3f}" for name in ("step_s", "cpu_s")),
            f"{row['extra_mb']:.0f}",
            f"{row['start_s']:.2f}",
        ]
        for row in rows
    ]
    return markdown(header, cells)


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.one:
        way, num_bits, dim = FLAGS.one.split(",")
        print(json.dumps(one(way, int(num_bits), int(dim))))
        return
    rows = Rows(RESULTS, ("num_bits", "dim", "way"))
    if not FLAGS.table:
        about = machine()
        for num_bits, dim in CONFIGS:
            found = {way: apart(way, num_bits, dim) for way in ("r2keras", "naive")}
            if FLAGS.peer:
                found["coremltools"] = peer(FLAGS.peer, FLAGS.peer_python, num_bits, dim)
            key = {"num_bits": num_bits, "dim": dim}
            rows.add([{**key, "way": way, **row, "machine": about} for way, row in found.items()])
    print(machine_line(rows.rows[0]["machine"]), "", table(rows.rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
