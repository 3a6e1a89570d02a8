"""What `benchmark_model` printed: latency, memory, delegated operators, and how it ended."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Iterable
from typing import Any

# The lines come from tflite/tools/benchmark/benchmark_model.cc, benchmark_tflite_model.cc, xla/tsl/util/
# stats_calculator.h and tflite/core/subgraph.cc. Releases differ in the prefix of a line ("INFO: ", "tflite  : ").
NUMBER = r"([-+\d.e]+)"
SUMMARY = re.compile(
    rf"Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}"
)
STATISTICS = re.compile(r"\bcount=(\d+)\b(.*)")
FIGURE = re.compile(rf"(\w+)={NUMBER}")
PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {NUMBER}")
DELTA = re.compile(rf"[Mm]emory footprint[^:]*\(MB\): init={NUMBER} overall={NUMBER}")
REPLACING = re.compile(r"Replacing (\d+)(?: out of (\d+))? node\(s\) with delegate \((\w+)\)")
KERNELS = re.compile(r"will be (?:(completely) executed by the delegate|partially executed by the delegate w/ (\d+))")
UNKNOWN = re.compile(r"(?:Unconsumed cmdline flags|unrecognized commandline flags?): *(.*)")
EXIT = re.compile(r"^r2keras exit: (\d+)$", re.MULTILINE)
BYTES_PER_MB = 2**20
LAST_LINES = 3


@dataclasses.dataclass(frozen=True)
class BenchmarkLog:
    """What one run of `benchmark_model` printed. Values that a release does not print are None.

    Args:
        runs: number of timed runs.
        init_ms: time from the file to allocated tensors.
        first_ms: the first inference.
        mean_ms: mean of the timed runs.
        median_ms: their median.
        p95_ms: 95th percentile.
        min_ms: the fastest.
        std_ms: standard deviation.
        memory_delta_bytes: memory at the end, less that at the start.
        peak_memory_bytes: largest memory of the process, if it was monitored.
        delegated_operators: operators of the file that a delegate took.
        operators: operators of the file.
        delegate_kernels: parts of the graph that they became.
        unknown_flags: flags that this release does not have.
        error: how the program ended, if not well.
    """

    runs: int = 0
    init_ms: float | None = None
    first_ms: float | None = None
    mean_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    min_ms: float | None = None
    std_ms: float | None = None
    memory_delta_bytes: int | None = None
    peak_memory_bytes: int | None = None
    delegated_operators: int | None = None
    operators: int | None = None
    delegate_kernels: int | None = None
    unknown_flags: tuple[str, ...] = ()
    error: str | None = None


def parse_log(text: str) -> BenchmarkLog:
    r"""Returns what a log says.

    Args:
        text: standard output and standard error of `benchmark_model`, and a line `r2keras exit: N` with its exit code.

    Example:

    >>> log = parse_log(
    ...     "INFO: count=50 first=58 curr=53 min=53 max=60 avg=55.2 std=2 p5=53 median=55 p95=59\n"
    ...     "INFO: Inference timings in us: Init: 187, First inference: 64, Warmup (avg): 57, Inference (avg): 55.2\n"
    ...     "r2keras exit: 0\n"
    ... )
    >>> log.runs, log.init_ms, log.median_ms, log.error
    (50, 0.187, 0.055, None)
    """
    unknown = UNKNOWN.search(text)
    return BenchmarkLog(
        **_latency(text),
        **_memory(text),
        **_delegation(text),
        unknown_flags=tuple(re.findall(r"--(\w+)", unknown[1])) if unknown else (),
        error=_error(text),
    )


def _latency(text: str) -> dict[str, Any]:
    """Returns the figures of time in milliseconds; those of the warm-up come first, so the last ones count."""
    summary = SUMMARY.search(text)
    init, first, _, mean = _milliseconds(summary.groups()) if summary else (None,) * 4
    statistics = STATISTICS.findall(text)
    runs, figures = statistics[-1] if statistics else ("0", "")
    found = dict(FIGURE.findall(figures))
    names = {"median_ms": "median", "p95_ms": "p95", "min_ms": "min", "std_ms": "std"}
    values = {key: _milliseconds([found[name]])[0] if name in found else None for key, name in names.items()}
    return {"runs": int(runs) if summary else 0, "init_ms": init, "first_ms": first, "mean_ms": mean, **values}


def _memory(text: str) -> dict[str, Any]:
    """Returns the figures of memory in bytes."""
    delta, peak = DELTA.search(text), PEAK.search(text)
    return {
        "memory_delta_bytes": round(float(delta[2]) * BYTES_PER_MB) if delta else None,
        "peak_memory_bytes": round(float(peak[1]) * BYTES_PER_MB) if peak else None,
    }


def _delegation(text: str) -> dict[str, Any]:
    """Returns how many operators the delegate took; each subgraph has a line of its own."""
    lines = REPLACING.findall(text)
    kernels = KERNELS.search(text)
    totals = [int(total) for _, total, _ in lines if total]
    none = "the model graph will not be executed by the delegate" in text
    return {
        "delegated_operators": sum(int(taken) for taken, _, _ in lines) if lines else 0 if none else None,
        "operators": sum(totals) if lines and len(totals) == len(lines) else None,
        "delegate_kernels": int(kernels[2] or 1) if kernels else 0 if none else None,
    }


def _milliseconds(microseconds: Iterable[str]) -> list[float]:
    """Returns times in milliseconds."""
    return [float(value) / 1000 for value in microseconds]


def _error(text: str) -> str | None:
    """Returns how the program ended, with its last lines, or None after a success."""
    code = EXIT.search(text)
    if code and code[1] == "0":
        return None
    said = [line.strip() for line in EXIT.sub("", text).splitlines() if line.strip()]
    last = " / ".join(said[-LAST_LINES:]) or "it printed nothing"
    return f"benchmark_model {_ended(int(code[1])) if code else 'was interrupted'}: {last}"


def _ended(code: int) -> str:
    """Returns an exit code in words.

    >>> _ended(1), _ended(139)
    ('ended with exit code 1', 'was ended by signal 11 (SIGSEGV)')
    """
    if code in (126, 127):
        return "could not be started"
    if code <= 128:
        return f"ended with exit code {code}"
    try:
        return f"was ended by signal {code - 128} ({signal.Signals(code - 128).name})"
    except ValueError:
        return f"ended with exit code {code}"
