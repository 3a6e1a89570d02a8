r"""Features of a file against targets: which run, and do they compute what the file computes here?

    pip install 'r2keras[tflm,npu]'
    python benchmarks/targets.py               # some minutes; fetches old runtimes and LiteRT.js
    python benchmarks/targets.py --table       # the table, from the results file

One small file for each feature. ai-edge-litert runs it in the version installed and in older ones, down to the first
that refuses it; LiteRT.js runs it in Node, LiteRT for Microcontrollers in Python, and Vela compiles it for Ethos-U55.
Outputs are compared with those of ai-edge-litert here, within the tolerance of `r2keras.export.golden`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import markdown
from r2keras._util.files import atomic_write_text, one_line
from r2keras.cli import common as cli

if TYPE_CHECKING:
    import keras

RESULTS = Path(__file__).parent / "results" / "targets.json"
# The newest first. tflite-runtime is what phones had in 2023.
VERSIONS = ("2.2.0", "2.1.6", "2.1.0", "2.0.2", "1.4.0", "1.2.0", "1.0.1", "tflite-runtime 2.14.0")
RUN = """
import json, sys
import numpy as np
from importlib import import_module
Interpreter = import_module(sys.argv[2]).Interpreter
try:
    folder = sys.argv[1]
    manifest = json.load(open(folder + "/golden.json"))
    interpreter = Interpreter(folder + "/model.tflite")
    interpreter.allocate_tensors()
    inputs = [np.load(folder + "/" + item["npy"]) for item in manifest["inputs"]]
    outputs = [[] for _ in manifest["outputs"]]
    for sample in range(manifest["num_samples"]):
        if hasattr(interpreter, "reset_all_variables"):
            interpreter.reset_all_variables()
        for detail, values in zip(interpreter.get_input_details(), inputs):
            interpreter.set_tensor(detail["index"], values[sample : sample + 1])
        interpreter.invoke()
        for detail, found in zip(interpreter.get_output_details(), outputs):
            found.append(interpreter.get_tensor(detail["index"])[0])
    for item, found in zip(manifest["outputs"], outputs):
        off = np.abs(np.asarray(found, float) - np.load(folder + "/" + item["npy"])).max()
        if not off <= item["tolerance"]:
            print("wrong: off by", off, "allowed", item["tolerance"])
            break
    else:
        print("runs")
except Exception as error:
    print("refused:", " ".join(str(error).split())[:120])
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)
flags.DEFINE_list("features", None, "Words in the names of features; all by default.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)


def features() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Returns net, arguments of the spec and of `to_litert` for each feature; a spec of {} is a float file."""
    one = {"batch_size": 1}
    integers = {"activations": "int8", **one}
    dynamic = {"activations": "dynamic", **one}
    w = {bits: {"num_bits": bits} for bits in (8, 4, 2)}
    a8 = {bits: {"num_bits": bits, "activation_bits": 8} for bits in (8, 4, 2)}
    palette = {"num_bits": 3, "min_size": 0}
    return {
        "float": ("conv", {}, one),
        "open batch": ("conv", {}, {}),
        "exact, 8 bits": ("conv", w[8], one),
        "exact, 4 bits": ("conv", w[4], one),
        "exact, 2 bits": ("conv", w[2], one),
        "palettes, decoded once": ("conv", palette, one),
        "palettes, decoded at every call": ("conv", palette, {"optimize": "memory", **one}),
        "products of 8 bits, rows rounded": ("dense", w[8], dynamic),
        "products of 4 bits, rows rounded": ("dense", w[4], dynamic),
        "products of 2 bits, rows rounded": ("dense", {**w[2], "levels": "mid_tread"}, dynamic),
        "integers, 8 bits": ("conv", a8[8], integers),
        "integers, 4 bits": ("conv", a8[4], integers),
        "integers, 2 bits": ("conv", a8[2], integers),
        "integers, 4 bits for microcontrollers": ("conv", a8[4], {"target": "mcu"}),
        "integers, 4-bit codes in 8 bits": ("conv", a8[4], {"optimize": "latency", **integers}),
        "integers, 8-bit inputs and outputs": ("conv", a8[8], {"io": "int8", **integers}),
        "integers for Ethos-U, 2 bits": ("conv", a8[2], {"target": "ethos-u"}),
        "LSTM as a loop, 4 bits": ("lstm", w[4], one),
        "LSTM as a loop, 4 bits, rows rounded": ("lstm", w[4], dynamic),
        "LSTM fused, 4 bits": ("lstm", w[4], {"recurrent": "fused", **one}),
        "look-up tables of 3 bits (to_tflm)": ("conv", palette, {"tflm": True}),
        "look-up tables of 4 bits (to_tflm)": ("conv", w[4], {"tflm": True}),
    }


def net(name: str) -> keras.Model:
    """Returns a small net with random weights."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    if name == "dense":
        parts = [keras.Input((64,)), layers.Dense(48, activation="relu"), layers.Dense(10)]
    elif name == "lstm":
        parts = [keras.Input((6, 20)), layers.LSTM(32), layers.Dense(10)]
    else:
        parts = [keras.Input((8, 8, 16)), layers.Conv2D(24, 3, padding="same", activation="relu")]
        parts += [layers.DepthwiseConv2D(3, activation="relu"), layers.Conv2D(16, 1, activation="relu")]
        parts += [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential(parts)


def write(feature: str, path: Path) -> np.ndarray:
    """Writes the file of a feature; returns inputs."""
    import r2keras

    name, spec, options = features()[feature]
    model = net(name)
    x = np.random.default_rng(0).normal(size=(32, *model.input_shape[1:])).astype("float32")
    record = None
    if spec:
        kind = r2keras.PaletteSpec if "min_size" in spec else r2keras.QuantSpec
        integer = "activation_bits" in spec
        recipe = r2keras.Recipe([(".*", kind(**spec))])
        model, record = r2keras.calibrate(model, recipe, x, integer=integer, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.get("tflm"):
            r2keras.export.to_tflm(model, path, record)
        else:
            r2keras.export.to_litert(model, path, record, **options)
    return x[:4]


def measured(feature: str, folder: Path) -> dict[str, str]:
    """Returns what each runtime does with the file of a feature."""
    from r2keras.export import golden

    path = folder / "model.tflite"
    x = write(feature, path)
    values = golden(None, path, x)
    values.save(folder)
    tables = bool(features()[feature][2].get("tflm"))
    row = {"LiteRT": "refused: look-up tables" if tables else "runs", "oldest": "-" if tables else oldest(folder)}
    # LiteRT.js would run these too, and return wrong values; `web_page` refuses them.
    row["LiteRT.js"] = "refused: look-up tables" if tables else attempt(lambda: in_browser(path, values, folder))
    row["microcontrollers"] = attempt(lambda: on_tflm(path, x, values, tables))
    row["Ethos-U"] = attempt(lambda: on_npu(path))
    return row


def attempt(run: Callable[[], str]) -> str:
    """Returns what a runtime does, or how it refuses the file."""
    try:
        return run()
    except (ValueError, RuntimeError) as error:
        return f"refused: {one_line(error)}"


def oldest(folder: Path) -> str:
    """Returns the oldest version, without a gap, that computes what the installed one computes."""
    found = "2.3.0"
    for version in VERSIONS:
        package, _, number = version.rpartition(" ")
        module = "tflite_runtime.interpreter" if package else "ai_edge_litert.interpreter"
        target = installed(package or "ai-edge-litert", number)
        command = [sys.executable, "-c", RUN, str(folder), module]
        environment = {**os.environ, "PYTHONPATH": str(target)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"  {version}: {said[0]}", file=sys.stderr)
        if said[0].startswith("wrong"):
            raise RuntimeError(f"{version} miscomputes the file in {folder}: {said[0]}. Expected 'runs' or 'refused'.")
        if said[0] != "runs":
            break
        found = version
    return found


def installed(package: str, version: str) -> Path:
    """Installs a version of a runtime in a folder of its own, once."""
    target = Path(tempfile.gettempdir(), "r2keras_runtimes", f"{package}-{version}")
    if not target.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
        needs = ["numpy<2"] if package == "tflite-runtime" or version == "1.0.1" else []
        subprocess.run([*pip, f"{package}=={version}", *needs], check=True, capture_output=True)
    return target


def in_browser(path: Path, values, folder: Path) -> str:
    """Returns what LiteRT.js does, in Node."""
    from r2keras.export.devices.browser.page import add_file
    from tests import litert_js

    page = folder / "page"
    (answer,) = litert_js.run_in_node(page, [add_file(path, values, page)], 0.0)
    if answer.get("error"):
        return f"refused: {answer['error']}"
    return "runs" if answer["passed"] else "wrong"


def on_tflm(path: Path, x: np.ndarray, values, tables: bool) -> str:
    """Returns what LiteRT for Microcontrollers does; its kernels round otherwise than LiteRT's."""
    from r2keras.export import TFLMModel

    outputs = TFLMModel(path, isolated=True).predict(x)
    if tables:
        return "runs"
    difference = np.abs(np.asarray(outputs, float) - values.outputs[0].values).max()
    spread = float(np.ptp(values.outputs[0].values.astype(float)))
    return "runs" if difference <= max(values.outputs[0].tolerance, 0.1 * spread) else f"wrong: off by {difference:.3g}"


def on_npu(path: Path) -> str:
    """Returns how many operators Vela puts on the NPU."""
    from r2keras.export import ethos_u

    report = ethos_u(path)
    total = report.npu_operators + report.cpu_operators
    return "runs" if not report.cpu_operators else f"{report.npu_operators} of {total} operators"


def table(rows: dict[str, dict[str, str]]) -> str:
    """Returns the table of the documents."""
    header = ["file", "LiteRT on CPUs, from version", "LiteRT.js 2.5.3", "microcontrollers", "Ethos-U55"]
    return markdown(header, [[name, *_cells(row)] for name, row in rows.items()])


def _cells(row: dict[str, str]) -> list[str]:
    """Returns the cells of one row: a refusal is "no"."""
    short = [
        "no" if row[name].startswith("refused") else row[name] for name in ("LiteRT.js", "microcontrollers", "Ethos-U")
    ]
    first = "no" if row["LiteRT"] != "runs" else row["oldest"]
    return [first, *("yes" if cell == "runs" else cell for cell in short)]


def main() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    out = Path(FLAGS.out)
    rows = json.loads(out.read_text()) if out.exists() else {}
    wanted = [name for name in features() if FLAGS.features is None or any(word in name for word in FLAGS.features)]
    for name in [] if FLAGS.table else wanted:
        if name not in rows:
            print(name, file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = measured(name, Path(folder))
            atomic_write_text(out, json.dumps(rows, indent=1) + "\n")
    print(table({name: rows[name] for name in features() if name in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
