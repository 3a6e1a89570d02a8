r"""`r2keras.compress` on pretrained models that others made: bytes, accuracy on test inputs, time, memory.

    python benchmarks/compress.py --data_dir=DIR                    # rows go to results/compress.json; resumes
    python benchmarks/compress.py --data_dir=DIR --models=resnet8 --max_drops=0.01 --seeds=0
    python benchmarks/compress.py --table                           # the table, from results/compress.json

One call per row, without labels: `compress(model, inputs, max_drop=0.01)`, in a process of its own. The inputs are
those of `front.py`; a seed draws them: 2,048 CIFAR-10 training images, the first 500 keywords or photographs. The net
for persons gets 500 photographs of ImageNet at 96 pixels, and is judged by its agreement on the other 500. Accuracy is
that of the file on test inputs. The last columns are the smallest file of `results/front.json` that is as accurate,
which recipes of our documents made by hand from other draws, and the bytes of `compress` relative to it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Rows, machine, machine_lines, markdown
from r2keras.cli import common as cli

if TYPE_CHECKING:
    import numpy as np

RESULTS = Path(__file__).with_name("results") / "compress.json"
FRONT = Path(__file__).with_name("results") / "front.json"
KEYS = ("model", "max_drop", "target", "seed")
PERSONS = "persons"
TITLES = {
    "resnet8": "ResNet-8, CIFAR-10",
    "dscnn": "DS-CNN, keywords",
    "resnet20": "ResNet-20, CIFAR-10",
    "mobilenet": "MobileNetV1 0.25, ImageNet",
    PERSONS: "MobileNetV1 0.25, persons",
}
INPUTS = {"resnet8": 2048, "resnet20": 2048}
OTHERS = 500

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of the data and the pretrained models.", flag_values=FLAGS)
flags.DEFINE_list("models", list(TITLES), f"Any of {', '.join(TITLES)}.", flag_values=FLAGS)
flags.DEFINE_list("max_drops", ["0.01"], "Limits on the drop.", flag_values=FLAGS)
flags.DEFINE_list("targets", ["cpu"], "Targets of the files.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds that draw the inputs.", flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_string("row", None, "One row as JSON, printed; what the program runs for each.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return cli.run(FLAGS, __doc__, measure_all, argv)


def measure_all() -> int:
    """Measures every row that the results file lacks, or prints its table."""
    if FLAGS.row:
        print(json.dumps(measured(**json.loads(FLAGS.row))))
        return 0
    rows = Rows(FLAGS.out, KEYS)
    if FLAGS.table:
        front = json.loads(FRONT.read_text("utf-8"))
        print(table(rows.rows, front))
        print(f"\n{machine_lines(rows.rows, lambda row: TITLES[row['model']])}")
        return 0
    cli.need(FLAGS, "data_dir")
    done = {tuple(row[key] for key in KEYS) for row in rows.rows}
    for model in FLAGS.models:
        for drop in map(float, FLAGS.max_drops):
            for target in FLAGS.targets:
                for seed in map(int, FLAGS.seeds):
                    if (model, drop, target, seed) not in done:
                        rows.add([in_own_process(model=model, max_drop=drop, target=target, seed=seed)])
    return 0


def in_own_process(**row: Any) -> dict[str, Any]:
    """Returns a measured row; a process of its own has its own largest memory."""
    given = json.dumps({**row, "data_dir": FLAGS.data_dir})
    command = [sys.executable, __file__, f"--row={given}"]
    sys.stderr.write(f"{row} ...\n")
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(found.stdout.splitlines()[-1]), "machine": machine()}


def measured(model: str, max_drop: float, target: str, seed: int, data_dir: str) -> dict[str, Any]:
    """Compresses one model and judges its file on test inputs."""
    import numpy as np

    import r2keras

    net, inputs, test, labels = loaded(model, data_dir, seed)
    wanted = net.predict(test, batch_size=100, verbose=0).argmax(axis=1)
    with tempfile.TemporaryDirectory() as folder:
        start, processor = time.perf_counter(), time.process_time()
        result = r2keras.compress(net, inputs, max_drop=max_drop, target=target, folder=folder, progress=False)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        runner = r2keras.export.LiteRTModel(result.path)
        found = np.asarray(runner.predict(test)).argmax(axis=1)
    return {
        "model": model,
        "max_drop": max_drop,
        "target": target,
        "seed": seed,
        "is_met": result.is_met,
        "bytes": result.chosen["bytes"],
        "float_bytes": result.rows[0]["bytes"],
        "drop": result.chosen["drop"],
        "noise": result.chosen["noise"],
        "judged": result.num_samples,
        "accuracy": None if labels is None else float((found == labels).mean()),
        "float_accuracy": None if labels is None else float((wanted == labels).mean()),
        "agreement": float((found == wanted).mean()),
        "files": len(result.rows),
        "seconds": seconds,
        "processor_seconds": processor,
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "recipe": result.recipe.to_dict(),
    }


def loaded(name: str, data_dir: str, seed: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns a model, unlabeled inputs, test inputs and their labels."""
    import numpy as np

    from benchmarks import front_models

    if name == PERSONS:
        return persons(data_dir, seed)
    task = front_models.load(name, data_dir)
    order = np.random.default_rng(seed).permutation(len(task.pool))
    return task.model, task.pool[order[: INPUTS.get(name, OTHERS)]], task.inputs, task.labels


def persons(data_dir: str, seed: int) -> tuple[Any, np.ndarray, np.ndarray, None]:
    """Returns MLPerf's network for persons and photographs of its size, half to compress with and half to judge."""
    import keras
    import numpy as np

    from r2keras.workloads import data, nets

    photographs = data.load("imagenet_samples", Path(data_dir, "imagenet")).x_test
    images = (keras.ops.convert_to_numpy(keras.ops.image.resize(photographs, (96, 96))) + 1) / 2
    order = np.random.default_rng(seed).permutation(len(images))
    model = nets.load_mlperf(Path(data_dir, "mlperf_tiny", "vww_96.h5"))
    return model, images[order[:OTHERS]], images[order[OTHERS:]], None


def table(rows: list[dict[str, Any]], front: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table: means and half the range over seeds."""
    header = ["model", "allowed drop", "target", "bytes", "smaller than float", "accuracy lost", "agreement"]
    header += ["files", "processor s", "GiB", "by hand, bytes", "compress / by hand"]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["max_drop"], row["target"]), []).append(row)
    order = list(TITLES)
    cells = [
        cells_of(part, front) for _, part in sorted(groups.items(), key=lambda p: (order.index(p[0][0]), p[0][1:]))
    ]
    return markdown(header, cells)


def cells_of(part: list[dict[str, Any]], front: list[dict[str, Any]]) -> list[str]:
    """Returns the cells of the rows of one model under one limit."""
    first, size = part[0], mean(part, "bytes")
    lost, by_hand = "no labels", None
    if first["accuracy"] is not None:
        lost = spread([100 * (row["float_accuracy"] - row["accuracy"]) for row in part], "{:.1f}")
        by_hand = smallest_by_hand(front, first["model"], mean(part, "accuracy"))
    return [
        TITLES[first["model"]],
        f"{100 * first['max_drop']:g} %",
        first["target"],
        spread([row["bytes"] for row in part], "{:,.0f}"),
        f"{first['float_bytes'] / size:.1f} times",
        lost,
        spread([100 * row["agreement"] for row in part], "{:.1f}") + " %",
        f"{mean(part, 'files'):.0f}",
        spread([row["processor_seconds"] for row in part], "{:.0f}"),
        f"{max(row['gibibytes'] for row in part):.1f}",
        "-" if by_hand is None else f"{by_hand['bytes']:,.0f} ({by_hand['variant']})",
        "-" if by_hand is None else f"{size / by_hand['bytes']:.2f}",
    ]


def smallest_by_hand(front: list[dict[str, Any]], model: str, accuracy: float) -> dict[str, Any] | None:
    """Returns the smallest variant of r2keras in `front.json` that is at least as accurate, by means over seeds."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for row in front:
        if row["model"] == model and row["tool"] == "r2keras":
            variants.setdefault(row["variant"], []).append(row)
    found = [
        {"variant": name, "bytes": mean(part, "bytes")}
        for name, part in variants.items()
        if mean(part, "accuracy") >= accuracy
    ]
    return min(found, key=lambda row: row["bytes"], default=None)


def mean(rows: list[dict[str, Any]], name: str) -> float:
    """Returns the mean of a column."""
    return sum(row[name] for row in rows) / len(rows)


def spread(values: list[float], form: str) -> str:
    """Returns a mean and half the range of values as text.

    >>> spread([1.0, 3.0], "{:.1f}")
    '2.0 ± 1.0'
    """
    text = form.format(sum(values) / len(values))
    return text if len(values) < 2 else f"{text} ± {form.format((max(values) - min(values)) / 2)}"


if __name__ == "__main__":
    sys.exit(main())
