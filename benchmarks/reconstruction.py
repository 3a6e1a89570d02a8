r"""Accuracy and time of block-wise reconstruction after AdaRound, on pretrained nets, without labels.

    python benchmarks/reconstruction.py --data_dir=DIR                       # rows go to results/reconstruction.json
    python benchmarks/reconstruction.py --data_dir=DIR --jobs='resnet8 2' --seeds=0
    python benchmarks/reconstruction.py --data_dir=DIR --jobs='resnet8 2' --validate --epochs=4   # to choose settings
    python benchmarks/reconstruction.py --table

Each row: a net is quantized by `calibrate` with the steps fold_batch_norm, adaround and correct_bias, for fully integer
files, then trained by `calibration.reconstruct` on the same images. A seed draws the images; none of them is evaluated.
Accuracy is that of the Keras models, which decide as their files do. Rows are kept; a run continues where it stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common, front_models
from r2keras._util.files import atomic_write_text
from r2keras.cli import common as cli

RESULTS = Path(__file__).resolve().parent / "results" / "reconstruction.json"
# Net, bits per weight, bits of the first and last kernel, calibration images, points below float that are the goal.
JOBS = {
    "resnet8 4": ("resnet8", 4, 4, 2048, 0.5),
    "resnet8 2": ("resnet8", 2, 2, 2048, 3.0),
    "resnet20 2": ("resnet20", 2, 2, 1024, 1.2),
    "mobilenet 4": ("mobilenet", 4, 8, 400, 2.0),
    "digits 2": ("digits", 2, 2, 32, None),
}
VALIDATION = 2000

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of the data and the pretrained models.", flag_values=FLAGS)
flags.DEFINE_list("jobs", list(JOBS)[:-1], f"Any of {', '.join(JOBS)}.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the images and of the training.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", None, "Passes over the images for each block.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("end_to_end_epochs", None, "The same for the whole model.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float("learning_rate", None, "Learning rate of scales and biases.", flag_values=FLAGS)
flags.DEFINE_float("code_rate", None, "Learning rate of codes, per unit of the other.", flag_values=FLAGS)
flags.DEFINE_boolean("validate", False, "Evaluate on other training images; keep no row.", flag_values=FLAGS)
flags.DEFINE_string("results", str(RESULTS), "The rows, .json.", flag_values=FLAGS)
flags.DEFINE_boolean("table", False, "Only print the table.", flag_values=FLAGS)


def measured(job: str, seed: int) -> dict:
    """Returns the figures of one row."""
    import numpy as np

    import r2keras
    from r2keras import calibration

    net, bits, edges, count, _ = JOBS[job]
    task = front_models.load(net, FLAGS.data_dir)
    order = np.random.default_rng(seed).permutation(len(task.pool))
    images, inputs, labels = task.pool[order[:count]], task.inputs, task.labels.ravel()
    if FLAGS.validate:
        # Without labels: how often the quantized model decides as the float one.
        inputs = task.pool[order[count : count + VALIDATION]]
        labels = task.model.predict(inputs, batch_size=100, verbose=0).argmax(-1)

    def correct(model) -> int:
        return int((model.predict(inputs, batch_size=100, verbose=0).argmax(-1) == labels).sum())

    recipe = r2keras.Recipe.uniform(bits, edges, 8, ["fold_batch_norm", "adaround", "correct_bias"])
    clocks = [(time.time(), time.process_time())]
    small, record = r2keras.calibrate(task.model, recipe, images, integer=True)
    clocks.append((time.time(), time.process_time()))
    floats = calibration.fold_batch_norm(task.model)
    better, _ = calibration.reconstruct(floats, small, record, images, options=options(seed))
    clocks.append((time.time(), time.process_time()))
    walls, processors = ([round(b - a, 1) for a, b in itertools.pairwise(c)] for c in zip(*clocks, strict=True))
    return {
        "job": job,
        "seed": seed,
        "images": len(images),
        "samples": len(labels),
        "float": correct(task.model),
        "adaround": correct(small),
        "reconstruct": correct(better),
        "seconds": walls,
        "processor_seconds": processors,
        "machine": common.machine(),
    }


def options(seed: int):
    """Returns the settings of the flags."""
    from r2keras.calibration import ReconstructOptions

    names = ("epochs", "end_to_end_epochs", "learning_rate", "code_rate")
    given = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    return ReconstructOptions(seed=seed, **given)


def table(rows: list[dict]) -> str:
    """Returns the table of the documents: mean and spread over the seeds."""
    header = ["net", "float %", "AdaRound %", "reconstruct %", "below float", "goal", "time, AdaRound's = 1", "seeds"]
    cells = []
    for job, (net, bits, edges, _, goal) in JOBS.items():
        own = [row for row in rows if row["job"] == job]
        if not own:
            continue
        shares = {name: [100 * row[name] / row["samples"] for row in own] for name in ("adaround", "reconstruct")}
        floats = 100 * own[0]["float"] / own[0]["samples"]
        ratios = [row["processor_seconds"][1] / row["processor_seconds"][0] for row in own]
        title = front_models.MODELS.get(net, net) + f", W{bits}A8" + (f", edges W{edges}" if edges != bits else "")
        below = floats - statistics.mean(shares["reconstruct"])
        figures = [f"{floats:.1f}", *(spread(values) for values in shares.values()), f"{below:.1f}"]
        cells.append([title, *figures, "" if goal is None else f"{goal:g}", spread(ratios), str(len(own))])
    return common.markdown(header, cells)


def spread(values: list[float]) -> str:
    """Returns the mean, with the sample standard deviation if there are several values.

    >>> spread([1.0, 2.0, 3.0]), spread([1.25])
    ('2.0 ± 1.0', '1.2')
    """
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    path = Path(FLAGS.results)
    rows = json.loads(path.read_text()) if path.exists() and not FLAGS.validate else []
    unknown = [job for job in FLAGS.jobs if job not in JOBS]
    if unknown:
        sys.stderr.write(f"--jobs={unknown[0]} is unknown: expected any of {', '.join(JOBS)}.\n")
        return 2
    for seed in [] if FLAGS.table else map(int, FLAGS.seeds):
        for job in FLAGS.jobs:
            if any((row["job"], row["seed"]) == (job, seed) for row in rows):
                continue
            print(f"{job}, seed {seed}", file=sys.stderr, flush=True)
            rows.append(measured(job, seed))
            if not FLAGS.validate:
                atomic_write_text(path, json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
