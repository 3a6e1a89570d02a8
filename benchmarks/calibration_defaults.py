"""What `calibrate` does without steps and with `steps="auto"`: accuracy, error and time, and how well data fit a model.

    python benchmarks/calibration_defaults.py --data_dir=DIR    # an hour; rows go to results/calibration_defaults.json
    python benchmarks/calibration_defaults.py --table           # the table, from that file
    python benchmarks/calibration_defaults.py --data_dir=DIR --fit    # divergences of data that fit and that do not

DIR holds the CIFAR-10 `.npz` files, `resnet20_cifar10_pytorch.npz`, and the folders `mlperf_tiny` and `imagenet`.

Each seed draws other inputs for calibration: 256 training images of CIFAR-10, judged on 2,000 validation images; or 250
of the first 500 inputs for DS-CNN and MobileNet, judged on the other 250. Inputs that other pages test on are not used.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, machine, machine_lines, markdown, revision
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "calibration_defaults.json"
KEYS = ("net", "bits", "way", "seed")
# The files of the nets, and their data sets with options.
NETS = {
    "dscnn": ("mlperf_tiny/kws_dscnn.h5", "speech_commands_eval", "mlperf_tiny"),
    "resnet8": ("mlperf_tiny/ic_resnet8.h5", "cifar10", ""),
    "resnet20": ("resnet20_cifar10_pytorch.npz", "cifar10", ""),
    "mobilenet": ("imagenet/mobilenet_v1_025_224.h5", "imagenet_samples", "imagenet"),
}
NAMES = {"dscnn": "DS-CNN", "resnet8": "ResNet-8", "resnet20": "ResNet-20", "mobilenet": "MobileNetV1-0.25"}
WAYS: dict[str, tuple[str, ...]] = {
    "re-estimation alone": ("reestimate_batch_norm",),
    "no steps": (),
    "correct_bias alone": ("correct_bias",),
    "auto": ("auto",),
}
SAMPLES, HALF = 256, 250

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of the data sets and the pretrained models.", flag_values=FLAGS)
flags.DEFINE_list("nets", list(NETS), f"Any of {', '.join(NETS)}.", flag_values=FLAGS)
flags.DEFINE_list("bits", ["4", "2"], "Bits per weight; activations and inputs have 8.", flag_values=FLAGS)
flags.DEFINE_list("ways", list(WAYS), f"Any of {'; '.join(WAYS)}.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Draws of the calibration data.", flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file; finished rows are kept.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool("fit", False, "Print how well data fit the batch-norm statistics, and stop.", flag_values=FLAGS)
flags.DEFINE_bool(
    "smoke", False, "Run one row in seconds on the embedded digits; the figures are meaningless.", flag_values=FLAGS
)


def load(net: str, seed: int, data_dir: str | None):
    """Returns a model, calibration inputs, and inputs and labels to judge by."""
    from r2keras import workloads

    if net == "digits":
        data = workloads.data.load("digits")
        model = workloads.nets.build("cnn", data.input_shape, data.num_classes)
        return model, data.x_train[:64], data.x_validation, data.y_validation
    file, name, folder = NETS[net]
    read = workloads.nets.load_resnet20 if net == "resnet20" else workloads.nets.load_mlperf
    data = workloads.data.load(name, Path(data_dir or ".") / folder, scaled=net != "resnet8")
    model = read(Path(data_dir or ".") / file)
    random = np.random.default_rng(seed)
    if name == "cifar10":
        drawn = random.permutation(len(data.x_train))[:SAMPLES]
        return model, data.x_train[drawn], data.x_validation, data.y_validation
    order = random.permutation(2 * HALF)
    chosen, others = order[:HALF], order[HALF:]
    return model, data.x_test[chosen], data.x_test[others], data.y_test[others]


def measure(net: str, bits: int, way: str, seed: int, data_dir: str | None) -> Row:
    """Calibrates once; returns accuracies, the relative error of the outputs, and seconds."""
    import r2keras

    model, samples, x, y = load(net, seed, data_dir)
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(bits, activation_bits=8))], steps=WAYS[way])
    wall, processor = time.perf_counter(), time.process_time()
    small, _ = r2keras.calibrate(model, recipe, samples, input_bits=8, progress=False)
    row: Row = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    expected, found = (each.predict(x, verbose=0) for each in (model, small))
    error = np.square(found - expected).mean() / np.square(expected - expected.mean(axis=0)).mean()
    accuracies = {name: float((out.argmax(-1) == y).mean()) for name, out in (("float", expected), ("accuracy", found))}
    return row | accuracies | {"error": float(error)}


def fits(nets: list[str], data_dir: str) -> str:
    """Returns the divergences of data as in training, for each seed, and of data that were treated otherwise."""
    from r2keras._models.walk import view_of
    from r2keras.calibration import batch_norm
    from r2keras.calibration.data import kept_batches
    from r2keras.calibration.data_fit import divergences

    cells = []
    for net in nets:
        for seed in (0, 1, 2):
            model, x, _, _ = load(net, seed, data_dir)
            view, span = view_of(model), x.max() - x.min()
            cases = {f"as in training, draw {seed}": x, f"16 of draw {seed}": x[:16]}
            if not seed:
                cases |= {"divided by 255": x / 255, "times 255": x * 255, "0 to 1": (x - x.min()) / span}
                cases |= {"standardized as a whole": (x - x.mean()) / x.std(), "shifted by its deviation": x + x.std()}
            for case, samples in cases.items():
                checked = kept_batches(view, samples.astype(np.float32), 128, None)
                cells.append(
                    [NAMES[net], case, f"{max(divergences(view, batch_norm.measure(view, checked)).values()):.2f}"]
                )
    return markdown(["net", "data", "largest divergence, nats"], cells)


def table(rows: list[Row]) -> str:
    """Returns mean and spread over the seeds as a Markdown table."""
    header = ["net", "weights", "way", "float %", "accuracy %", "output error", "processor, s"]
    cells = []
    for net, bits, way in dict.fromkeys((row["net"], row["bits"], row["way"]) for row in rows):
        some = [row for row in rows if (row["net"], row["bits"], row["way"]) == (net, bits, way)]
        figures = [
            _spread([100 * row["float"] for row in some], 1),
            _spread([100 * row["accuracy"] for row in some], 1),
        ]
        figures += [_spread([row["error"] for row in some], 3)]
        figures += [f"{statistics.mean(row['processor_seconds'] for row in some):.0f}"]
        cells.append([NAMES.get(net, net), f"W{bits}A8", way, *figures])
    return f"{markdown(header, cells)}\n\n{machine_lines(rows, lambda row: NAMES.get(row['net'], row['net']))}"


def _spread(values: list[float], digits: int) -> str:
    """Returns the mean, and half the distance between the least and the largest value."""
    return f"{statistics.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def run(store: Rows, jobs: list[tuple[str, int, str, int]]) -> None:
    """Measures the jobs that have no row yet; each row is written at once."""
    finished = {tuple(row[name] for name in KEYS) for row in store.rows}
    for job in jobs:
        if job not in finished:
            about = machine()
            figures = measure(*job, FLAGS.data_dir)
            store.add([{**dict(zip(KEYS, job, strict=True)), **figures, "revision": revision(), "machine": about}])
            print(*job, f"{100 * figures['accuracy']:.1f} %", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    return cli.run(FLAGS, __doc__, measured, argv)


def measured() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for flag, known in (("nets", NETS), ("ways", WAYS)):
        unknown = [name for name in FLAGS[flag].value if name not in known]
        if unknown:
            sys.stderr.write(f"--{flag}={unknown[0]} is unknown: expected any of {'; '.join(known)}.\n")
            return 2
    if not (FLAGS.table or FLAGS.smoke or FLAGS.data_dir):
        sys.stderr.write("--data_dir is missing: give the folder of the data, or try --smoke.\n")
        return 2
    if FLAGS.fit:
        print(fits(FLAGS.nets, FLAGS.data_dir))
        return 0
    store = Rows(FLAGS.out, KEYS)
    jobs = [(n, int(b), w, int(s)) for n in FLAGS.nets for b in FLAGS.bits for w in FLAGS.ways for s in FLAGS.seeds]
    if not FLAGS.table:
        run(store, [("digits", 4, "no steps", 0)] if FLAGS.smoke else jobs)
    print(table(store.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
