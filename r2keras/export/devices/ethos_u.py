"""Compilation for Arm's Ethos-U NPUs with Arm's compiler Vela, and the memory that it reports."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util import optional_packages
from r2keras._util.display import Tabular
from r2keras._util.errors import check_choice, invalid_part, missing
from r2keras._util.files import atomic_write_bytes, check_path
from r2keras._util.tables import pairs_table
from r2keras._util.text import count
from r2keras.export.tflite.ethos_u import SOURCE_FIX, is_compiled
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT2, INT4
from r2keras.export.tflite.subgraph import subgraphs
from r2keras.specs.targets import ACCELERATORS

if TYPE_CHECKING:
    from rich.table import Table

    from r2keras.export.tflite.schema import ModelT

# Vela compiles a small net in seconds; nets of keras.applications take minutes.
PATIENCE = 3600
KIBIBYTE = 1024
WRITE_FOR_NPU = "Write it with to_litert(..., target='ethos-u')"
# A line on an operator that the NPU does not run, and the line with the reason after it.
REASON = re.compile(r"Warning \(supported operators\) operator: (\w+).*?\n *Reason: ([^\n]*)")
COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class EthosUReport(Tabular):
    """What Vela says of a file; `print` shows a table.

    Args:
        accelerator: the NPU, such as `"ethos-u55-128"`.
        vela: version of Vela.
        file_bytes: size of the compiled file, with commands and compressed weights: the model's share of the flash.
        flash_bytes: read-only data of the NPU in flash: compressed weights and biases.
        sram_bytes: activations and buffers in SRAM.
        dram_bytes: use of DRAM, where Ethos-U65 and U85 keep weights by default.
        npu_operators: operators, after Vela's own rewriting, that run on the NPU.
        cpu_operators: operators that stay on the CPU.
        cpu_reasons: why, one sentence each, without repetition.
        cycles: Vela's estimate of cycles for one inference.
        clock_hz: the clock of Vela's default system.

    Example:

    >>> report = EthosUReport("ethos-u55-128", "5.2.0", 40_000, 27_648, 50_000, 0, 44, 0, (), 190_000, 5e8)
    >>> round(report.milliseconds, 2), report.npu_share
    (0.38, 1.0)
    """

    accelerator: str
    vela: str
    file_bytes: int
    flash_bytes: int
    sram_bytes: int
    dram_bytes: int
    npu_operators: int
    cpu_operators: int
    cpu_reasons: tuple[str, ...]
    cycles: int
    clock_hz: float

    @property
    def milliseconds(self) -> float:
        """Vela's estimate of one inference, without operators on the CPU, in milliseconds."""
        return 1000 * self.cycles / self.clock_hz

    @property
    def npu_share(self) -> float:
        """Share of operators that run on the NPU."""
        return self.npu_operators / max(1, self.npu_operators + self.cpu_operators)

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return {**dataclasses.asdict(self), "cpu_reasons": list(self.cpu_reasons), "milliseconds": self.milliseconds}

    def __rich__(self) -> Table:
        figures = [
            ("compiled file", f"{count(self.file_bytes)} bytes"),
            ("weights in flash", f"{count(self.flash_bytes)} bytes ({self.flash_bytes / KIBIBYTE:.1f} KiB)"),
            ("SRAM", f"{count(self.sram_bytes)} bytes"),
            ("operators on the NPU", f"{self.npu_operators} of {self.npu_operators + self.cpu_operators}"),
            ("estimated cycles", f"{count(self.cycles)} ({self.milliseconds:.2f} ms at {self.clock_hz / 1e6:.0f} MHz)"),
        ]
        if self.dram_bytes:
            figures.insert(3, ("DRAM", f"{count(self.dram_bytes)} bytes"))
        figures += [("on the CPU", reason) for reason in self.cpu_reasons if self.cpu_operators]
        return pairs_table(f"{self.accelerator}, Vela {self.vela}", figures)


def ethos_u(
    path: str | os.PathLike, accelerator: str = "ethos-u55-128", *, output: str | os.PathLike | None = None
) -> EthosUReport:
    """Compiles a file for an Ethos-U NPU with Vela, and returns the memory and operators that Vela reports.

    Vela compresses weights without loss. Codes of 4 and 2 bits in 8-bit integers, as `to_litert(..., target="ethos-u")`
    writes them, therefore take about a half and a third of the flash of 8-bit ones. Outputs do not change.

    Args:
        path: the file.
        accelerator: one of `ethos-u55-32`, `-64`, `-128`, `-256`, `ethos-u65-256`, `-512`, `ethos-u85-128`, `-256`,
            `-512`, `-1024`, `-2048`: the NPU and its multiplications per cycle.
        output: where to write the compiled file, which runs on LiteRT for Microcontrollers with Arm's driver; None
            does not keep it.

    Returns:
        Memory, operators and cycles.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: ethos-u-vela is not installed.
        ValueError: an unknown accelerator; the file is not a `.tflite`, is compiled already, or has weights of 4 or 2
            bits, palettes or a loop, with which Vela crashes or leaves all on the CPU.
        RuntimeError: Vela failed.
        TypeError: `path` or `output` is not a path.

    Example (needs ethos-u-vela; the name of the accelerator is checked first):

    >>> try:
    ...     ethos_u("model.tflite", "ethos-u99")
    ... except ValueError as error:
    ...     print(str(error)[:60])
    Invalid value for argument `accelerator`. Expected one of 'e

    Source: Arm, Vela compiler, documentation of its performance report.
    """
    check_choice("accelerator", ACCELERATORS, accelerator)
    if output is not None:
        check_path("output", output)
    _check_file(read(path), str(path))
    require_vela()
    with tempfile.TemporaryDirectory() as folder:
        log = _compiled(Path(path), accelerator, folder)
        compiled = Path(folder, f"{Path(path).stem}_vela.tflite")
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if not compiled.is_file() or len(summaries) != 1:
            raise _failed(path, log)
        content = compiled.read_bytes()
        report = _report(accelerator, summaries[0], log, len(content))
    if output is not None:
        atomic_write_bytes(output, content)
    return report


def require_vela() -> None:
    """Raises ImportError unless Vela is installed."""
    if importlib.util.find_spec("ethosu") is None:
        raise ImportError(missing("ethos-u-vela", "Compiling for Ethos-U", "npu"))


def _check_file(file: ModelT, path: str) -> None:
    """Raises ValueError for a file on which Vela crashes."""
    expected = "a file that Vela compiles, with weights of 8 bits and without loops"
    if is_compiled(file):
        raise ValueError(invalid_part("path", expected, f"{path}, which is compiled already", SOURCE_FIX))
    for graph in subgraphs(file):
        if any(tensor.type in (INT4, INT2) for tensor in graph.schema.tensors):
            raise ValueError(invalid_part("path", expected, f"{path}, with weights of 4 or 2 bits", WRITE_FOR_NPU))
        if any(graph.kind(op) in ("CALL_ONCE", "WHILE") for op in graph.operators):
            received = f"{path}, with palettes decoded once or a loop"
            raise ValueError(invalid_part("path", expected, received, WRITE_FOR_NPU))


def _compiled(path: Path, accelerator: str, folder: str) -> str:
    """Runs Vela in a process of its own and returns what it printed."""
    command = [sys.executable, "-m", "ethosu.vela", os.fspath(path.absolute()), "--accelerator-config", accelerator]
    command += ["--output-dir", folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=PATIENCE
    )
    log = done.stdout + done.stderr
    if done.returncode:
        raise _failed(path, log or f"exit code {done.returncode}")
    return log


def _failed(path: str | os.PathLike, log: str) -> RuntimeError:
    """Returns the error for a file that Vela did not compile."""
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it does not say why"
    return RuntimeError(f"Vela did not compile {path} ({last}). Expected a file of to_litert(..., target='ethos-u').")


def _report(accelerator: str, summary: Path, log: str, file_bytes: int) -> EthosUReport:
    """Returns the figures of Vela's summary, which counts memory in KiB."""
    with open(summary, newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    counts = {name: int(number) for name, number in COUNTS.findall(log)}
    used = {name: round(KIBIBYTE * float(row[f"{name}_memory_used"])) for name in ("sram", "dram")}
    flash = sum(float(row[f"{place}_chip_flash_memory_used"]) for place in ("on", "off"))
    reasons = dict.fromkeys(f"{kind}: {reason}" for kind, reason in REASON.findall(log))
    return EthosUReport(
        accelerator,
        optional_packages.version("ethos-u-vela"),
        file_bytes,
        round(KIBIBYTE * flash),
        used["sram"],
        used["dram"],
        counts["NPU"],
        counts["CPU"],
        tuple(reasons) if counts["CPU"] else (),
        round(float(row["cycles_total"])),
        float(row["core_clock"]),
    )
