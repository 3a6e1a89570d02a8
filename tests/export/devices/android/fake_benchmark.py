"""Stands in for LiteRT's `benchmark_model`: the flags that are used here, LiteRT's interpreter, lines in its format.

The lines are those of tflite/tools/benchmark/benchmark_model.cc, benchmark_tflite_model.cc and
xla/tsl/util/stats_calculator.h. Outputs are computed by the ai-edge-litert of this machine. FAKE_BENCHMARK makes it
fail: `crash`, `refuse`, `old` (no --output_filepath), `compiled` (no --use_xnnpack), `wrong` (other outputs), `nan`,
`hang` (with two threads).
"""

import os
import signal
import sys
import time

MODE = os.environ.get("FAKE_BENCHMARK", "")
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
unknown = {"old": ["output_filepath"], "compiled": ["use_xnnpack", "output_filepath"]}.get(MODE, [])


def log(text):
    print(f"INFO: {text}", file=sys.stderr, flush=True)


log("STARTING!")
found = [f"--{name}={flags.pop(name)}" for name in unknown if name in flags]
if found:
    print(f"WARN: Unconsumed cmdline flags: {' '.join(found)}", file=sys.stderr)
log("Log parameter values verbosely: [0]")
log(f"Graph: [{flags['graph']}]")
if MODE == "hang" and flags["num_threads"] == "2":
    time.sleep(60)
if MODE == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)

import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: E402

xnnpack = flags.get("use_xnnpack") != "false"
kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
start = time.perf_counter()
model = Interpreter(flags["graph"], num_threads=int(flags["num_threads"]), experimental_op_resolver_type=kind)
log(f"Loaded model {flags['graph']}")
details = model.get_input_details()
if MODE == "refuse":
    print("ERROR: Didn't find op for builtin opcode 'DEQUANTIZE' version '6'", file=sys.stderr)
    print("ERROR: Failed to initialize the interpreter", file=sys.stderr)
    sys.exit(1)
values = []
if "input_layer" in flags:
    files = dict(pair.split(":") for pair in flags["input_layer_value_files"].split(","))
    shapes = [[int(size) for size in shape.split(",")] for shape in flags["input_layer_shape"].split(":")]
    for detail, name, shape in zip(details, flags["input_layer"].split(","), shapes, strict=True):
        model.resize_tensor_input(detail["index"], shape)
        values.append(np.fromfile(files[name], detail["dtype"]).reshape(shape))
model.allocate_tensors()
if xnnpack:
    print("VERBOSE: Replacing 2 out of 3 node(s) with delegate (TfLiteXNNPackDelegate) node", file=sys.stderr)
    log(
        "Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 1 "
        "delegate kernels."
    )
init = round((time.perf_counter() - start) * 1e6)
log("The input model file size (MB): 0.001")
log(f"Initialized session in {init / 1e3}ms.")


def run(count, seconds):
    log(
        f"Running benchmark for at least {count} iterations and at least {seconds} seconds but terminate if exceeding "
        "150 seconds."
    )
    times = []
    for _ in range(count):
        for detail, value in zip(details, values, strict=False):
            model.set_tensor(detail["index"], value)
        start = time.perf_counter()
        model.invoke()
        times.append(round((time.perf_counter() - start) * 1e6))
    ordered = sorted(times) or [0]
    p5, median, p95 = (ordered[len(ordered) * share // 100] for share in (5, 50, 95))
    if not times:
        text = "count=0"
    elif ordered[0] == ordered[-1]:
        text = f"count={count} curr={times[-1]}" + "(all same)" * (count > 1)
    else:
        text = (
            f"count={count} first={times[0]} curr={times[-1]} min={ordered[0]} max={ordered[-1]} "
            f"avg={np.mean(times):g} std={int(np.std(times))}"
        )
    log(f"{text} p5={p5} median={median} p95={p95}\n")
    return times


warm = run(int(flags.get("warmup_runs", 1)), flags.get("warmup_min_secs", 0.5))
timed = run(int(flags["num_runs"]), flags.get("min_secs", 1))
if "output_filepath" in flags:
    with open(flags["output_filepath"], "wb") as file:
        for detail in model.get_output_details():
            output = model.get_tensor(detail["index"])
            output = output * np.nan if MODE == "nan" else output + (MODE == "wrong")
            file.write(output.astype(model.get_tensor(detail["index"]).dtype).tobytes())
first, average = (warm[0], np.mean(warm)) if warm else (0, 0)
log(
    f"Inference timings in us: Init: {init}, First inference: {first}, Warmup (avg): {average:g}, "
    f"Inference (avg): {np.mean(timed):g}"
)
log(
    "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
    "memory footprint of the model at runtime. Take the information at your discretion."
)
log("Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
if flags.get("report_peak_memory_footprint") == "true":
    log("Overall peak memory footprint (MB) via periodic monitoring: 12.5")
