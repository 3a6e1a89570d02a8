"""The cost of quantization in a training step of a recurrent layer: r2keras and qkeras-v3 against `keras.layers.LSTM`.

All variants are trained in one process, with their steps interleaved. Each round gives, for each variant, one ratio to
the float layer; the table shows the median ratio and its quartiles. A second copy of the float layer is among the
variants: its ratio shows the noise of the machine. Rows are written when the run is finished.

    python benchmarks/recurrent_step.py                       # 300 units, batch 20, length 30: some minutes
    python benchmarks/recurrent_step.py --variants='w2*'
    python benchmarks/recurrent_step.py --table               # the table of the rows in --out

The peer's row needs `pip install qkeras-v3`; without it the script prints a message and omits the row.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from common import Row, Rows, interleave, machine, machine_line, markdown, quartiles

RESULTS = Path(__file__).parent / "results" / "recurrent_step.json"
SMOKE_RESULTS = Path("out") / "benchmarks" / "recurrent_step.json"
SMOKE = {"rounds": 1, "steps": 1, "units": 8, "variants": ["control", "w2_mse*"]}
BASELINE, CONTROL, PEER = "float", "control", "qkeras_w2a3"
W2 = {"num_bits": 2}
# Arguments of the specs of kernels and state; both kernels have the same spec.
VARIANTS: dict[str, tuple[dict, dict | None]] = {
    "w2_mse": (W2, None),
    "w2_mse_a3": (W2, {"num_bits": 3}),
    "w2_balanced_a3": ({**W2, "method": "balanced"}, {"num_bits": 3}),
    "w2_ternary_a3": ({**W2, "method": "ternary", "granularity": "per_gate"}, {"num_bits": 3}),
    "w2_lsq_a3": ({**W2, "method": "lsq"}, {"num_bits": 3}),
    "w3_mse_a3": ({"num_bits": 3}, {"num_bits": 3}),
    "w2_alternating_a3": ({**W2, "method": "alternating"}, {"num_bits": 3}),
    "w2_alternating_a2_alternating": ({**W2, "method": "alternating"}, {**W2, "method": "alternating"}),
}
NAMES = (CONTROL, *VARIANTS, PEER)
GOALS = dict.fromkeys(("w2_mse_a3", "w2_balanced_a3", "w2_ternary_a3", "w2_lsq_a3", "w3_mse_a3"), 1.15)
KEYS = ("variant", "units", "batch_size", "length")
HEADER = ["variant", "ratio", "quartiles", "goal", "met", "ms", "float ms"]

flags.DEFINE_list("variants", ["*"], f"Shell patterns over {', '.join(NAMES)}.")
flags.DEFINE_integer("units", 300, "Number of units, and of input features.", lower_bound=1)
flags.DEFINE_integer("batch_size", 20, "Sequences per step.", lower_bound=1)
flags.DEFINE_integer("length", 30, "Time steps per sequence.", lower_bound=1)
flags.DEFINE_integer("rounds", 15, "Rounds; each gives one ratio per variant.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Steps per variant and round; their median is used.", lower_bound=1)
flags.DEFINE_string("out", None, f"The results file; results/{RESULTS.name} by default, {SMOKE_RESULTS} if --smoke.")
flags.DEFINE_bool("smoke", False, "Run in seconds instead of minutes; the figures are meaningless.")
flags.DEFINE_bool("table", False, "Print the table of the results file and measure nothing.")


def main(argv: list[str]) -> int:
    os.environ |= {"KERAS_BACKEND": "tensorflow"}
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = _options()
    chosen = [name for name in NAMES if any(fnmatch.fnmatch(name, pattern) for pattern in options["variants"])]
    if argv[1:] or not chosen:
        patterns = argv[1] if argv[1:] else ",".join(options["variants"])
        return _fail(f"{patterns} matches no variant. See --helpshort.", 2)
    try:
        store = Rows(options["out"], KEYS)
        if not flags.FLAGS.table:
            store.add([])  # An --out that cannot be written fails here, not after the measurement.
            store.add(run(chosen, options))
        print(table(store.rows))
    except (OSError, ValueError) as error:
        return _fail(str(error), 1)
    return 0


def run(chosen: list[str], options: Row) -> list[Row]:
    """Measures the variants with interleaved steps; returns their rows."""
    import numpy as np
    from keras_steps import training_step

    about, generator = machine(), np.random.default_rng(0)
    units, shape = options["units"], (options["batch_size"], options["length"], options["units"])
    x, y = (generator.normal(size=shape).astype("float32") for _ in range(2))
    steps: dict[str, Callable[[], float]] = {}
    for name in (BASELINE, *chosen):
        layer = peer(units) if name == PEER else layer_of(name, units)
        if layer is not None:
            steps[name] = training_step(compiled(layer, shape), x, y)
    figures = interleave(steps, options["rounds"], options["steps"])
    sizes = {"units": units, "batch_size": shape[0], "length": shape[1]}
    return [row_of(name, figures[name], figures[BASELINE], sizes, about) for name in steps if name != BASELINE]


def layer_of(name: str, units: int):
    """Returns the layer of a variant; the control is a second copy of the float layer."""
    import keras

    import r2keras

    if name in (BASELINE, CONTROL):
        return keras.layers.LSTM(units, return_sequences=True)
    kernels, state = VARIANTS[name]
    spec = r2keras.QuantSpec(**kernels)
    state_spec = None if state is None else r2keras.QuantSpec(**state)
    options = {"kernel_spec": spec, "recurrent_spec": spec, "state_spec": state_spec}
    return r2keras.layers.QuantizedLSTM(units, return_sequences=True, **options)


def peer(units: int):
    """Returns qkeras-v3's layer with 2-bit kernels and a 3-bit state; None if the package is not installed."""
    try:
        from qkeras import QLSTM, quantized_bits
    except ImportError as error:
        sys.stderr.write(f"The row {PEER} is omitted: {error}. To get it, run `pip install qkeras-v3`.\n")
        return None
    kernels = {name: quantized_bits(2, 0, alpha=1.0) for name in ("kernel_quantizer", "recurrent_quantizer")}
    state = quantized_bits(3, 0, alpha=1.0)
    return QLSTM(units, return_sequences=True, bias_quantizer=None, state_quantizer=state, **kernels)


def compiled(layer, shape: tuple[int, ...]):
    """Returns a compiled model of one layer."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape[1:], batch_size=shape[0]), layer])
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    return model


def row_of(name: str, own: list[float], base: list[float], sizes: Row, about: Row) -> Row:
    """Returns the row of one variant."""
    low, middle, high = quartiles([a / b for a, b in zip(own, base, strict=True)])
    return {
        "variant": name,
        **sizes,
        "ratio": round(middle, 4),
        "lower_quartile": round(low, 4),
        "upper_quartile": round(high, 4),
        "goal": GOALS.get(name),
        "seconds": round(quartiles(own)[1], 5),
        "baseline_seconds": round(quartiles(base)[1], 5),
        "rounds": len(own),
        "machine": about,
    }


def table(rows: list[Row]) -> str:
    """Returns the rows as Markdown, one table per size, and the machines they come from."""
    parts = []
    for size in dict.fromkeys(tuple(row[name] for name in KEYS[1:]) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in KEYS[1:]) == size]
        own.sort(key=lambda row: NAMES.index(row["variant"]))
        title = "### {} units, batch {}, length {}\n\n".format(*size)
        parts.append(title + markdown(HEADER, [_cells(row) for row in own]))
    machines = dict.fromkeys(machine_line(row["machine"]) for row in rows)
    return "\n\n".join([*parts, *machines]) or "No rows yet."


def _cells(row: Row) -> list[str]:
    """Returns the cells of a row."""
    name = "the float layer again" if row["variant"] == CONTROL else row["variant"]
    spread = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
    goal = met = ""
    if row["goal"] is not None:
        goal = f"{row['goal']:.2f}"
        met = "yes" if row["ratio"] <= row["goal"] else "no"
    times = [f"{1000 * row[key]:.1f}" for key in ("seconds", "baseline_seconds")]
    return [name, f"{row['ratio']:.3f}", spread, goal, met, *times]


def _options() -> Row:
    """Returns the flags; with `--smoke`, small values for those not given."""
    options = {name: flags.FLAGS[name].value for name in ("variants", "rounds", "steps", "units", "out")}
    options |= {name: flags.FLAGS[name].value for name in ("batch_size", "length")}
    if flags.FLAGS.smoke:
        options |= {name: value for name, value in SMOKE.items() if not flags.FLAGS[name].present}
    options["out"] = options["out"] or (SMOKE_RESULTS if flags.FLAGS.smoke else RESULTS)
    return options


def _fail(message: str, code: int) -> int:
    """Writes the error as one line; returns the exit code."""
    sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    app.run(main)
