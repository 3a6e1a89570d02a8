"""Logs of benchmark_model.

PLAIN was printed on a Raspberry Pi (issue 999 of google/XNNPACK); the prefix of logcat and the lines on delegates are
those of issues 56301 and 43541 of tensorflow/tensorflow. RECENT is put together from the sources, for its percentiles
and peak memory: tflite/tools/benchmark/benchmark_model.cc, xla/tsl/util/stats_calculator.h.
"""

import pytest

from r2keras.export.devices.android.log import parse_log

DONE = "\nr2keras exit: 0\n"
# google/XNNPACK issue 999.
PLAIN = """STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [yolo_best_recall_int8_static.tflite]
#threads used for CPU inference: [4]
Loaded model yolo_best_recall_int8_static.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
The input model file size (MB): 3.67827
Initialized session in 18.777ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=9 first=64791 curr=56295 min=54873 max=65831 avg=57758.2 std=4065

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=58154 curr=53809 min=53077 max=60727 avg=55043.2 std=1562

Inference timings in us: Init: 18777, First inference: 64791, Warmup (avg): 57758.2, Inference (avg): 55043.2
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227
"""
RECENT = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 27 out of 31 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions for \
subgraph 0.
INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 2 \
delegate kernels.
INFO: count=3 first=30 curr=20 min=20 max=30 avg=25 std=4 p5=20 median=25 p95=30
INFO: count=1000 first=12 curr=11 min=10 max=29 avg=11.25 std=2 p5=10 median=11 p95=14
INFO: Inference timings in us: Init: 2500, First inference: 30, Warmup (avg): 25, Inference (avg): 11.25
INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5
INFO: Memory status at the end of exeution:
"""


def test_a_log_without_percentiles():
    log = parse_log(PLAIN + DONE)
    assert (log.runs, log.init_ms, log.first_ms, log.mean_ms) == (50, 18.777, 64.791, 55.0432)
    assert (log.min_ms, log.std_ms, log.median_ms, log.p95_ms) == (53.077, 1.562, None, None)
    assert log.memory_delta_bytes == round(18.7227 * 2**20)
    assert log.peak_memory_bytes is log.error is None


def test_a_recent_log():
    log = parse_log(RECENT + DONE)
    assert (log.runs, log.median_ms, log.p95_ms, log.mean_ms) == (1000, 0.011, 0.014, 0.01125)
    assert (log.delegated_operators, log.operators, log.delegate_kernels) == (27, 31, 2)
    assert log.peak_memory_bytes == 12.5 * 2**20


def test_lines_of_logcat_have_a_prefix():
    lines = "".join(f"05-30 15:16:45.362  3380  3380 I tflite  : {line}\n" for line in PLAIN.splitlines())
    assert parse_log(lines + DONE) == parse_log(PLAIN + DONE)


@pytest.mark.parametrize(
    ("line", "delegated", "kernels"),
    [
        ("Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.", None, 1),
        ("Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.", 0, 0),
        ("INFO: Replacing 1 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions.", 1, None),
        ("", None, None),
    ],
)
def test_delegation(line, delegated, kernels):
    log = parse_log(line + DONE)
    assert (log.delegated_operators, log.delegate_kernels) == (delegated, kernels)


def test_delegated_operators_of_subgraphs_add_up():
    line = "VERBOSE: Replacing {} out of {} node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions"
    log = parse_log("\n".join([line.format(3, 5), line.format(2, 2)]) + DONE)
    assert (log.delegated_operators, log.operators) == (5, 7)


def test_equal_times_and_none_at_all():
    summary = "Inference timings in us: Init: 9, First inference: 0, Warmup (avg): 0, Inference (avg): 7\n"
    log = parse_log(f"count=0 p5=0 median=0 p95=0\ncount=1 curr=7 p5=7 median=7 p95=7\n{summary}{DONE}")
    assert (log.runs, log.median_ms, log.std_ms) == (1, 0.007, None)
    assert parse_log(DONE).runs == 0


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("\nr2keras exit: 139\n", "was ended by signal 11 (SIGSEGV): Warmup / ERROR: no"),
        ("\nr2keras exit: 1\n", "ended with exit code 1"),
        ("\nr2keras exit: 126\n", "could not be started"),
        ("", "was interrupted"),
    ],
)
def test_a_program_that_did_not_end_well(end, words):
    assert words in parse_log(f"Warmup\n\nERROR: no{end}").error


def test_flags_that_a_release_lacks():
    line = "WARN: Unconsumed cmdline flags: --output_filepath=a.bin --use_xnnpack=true\n"
    assert parse_log(line + DONE).unknown_flags == ("output_filepath", "use_xnnpack")
