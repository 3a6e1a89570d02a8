"""What a phone is to run: files, inputs, configurations, and the commands of each run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._util.errors import MOST_THREADS, invalid, invalid_part
from r2keras._util.files import atomic_write_text, read_bounded
from r2keras._util.json_text import member, parse_json
from r2keras.export.devices.golden import Golden, first_samples, golden, little_endian
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.tflite.interpreter import existing

MANIFEST = "manifest.json"
KIND, VERSION = "r2keras-android-plan", 1
LONGEST_MANIFEST = 2**20
REMOTE = "/data/local/tmp/r2keras"
PROGRAM = "benchmark_model"
KERNELS = ("xnnpack", "builtin")
# Facts on the phone, and the names that results call them by.
PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "android": "ro.build.version.release",
    "sdk": "ro.build.version.sdk",
    "abi": "ro.product.cpu.abi",
    "soc": "ro.soc.model",
    "board": "ro.product.board",
}
DEVICE_COMMAND = "; ".join(f'echo "{name}=$(getprop {key})"' for name, key in PROPERTIES.items())
# Ends what an interrupted run left, and removes every file that was sent.
CLEAN_COMMAND = f"if [ -f {REMOTE}/pid ]; then kill $(cat {REMOTE}/pid); fi 2>/dev/null; rm -rf {REMOTE}"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedFile:
    """One file to run.

    Args:
        name: name of the file.
        sha256: its checksum.
        size: its bytes.
        step: samples per run.
        golden: inputs and expected outputs; None if the outputs are not to be compared.
    """

    name: str
    sha256: str
    size: int
    step: int = 1
    golden: Golden | None = None

    @property
    def digest(self) -> str | None:
        """Checksum of inputs, expected outputs and tolerances; None if the outputs are not to be compared."""
        if self.golden is None:
            return None
        found = hashlib.sha256()
        for tensor in (*self.golden.inputs, *self.golden.outputs):
            found.update(f"{tensor.values.dtype} {tensor.values.shape} {tensor.tolerance!r};".encode())
            found.update(little_endian(tensor.values).tobytes())
        return found.hexdigest()

    @property
    def num_chunks(self) -> int:
        """Number of runs that take all samples."""
        return -(-self.golden.num_samples // self.step) if self.golden else 0

    def chunk(self, number: int, values: np.ndarray) -> np.ndarray:
        """Returns the samples of one run; the last is repeated if there are too few."""
        part = values[number * self.step : (number + 1) * self.step]
        return np.concatenate([part, np.repeat(part[-1:], self.step - len(part), axis=0)])

    def to_dict(self, number: int) -> dict[str, Any]:
        """Returns the entry of the manifest."""
        entry = {"file": self.name, "sha256": self.sha256, "bytes": self.size, "step": self.step}
        return {**entry, "golden": self.golden is not None and f"golden/{number}"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One file in one configuration.

    Args:
        number: index of the file.
        threads: number of threads.
        xnnpack: whether XNNPACK may run operators.
    """

    number: int
    threads: int
    xnnpack: bool

    @property
    def name(self) -> str:
        """The beginning of the names of its logs."""
        return f"{self.number}_t{self.threads}_{KERNELS[0] if self.xnnpack else KERNELS[1]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a phone is to run.

    Args:
        files: the files.
        threads: numbers of threads.
        kernels: `"xnnpack"`, `"builtin"` or both.
        num_runs: least number of timed runs.
    """

    files: tuple[PlannedFile, ...]
    threads: tuple[int, ...]
    kernels: tuple[str, ...]
    num_runs: int

    def runs(self) -> list[Run]:
        """Returns every file in every configuration."""
        numbers = range(len(self.files))
        return [Run(*run) for run in itertools.product(numbers, self.threads, (k == KERNELS[0] for k in self.kernels))]

    def inputs(self, number: int) -> dict[str, bytes]:
        """Returns the files of inputs of one file by name: one per run and input, little-endian."""
        file = self.files[number]
        tensors = file.golden.inputs if file.golden else ()
        return {
            input_name(number, chunk, index): little_endian(file.chunk(chunk, tensor.values)).tobytes()
            for chunk in range(file.num_chunks)
            for index, tensor in enumerate(tensors)
        }

    def commands(self, run: Run) -> dict[str, str]:
        """Returns the commands of one run by the name of their log: timing, memory, and one for each chunk of samples.

        Outputs are taken from a process that runs the file once: one that keeps states between runs starts from zero.
        """
        file = self.files[run.number]
        timing = f"--num_runs={self.num_runs}"
        memory = "--num_runs=5 --min_secs=0.3 --report_peak_memory_footprint=true"
        once = "--num_runs=1 --min_secs=0 --warmup_runs=0 --warmup_min_secs=0"
        found = {
            f"{run.name}.time.log": self._command(run, timing),
            f"{run.name}.memory.log": self._command(run, memory),
        }
        for chunk in range(file.num_chunks):
            saved = f"{once} --output_filepath=logs/{output_name(run, chunk)}"
            found[f"{run.name}.check{chunk}.log"] = self._command(run, saved, chunk)
        return {name: logged(name, command) for name, command in found.items()}

    def _command(self, run: Run, arguments: str, chunk: int = 0) -> str:
        """Returns a call of the program, without its log."""
        flags = f"--graph={model_name(run.number)} --num_threads={run.threads} --use_xnnpack={str(run.xnnpack).lower()}"
        file = self.files[run.number]
        if file.golden is None:
            return f"./{PROGRAM} {flags} {arguments}"
        names = [f"input_{index}" for index in range(len(file.golden.inputs))]
        shapes = [(file.step, *tensor.values.shape[1:]) for tensor in file.golden.inputs]
        sizes = ":".join(",".join(map(str, shape)) for shape in shapes)
        values = ",".join(f"{name}:{input_name(run.number, chunk, i)}" for i, name in enumerate(names))
        given = f"--input_layer={','.join(names)} --input_layer_shape={sizes} --input_layer_value_files={values}"
        return f"./{PROGRAM} {flags} {given} {arguments}"

    def save(self, folder: Path) -> None:
        """Writes the manifest and the expected outputs."""
        for number, file in enumerate(self.files):
            if file.golden:
                file.golden.save(folder / "golden" / str(number))
        files = [file.to_dict(number) for number, file in enumerate(self.files)]
        settings = {"threads": self.threads, "kernels": self.kernels, "num_runs": self.num_runs}
        config = {"kind": KIND, "version": VERSION, "files": files, **settings}
        atomic_write_text(folder / MANIFEST, json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Reads what `save` wrote.

        Raises:
            OSError: a file does not exist.
            ValueError: the manifest is of another kind or version, or damaged.
        """
        path = folder / MANIFEST
        content = read_bounded(path, "the manifest of `r2keras-android bundle`", LONGEST_MANIFEST)
        try:
            config = parse_json(content)
            found = member(config, "kind", str, "the file"), member(config, "version", int, "the file")
            if found != (KIND, VERSION):
                raise ValueError(f"it is {found[0]} of version {found[1]}, and this release reads {KIND} {VERSION}")
            files = [_planned(folder, entry) for entry in member(config, "files", list, "the file")]
            threads, kernels = (tuple(member(config, key, list, "the file")) for key in ("threads", "kernels"))
            return cls(tuple(files), threads, kernels, member(config, "num_runs", int, "the file"))
        except ValueError as error:
            expected = "a folder that run.sh of `r2keras-android bundle` wrote"
            raise ValueError(invalid_part("logs", expected, f"{path}, which is not readable: {error}")) from error


def make_plan(
    paths: Sequence[str | os.PathLike],
    data: Mapping[str, np.ndarray] | None,
    *,
    threads: Sequence[int],
    kernels: Sequence[str] = KERNELS,
    num_runs: int = 50,
    samples: int = 4,
) -> Plan:
    """Returns what a phone is to run; computes the expected outputs here.

    Args:
        paths: the files.
        data: arrays by the name of an input, or one array `x`; None leaves the comparison of outputs out.
        threads: numbers of threads, each from 1 to 1024.
        kernels: `"xnnpack"`, `"builtin"` or both.
        num_runs: least number of timed runs.
        samples: number of samples that are compared.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a setting is out of range; a file cannot run; the data do not fit.
        ImportError: ai-edge-litert is not installed.
    """
    if not paths:
        raise ValueError(invalid("files", "at least one .tflite file", list(paths)))
    if not threads or min(threads) < 1 or max(threads) > MOST_THREADS or len(set(threads)) < len(threads):
        raise ValueError(invalid("threads", f"different numbers from 1 to {MOST_THREADS}", list(threads)))
    if not kernels or set(kernels) - set(KERNELS) or len(set(kernels)) < len(kernels):
        raise ValueError(invalid("kernels", "'xnnpack', 'builtin' or both", list(kernels)))
    for name, value in (("num_runs", num_runs), ("samples", samples)):
        if value < 1:
            raise ValueError(invalid(name, "an integer of at least 1", value))
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(invalid("files", "files of different names", names))
    files = tuple(_plan_file(existing(path), data, samples) for path in paths)
    return Plan(files, tuple(threads), tuple(kernels), num_runs)


def _plan_file(path: Path, data: Mapping[str, np.ndarray] | None, samples: int) -> PlannedFile:
    """Returns one file with its expected outputs."""
    content = path.read_bytes()
    model = LiteRTModel(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if data is None:
        return PlannedFile(path.name, sha256, len(content))
    expected = golden(None, path, first_samples(data, model.input_names, samples, path), runtime="litert")
    first = model.inputs[0]
    step = 1 if first.signature[:1] == (-1,) else first.shape[0]
    return PlannedFile(path.name, sha256, len(content), step, expected)


def _planned(folder: Path, entry: object) -> PlannedFile:
    """Returns one file of a manifest."""
    place = entry.get("golden") if isinstance(entry, dict) else None
    name, sha256 = (member(entry, key, str, "a file") for key in ("file", "sha256"))
    size, step = (member(entry, key, int, "a file") for key in ("bytes", "step"))
    expected = Golden.load(folder / "golden" / Path(str(place)).name) if place else None
    return PlannedFile(name, sha256, size, step, expected)


def model_name(number: int) -> str:
    """Returns what a file is called on the phone, free of characters that a shell reads."""
    return f"model_{number}.tflite"


def input_name(number: int, chunk: int, index: int) -> str:
    """Returns what an input is called on the phone."""
    return f"input_{number}_{chunk}_{index}.bin"


def output_name(run: Run, chunk: int) -> str:
    """Returns what the outputs of one run are called on the phone."""
    return f"{run.name}.check{chunk}.bin"


def logged(name: str, command: str) -> str:
    """Returns a command that writes its output, exit code last, to a log on the phone, and its process to `pid`."""
    log = f"logs/{name}"
    run = f'{command} > {log} 2>&1 & echo $! > pid; wait $!; echo "r2keras exit: $?" >> {log}; rm -f pid'
    return f"cd {REMOTE} || exit 1; {run}"


def sent(paths: Sequence[str | os.PathLike], plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yields the names and contents of the files that a phone needs, without the program."""
    for number, path in enumerate(paths):
        yield model_name(number), Path(path).read_bytes()
        yield from plan.inputs(number).items()
