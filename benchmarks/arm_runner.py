"""Runs `.tflite` files on the processor at hand, with and without XNNPACK; needs NumPy and the runtime alone.

    python arm_runner.py FOLDER RESULTS NAME...

Reads FOLDER/NAME.tflite and the inputs in FOLDER/NAME.npz; writes RESULTS/NAME.npz and prints a line of JSON per file:
the outputs, by `xnnpack` and `built_in`, of samples one by one and then, where the batch is open, of all in one. Where
FOLDER/NAME.every exists, it runs too, and its outputs have names that begin with `every_`.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

KERNELS = ("xnnpack", "built_in")
# Samples that run one by one.
SINGLE = 4
# Bits of the words AT_HWCAP and AT_HWCAP2 of Linux on arm64.
FEATURES = {16: {"asimdhp": 10, "asimddp": 20, "sve": 22}, 26: {"i8mm": 13, "bf16": 14, "sme": 23}}


def features() -> list[str]:
    """Returns the instruction sets that kernels are chosen by, on arm64."""
    if platform.machine() != "aarch64":
        return []
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    return [name for word, bits in FEATURES.items() for name, bit in bits.items() if getauxval(word) >> bit & 1]


def interpreter_of(path: Path, kernels: str) -> Any:
    """Returns an interpreter with one thread."""
    try:
        from ai_edge_litert import interpreter as runtime
    except ImportError:  # 32-bit ARM has the older package alone.
        from tflite_runtime import interpreter as runtime

    auto = runtime.OpResolverType.AUTO
    resolver = auto if kernels == "xnnpack" else runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return runtime.Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=1)


def run_file(path: Path, inputs: list[np.ndarray], kernels: str) -> tuple[list[np.ndarray], int]:
    """Returns the outputs of a file, and the number of its parts that a delegate runs."""
    file = interpreter_of(path, kernels)
    sources, results = file.get_input_details(), file.get_output_details()
    is_open = all(list(source["shape_signature"][:1]) == [-1] for source in sources)
    count = len(inputs[0])
    parts = [slice(i, i + 1) for i in range(SINGLE if is_open else count)] + ([slice(0, count)] if is_open else [])
    found = []
    size = None
    for part in parts:
        arrays = [np.ascontiguousarray(array[part]) for array in inputs]
        if len(arrays[0]) != size:
            size = len(arrays[0])
            for source, array in zip(sources, arrays, strict=True):
                file.resize_tensor_input(source["index"], array.shape)
            file.allocate_tensors()
        for source, array in zip(sources, arrays, strict=True):
            file.set_tensor(source["index"], array)
        file.reset_all_variables()
        file.invoke()
        found.append([file.get_tensor(result["index"]) for result in results])
    delegated = sum(operator["op_name"] == "DELEGATE" for operator in file._get_ops_details())
    return [np.concatenate(column) for column in zip(*found, strict=True)], delegated


def main(folder: Path, results: Path, names: list[str]) -> None:
    for name in names:
        with np.load(folder / f"{name}.npz") as data:
            inputs = [data[str(i)] for i in range(len(data.files))]
        line: dict[str, Any] = {"name": name, "features": features(), "delegated": {}, "refused": {}}
        outputs: dict[str, np.ndarray] = {}
        for kernels in KERNELS:
            try:
                arrays, line["delegated"][kernels] = run_file(folder / f"{name}.tflite", inputs, kernels)
                outputs |= {f"{kernels}_{i}": array for i, array in enumerate(arrays)}
                every = folder / f"{name}.every"
                arrays = run_file(every, inputs, kernels)[0] if every.exists() else []
                outputs |= {f"every_{kernels}_{i}": array for i, array in enumerate(arrays)}
            except (RuntimeError, ValueError) as error:
                line["refused"][kernels] = " ".join(str(error).split())[:200]
        np.savez(results / f"{name}.npz", **outputs)  # type: ignore[arg-type]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
