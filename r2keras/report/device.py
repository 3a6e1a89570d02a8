"""Result rows with the latencies of a phone in place of this machine's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import invalid_part

if TYPE_CHECKING:
    from r2keras.export import DeviceResults


def on_device(rows: Iterable[Mapping[str, Any]], results: DeviceResults) -> list[dict[str, Any]]:
    """Returns result rows with the latencies that a device measured; rows of other files have none.

    A file is known by its checksum, so that results of another file of the same name are not taken.

    Args:
        rows: result rows with `path`; see `load_results`.
        results: what `r2keras.export.web_page` or `r2keras-android` measured.

    Returns:
        Copies of the rows with `latency_ms` and `device`.

    Raises:
        ValueError: the device ran none of the files, or an output of one was wrong there.

    Example:

    >>> import os, tempfile
    >>> from r2keras.export import DeviceResult, DeviceResults
    >>> path = os.path.join(tempfile.mkdtemp(), "m.tflite")
    >>> _ = Path(path).write_bytes(b"file")
    >>> checksum = hashlib.sha256(b"file").hexdigest()
    >>> result = DeviceResult("m.tflite", checksum, 4, 1.5, 1.7, 50, 1, True, 1e-7, 1e-5)
    >>> phone = DeviceResults("Pixel 7", "android", {}, (result,))
    >>> on_device([{"path": path, "latency_ms": 0.1}], phone)[0]["latency_ms"]
    1.5
    """
    wrong = [result.file for result in results.results if result.passed is False]
    if wrong:
        expected = "results in which every output is as expected"
        fix = "Look at the table of the results, and leave these files out"
        raise ValueError(invalid_part("results", expected, f"wrong outputs of {', '.join(wrong)}", fix))
    fastest: dict[str, float] = {}
    for result in results.results:
        if result.median_ms is not None:
            fastest[result.sha256] = min(result.median_ms, fastest.get(result.sha256, result.median_ms))
    measured = [{**row, "latency_ms": fastest.get(_checksum(row)), "device": results.name} for row in rows]
    if not any(row["latency_ms"] is not None for row in measured):
        expected = "latencies of the files of these rows"
        received = f"those of other files: {', '.join(result.file for result in results.results) or 'none'}"
        raise ValueError(invalid_part("results", expected, received, "Run the files that the rows name on the device"))
    return measured


def _checksum(row: Mapping[str, Any]) -> str:
    """Returns the checksum of a row's file; "" if there is none."""
    path = row.get("path")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""
