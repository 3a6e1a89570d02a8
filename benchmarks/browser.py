"""Files on LiteRT.js, in Node and in Chromium, against the same files on x86: which run, and do they compute the same?

    apt-get install nodejs npm chromium
    python benchmarks/browser.py               # 20 minutes on 2 cores; finished files are kept in results/browser.json
    python benchmarks/browser.py --files='dense-*'
    python benchmarks/browser.py --timed       # latency of some files in Chromium; do not use the machine meanwhile
    python benchmarks/browser.py --table       # the tables, from the results file

The page of `r2keras.export.web_page` runs the files: in Chromium as a visitor's browser would, in Node by the worker of
the page alone. Both have WebAssembly; Node 20 lacks relaxed SIMD, so it gets the binary for older browsers. npm fetches
LiteRT.js once, into .cache. A row compares the outputs of one file with those of ai-edge-litert on x86.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import browser_files, browser_table
from benchmarks.arm_files import File
from benchmarks.common import Row, Rows, machine, revision
from r2keras.cli import common as cli

if TYPE_CHECKING:
    from r2keras.export import DeviceResults, Golden

RESULTS = Path(__file__).parent / "results" / "browser.json"
KEYS = ("file", "engine")
TIMED_SECONDS = 10.0

FLAGS = flags.FlagValues()
flags.DEFINE_list("files", ["*"], "Shell patterns over the names of files.", flag_values=FLAGS)
flags.DEFINE_list("engines", ["node", "chromium"], "Any of node, chromium.", flag_values=FLAGS)
flags.DEFINE_bool("timed", False, "Time some files in Chromium.", flag_values=FLAGS)
flags.DEFINE_string(
    "out", str(RESULTS), "The results file; rows that it has are not measured again.", flag_values=FLAGS
)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)


def planned(patterns: list[str], engines: list[str], rows: list[Row]) -> dict[File, list[str]]:
    """Returns the files with rows to measure, and the engines of each."""
    done = {(row["file"], row["engine"]) for row in rows}
    chosen = [f for f in browser_files.files() if any(fnmatch.fnmatchcase(f.name, pattern) for pattern in patterns)]
    plan = {file: [engine for engine in engines if (file.name, engine) not in done] for file in chosen}
    return {file: missing for file, missing in plan.items() if missing}


def run(store: Rows, patterns: list[str], engines: list[str]) -> None:
    """Measures the rows that the results file lacks, net by net."""
    for net, group in itertools.groupby(planned(patterns, engines, store.rows).items(), lambda item: item[0].net):
        with tempfile.TemporaryDirectory() as work:
            plan = dict(group)
            page = Path(work, "page")
            entries, values = write_page(list(plan), Path(work), page)
            for engine in engines:
                files = [file for file in plan if engine in plan[file]]
                answers, about = ENGINES[engine](page, [entries[file] for file in files], 0.0)
                about |= {"engine": engine, "revision": revision()}
                store.add([row_of(f, values[f], a) | about for f, a in zip(files, answers, strict=True)])
        print(f"{net}: {len(plan)} files", file=sys.stderr, flush=True)


def write_page(files: list[File], folder: Path, page: Path) -> tuple[dict[File, dict[str, Any]], dict[File, Golden]]:
    """Writes files and adds them to a page; returns their entries and golden values."""
    from r2keras.export import golden
    from r2keras.export.devices.browser.page import add_file

    entries, values = {}, {}
    for file in files:
        path = folder / f"{file.name}.tflite"
        inputs = browser_files.write(file, path)
        values[file] = golden(None, path, inputs)
        entries[file] = add_file(path, values[file], page)
    return entries, values


def run_in_node(page: Path, entries: list[dict[str, Any]], seconds: float) -> tuple[list[Row], Row]:
    """Runs files of a page in Node; returns what it says of each, and of itself."""
    from tests import litert_js

    version = litert_js.node_version()
    return litert_js.run_in_node(page, entries, seconds), {"version": version}


def run_in_chromium(page: Path, entries: list[dict[str, Any]], seconds: float) -> tuple[list[Row], Row]:
    """Runs files of a page in Chromium; returns what it says of each, and of itself."""
    results = in_chromium(page, entries, seconds)
    return [vars(result) for result in results.results], {"version": results.name}


def in_chromium(page: Path, entries: list[dict[str, Any]], seconds: float) -> DeviceResults:
    """Writes a page of files and opens it in Chromium; returns what it exports."""
    from r2keras.export import DeviceResults
    from r2keras.export.devices.browser.litert_js import add_runtime
    from r2keras.export.devices.browser.page import write_assets
    from tests import litert_js
    from tests.chromium import Browser

    add_runtime(litert_js.packages(), page)
    write_assets(entries, page, "Benchmark", seconds, "")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        litert_js.served(page) as (address, _),
        Browser(Path(profile)) as browser,
    ):
        browser.open(address, width=1200)
        browser.wait("document.getElementById('state').textContent.startsWith('Done')", 3600)
        return DeviceResults.from_dict(json.loads(browser.evaluate("document.getElementById('json').value")))


ENGINES: dict[str, Callable[[Path, list[dict[str, Any]], float], tuple[list[Row], Row]]] = {
    "node": run_in_node,
    "chromium": run_in_chromium,
}


def row_of(file: File, values: Golden, answer: Row) -> Row:
    """Returns the row of a file: passed or not, the difference as a share of the range, or why it did not run."""
    row: Row = {"file": file.name, "net": file.net, "weights": file.weights, "form": file.form}
    if answer.get("error"):
        return row | {"refused": answer["error"]}
    ranges = [float(np.ptp(output.values.astype(np.float64))) for output in values.outputs]
    # The page tells of the output that is the farthest off, and not which one that is: the smallest range is safe.
    return row | {"passed": answer["passed"], "difference": answer["max_difference"] / min(ranges)}


def time_files(store: Rows) -> None:
    """Times the files of each net in Chromium, by turns."""
    from r2keras.export import golden
    from r2keras.export.devices.browser.page import add_file

    about = machine()
    for net in browser_files.TIMED:
        with tempfile.TemporaryDirectory() as work:
            paths, x = browser_files.write_timed(net, Path(work))
            page = Path(work, "page")
            entries = [add_file(path, golden(None, path, x), page) for path in paths.values()]
            results = in_chromium(page, entries, TIMED_SECONDS)
        first = results.results[0].median_ms or 1.0
        for name, result in zip(paths, results.results, strict=True):
            if result.median_ms is None or not result.passed:
                raise RuntimeError(
                    f"{net} {name} did not pass in Chromium ({result.error}). Expected a file that does."
                )
            times = {"ms": result.median_ms, "p90_ms": result.p90_ms, "ratio": result.median_ms / first}
            row = {"file": f"{net} {name}", "engine": "timed", "net": net, "form": name, "bytes": result.bytes}
            store.add([row | times | {"runs": result.runs, "version": results.name, "machine": about}])


def main() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    unknown = [engine for engine in FLAGS.engines if engine not in ENGINES]
    if unknown:
        raise ValueError(f"--engines={unknown[0]} is unknown; expected any of {', '.join(ENGINES)}")
    store = Rows(FLAGS.out, KEYS)
    if FLAGS.timed:
        time_files(store)
    elif not FLAGS.table:
        run(store, FLAGS.files, FLAGS.engines)
    print(browser_table.tables(store.rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
