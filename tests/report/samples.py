"""Rows, records and summaries to report on, made up from a seed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from r2keras.record import CompressionRecord, QuantizedTensor, RangeFigures
from r2keras.report import Summary, summarize
from r2keras.specs import QuantSpec


def row(**columns: Any) -> dict[str, Any]:
    """Returns a row; the named columns replace the usual ones."""
    keys = {"regularizer": "linf", "method": "qat", "num_bits": 2, "seed": 0}
    accuracies = {"float_accuracy": 0.98, "accuracy": 0.97, "file_accuracy": 0.965}
    sizes = {"file_bytes": 27_912, "ideal_bytes": 20_000, "path": "out/linf.tflite"}
    usual = {**keys, **accuracies, **sizes, "latency_ms": 0.25, "max_over_std": 2.5}
    return usual | columns


def run_rows(regularizers=("none", "linf"), methods=("ptq", "qat"), widths=(8, 4, 2), seeds=(0, 1, 2)) -> list[dict]:
    """Returns the rows of a whole run, float files included."""
    rng = np.random.default_rng(7)
    rows = []
    for name in regularizers:
        for seed in seeds:
            float_accuracy = rng.uniform(0.95, 0.99)
            for method, bits in [("float", 32), *((m, b) for m in methods for b in widths)]:
                accuracy, file_accuracy = rng.uniform(0.3, 0.98, 2)
                rows.append(
                    row(
                        regularizer=name,
                        method=method,
                        num_bits=bits,
                        seed=seed,
                        float_accuracy=float_accuracy,
                        accuracy=accuracy,
                        file_accuracy=file_accuracy,
                        file_bytes=1000 * bits + 8 * seed,
                        latency_ms=rng.uniform(0.1, 2.0),
                        max_over_std=rng.uniform(2.0, 6.0),
                        dataset="digits",
                        path=f"out/{name}_{method}_{bits}_{seed}.tflite",
                    )
                )
    return rows


def tensor(name: str, shape: tuple[int, ...], spec: QuantSpec, seed: int = 0) -> QuantizedTensor:
    """Returns a tensor quantized by its largest value, per tensor or along the last axis."""
    weights = np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)
    zero = -0.5 if spec.levels == "mid_rise" else 0.0
    axes = tuple(range(len(shape) - 1)) if spec.granularity == "per_channel" else None
    scale = np.abs(weights).max(axis=axes, keepdims=True) / (spec.quant_max - zero)
    codes = np.clip(np.round(weights / scale + zero), spec.quant_min, spec.quant_max).astype(np.int8)
    return QuantizedTensor(name, codes, scale, np.full(scale.shape, zero), spec, RangeFigures.of(weights))


def record() -> CompressionRecord:
    """Returns a record of three tensors and a kernel kept float."""
    per_tensor = {"granularity": "per_tensor"}
    tensors = [
        tensor("stem/kernel", (3, 3, 1, 8), QuantSpec(num_bits=8), 1),
        tensor("block/conv/kernel", (3, 3, 8, 16), QuantSpec(num_bits=3, **per_tensor), 2),
        tensor("dense/kernel", (40, 12), QuantSpec(num_bits=2, **per_tensor), 3),
    ]
    return CompressionRecord({t.name: t for t in tensors}, {"head/kernel": "no rule matches"}, 2000, "small")


def file_summary() -> Summary:
    """Returns the summary of the record with the sizes of a file."""
    bare = summarize(record())
    containers = {8: 8, 3: 4, 2: 2}
    stored = [
        dataclasses.replace(
            t,
            container_bits=containers[t.num_bits],
            packed_bytes=int(np.prod(t.shape)) * containers[t.num_bits] // 8 + t.scale_bytes,
            note="3-bit codes in a 4-bit container" if t.num_bits == 3 else "",
        )
        for t in bare.tensors
    ]
    return dataclasses.replace(bare, tensors=tuple(stored), file_bytes=4000, gzip_bytes=3500)
