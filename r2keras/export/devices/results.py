"""What files did on a device: outputs checked, latency measured."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util import text
from r2keras._util.display import Tabular
from r2keras._util.errors import invalid_part
from r2keras._util.files import atomic_write_text, one_line, read_bounded
from r2keras._util.json_text import member, parse_json
from r2keras._util.numeric import is_finite
from r2keras._util.shown import shown
from r2keras._util.tables import add_row, new_table

if TYPE_CHECKING:
    from rich.table import Table

KIND = "r2keras-device-results"
VERSION = 1
DEVICES = ("browser", "android")
LONGEST = 2**24


@dataclasses.dataclass(frozen=True)
class DeviceResult:
    """What one file did on a device.

    Args:
        file: name of the `.tflite` file.
        sha256: checksum of the file that the device ran.
        bytes: size of the file.
        median_ms: median latency in milliseconds; None if it was not measured.
        p90_ms: 90th percentile of the latency; None if it was not measured.
        runs: number of timed runs.
        threads: threads that the runtime was given.
        passed: whether every output is as near to its expected values as its tolerance says; None if the file did not
            run, or its outputs were not compared.
        max_difference: largest absolute difference between an output and its expected values, of the output that
            is the farthest from them in shares of its tolerance; None if the file did not run, or an output is not
            finite.
        tolerance: largest difference that is allowed for that output.
        error: why the file did not run; None if it ran.
        extra: further facts that a kind of device has, such as `init_ms`: texts, numbers, booleans. In JSON they stand
            beside the other entries.

    Example:

    >>> DeviceResult("model.tflite", "", 1200, 1.5, 1.7, 50, 1, True, 1e-7, 1e-5).passed
    True
    """

    file: str
    sha256: str
    bytes: int
    median_ms: float | None = None
    p90_ms: float | None = None
    runs: int = 0
    threads: int = 1
    passed: bool | None = None
    max_difference: float | None = None
    tolerance: float | None = None
    error: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain JSON."""
        config = dataclasses.asdict(self)
        return {**config.pop("extra"), **config}

    @classmethod
    def from_dict(cls, config: object) -> DeviceResult:
        """Returns what `to_dict` described.

        Raises:
            ValueError: an entry is missing, or has a wrong type or value.
        """
        fields = [field for field in dataclasses.fields(cls) if field.name != "extra"]
        found = {field.name: _entry(config, field.name, str(field.type)) for field in fields}
        extra = {key: value for key, value in dict(config).items() if key not in found}  # type: ignore[call-overload]
        wrong = [key for key, value in extra.items() if not isinstance(value, (str, bool, int, float, type(None)))]
        if wrong:
            raise ValueError(f"`{wrong[0]}` of a result is not a text, a number, true or false")
        result = cls(**found, extra=extra)
        if result.passed is None and result.error is None and not result.runs:
            raise ValueError(f"the result of {result.file} has neither `passed` nor `error`, and no runs")
        return result


@dataclasses.dataclass(frozen=True)
class DeviceResults(Tabular):
    """What files did on a device; `print` shows a table.

    `web_page` writes a page that exports such results. A tool for another kind of device writes the same format.

    Args:
        name: the device, as a person would call it.
        kind: `"browser"` or `"android"`.
        details: facts on the device and its runtime: versions, number of cores.
        results: one per file.

    Example:

    >>> import tempfile
    >>> result = DeviceResult("model.tflite", "", 1200, 1.5, 1.7, 50, 1, True, 1e-7, 1e-5)
    >>> path = os.path.join(tempfile.mkdtemp(), "phone.json")
    >>> _ = DeviceResults("Pixel 7", "android", {"cores": 8}, (result,)).save(path)
    >>> DeviceResults.load(path).rows()[0]["median_ms"]
    1.5
    """

    name: str
    kind: str
    details: dict[str, Any]
    results: tuple[DeviceResult, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row per file: file, sha256, median_ms, p90_ms, passed, device."""
        names = ("file", "sha256", "median_ms", "p90_ms", "passed")
        return [{**{name: getattr(result, name) for name in names}, "device": self.name} for result in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Returns the results as plain JSON."""
        return {
            "version": VERSION,
            "kind": KIND,
            "device": {"name": self.name, "kind": self.kind, "details": self.details},
            "results": [result.to_dict() for result in self.results],
        }

    @classmethod
    def from_dict(cls, config: object) -> DeviceResults:
        """Returns what `to_dict` described.

        Raises:
            ValueError: it is of another kind or version, or an entry is missing or wrong.
        """
        kind = member(config, "kind", str, "the file")
        if kind != KIND:
            raise ValueError(f"its kind is {shown(kind)}, not '{KIND}'")
        version = member(config, "version", int, "the file")
        if version != VERSION:
            raise ValueError(f"its version is {version}, and this release reads {VERSION}")
        device = member(config, "device", dict, "the file")
        name, kind = (member(device, key, str, "`device`") for key in ("name", "kind"))
        if kind not in DEVICES:
            raise ValueError(f"the kind of its device is {shown(kind)}, not one of {', '.join(map(repr, DEVICES))}")
        results = [DeviceResult.from_dict(result) for result in member(config, "results", list, "the file")]
        return cls(name, kind, member(device, "details", dict, "`device`"), tuple(results))

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the results as JSON and returns the path.

        Raises:
            OSError: the folder is not writable.
            ValueError: a value is not valid in such a file, such as a latency that is not finite.
        """
        config = self.to_dict()
        try:
            self.from_dict(config)
        except ValueError as error:
            raise ValueError(f"The results of {self.name} cannot be written: {one_line(error)}.") from error
        atomic_write_text(path, json.dumps(config, indent=1, allow_nan=False) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> DeviceResults:
        """Reads what `save`, or a page of `web_page`, wrote.

        Args:
            path: the JSON file.

        Raises:
            OSError: the file does not exist or cannot be read.
            ValueError: the file holds something else, is of another version, or is damaged.
        """
        expected = "the JSON file of results from a device"
        content = read_bounded(path, expected, LONGEST)
        try:
            return cls.from_dict(parse_json(content))
        except ValueError as error:
            received = f"{os.fspath(path)}, which is not readable: {one_line(error)}"
            raise ValueError(invalid_part("path", expected, received, "Export it on the device again")) from error

    def __rich__(self) -> Table:
        columns = [("file", False), ("bytes", True), ("outputs", False), ("median ms", True), ("p90 ms", True)]
        table = new_table(f"Results on {self.name}", [*columns, ("ratio", True)])
        first = next((result.median_ms for result in self.results if result.median_ms), None)
        for result in self.results:
            ratio = result.median_ms / first if first and result.median_ms is not None else None
            figures = map(text.number, (result.median_ms, result.p90_ms, ratio))
            add_row(table, (result.file, text.count(result.bytes), verdict(result), *figures))
        return table


def verdict(result: DeviceResult) -> str:
    """Returns in words whether a file's outputs are as expected.

    >>> verdict(DeviceResult("model.tflite", "", 1200, passed=False, max_difference=0.5, tolerance=1e-5))
    'differ by 0.5, allowed 1e-05'
    """
    if result.error is not None:
        return f"did not run: {result.error}"
    if result.passed is None:
        return "not checked"
    if result.max_difference is None:
        return "passed" if result.passed else "an output is not finite"
    difference = f"{result.max_difference:.2g}"
    return f"passed, {difference}" if result.passed else f"differ by {difference}, allowed {result.tolerance or 0:.2g}"


def _entry(config: object, key: str, annotation: str) -> Any:
    """Returns one entry of a result, of the type that its field has."""
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
    name, _, optional = annotation.partition(" | ")
    if optional and isinstance(config, dict) and key in config and config[key] is None:
        return None
    value: Any = member(config, key, kinds[name], "a result")
    if name in ("int", "float") and not (is_finite(value) and value >= 0):
        raise ValueError(f"`{key}` of a result is not a finite number of at least 0. Received: {value}")
    return value
