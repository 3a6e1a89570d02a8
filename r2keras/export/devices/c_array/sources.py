"""C++ code of a file for microcontrollers: its bytes, its operators, and golden values."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.devices.c_array.literals import C_TYPES, byte_rows, comment, literal, rows
from r2keras.export.devices.c_array.operators import DECODE, NPU, method
from r2keras.export.devices.golden import GoldenTensor

if TYPE_CHECKING:
    from r2keras.export.devices.golden import Golden

WRITTEN = "Written by r2keras; do not edit."
NPU_NOTE = "// AddEthosU registers nothing where LiteRT for Microcontrollers is built without its Ethos-U kernel."


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Args:
        role: `"Input"` or `"Output"`.
        number: its place among them.
        name: the tensor's name.
        dtype: NumPy's name of its type.
        shape: its sizes; one sample.
        scale: step of its grid; 0 if its values are not codes.
        zero_point: the code of zero.
    """

    role: str
    number: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def label(self) -> str:
        """Its name in the code, `Input0`."""
        return f"{self.role}{self.number}"

    def declarations(self) -> list[str]:
        """Returns the lines of `model_data.h` about it."""
        sizes = self.shape or (1,)
        described = f"{self.dtype}, {' x '.join(map(str, sizes))}"
        grid = "value = scale * (code - zero point)" if self.scale else "the values are not codes"
        return [
            "",
            f"// {self.role} {self.number}, '{comment(self.name)}': {described}; {grid}.",
            f"typedef {C_TYPES[self.dtype]} {self.label};",
            f"constexpr int k{self.label}Shape[] = {{{', '.join(map(str, sizes))}}};",
            f"constexpr std::size_t k{self.label}Values = {math.prod(sizes)};",
            f"constexpr float k{self.label}Scale = {literal(np.float32(self.scale))};",
            f"constexpr int k{self.label}ZeroPoint = {self.zero_point};",
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """What is written.

    Args:
        name: namespace of the code, and the beginning of the names of its files.
        file: name of the `.tflite`.
        data: its bytes.
        arena_bytes: memory for the interpreter.
        ports: inputs, then outputs.
        operators: names of the operators that it uses.
        golden: golden values, or None.
    """

    name: str
    file: str
    data: bytes
    arena_bytes: int
    ports: tuple[Port, ...]
    operators: tuple[str, ...]
    golden: Golden | None

    @property
    def sha256(self) -> str:
        """Checksum of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def crc32(self) -> str:
        """Another checksum, as a literal."""
        return f"0x{zlib.crc32(self.data):08x}u"


def data_header(content: Content) -> str:
    """Returns `model_data.h`."""
    lines = [
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        f"namespace {content.name} {{",
        "",
        "// The file, for tflite::GetModel. Its address is a multiple of 16.",
        "extern const unsigned char kData[];",
        f"constexpr std::size_t kBytes = {len(content.data)};",
        f"constexpr std::uint32_t kCrc32 = {content.crc32};",
        "",
        "// Memory for tflite::MicroInterpreter on a 64-bit machine. A 32-bit target needs a little less:",
        "// tflite::MicroInterpreter::arena_used_bytes() tells how much.",
        f"constexpr std::size_t kArenaBytes = {content.arena_bytes};",
        *(line for port in content.ports for line in port.declarations()),
    ]
    about = f"{comment(content.file)} as a C array: {len(content.data)} bytes, SHA-256 {content.sha256}."
    return _header(content, "data", about, lines)


def data_source(content: Content) -> str:
    """Returns `model_data.cc`."""
    lines = [
        f'#include "{content.name}_data.h"',
        "",
        f"namespace {content.name} {{",
        "",
        "alignas(16) const unsigned char kData[] = {",
        *byte_rows(content.data),
        "};",
        'static_assert(sizeof(kData) == kBytes, "The array and its header belong to different files.");',
    ]
    return _text([f"// {comment(content.file)} as a C array. {WRITTEN}", *lines, *_end(content)])


def operators_header(content: Content) -> str:
    """Returns `model_ops.h`."""
    calls = [f"  if (resolver.{method(name)}() != kTfLiteOk) return kTfLiteError;" for name in content.operators]
    lines = [
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        "",
        f"namespace {content.name} {{",
        "",
        f"typedef tflite::MicroMutableOpResolver<{max(1, len(content.operators))}> Resolver;",
        "",
        "// Registers the operators of the file, and no others.",
        *(["// AddDecode, for packed weights, is missing in older versions."] * (DECODE in content.operators)),
        *([NPU_NOTE] * (NPU in content.operators)),
        f"inline TfLiteStatus AddOperators(Resolver&{' resolver' if calls else ''}) {{",
        *calls,
        "  return kTfLiteOk;",
        "}",
    ]
    return _header(content, "ops", f"The operators of {comment(content.file)}.", lines)


def golden_header(content: Content, golden: Golden) -> str:
    """Returns `model_golden.h`."""
    lines = [
        f'#include "{content.name}_data.h"',
        "",
        f"namespace {content.name} {{",
        "",
        f'static_assert(kCrc32 == {content.crc32}, "These golden values belong to another file.");',
        "",
        "// Samples one after another, each as many values as model_data.h says.".replace("model", content.name),
        f"constexpr std::size_t kSamples = {golden.num_samples};",
    ]
    for port, tensor in _pairs(content, golden):
        lines.append(f"extern const {port.label} kGolden{port.label}[];")
        if port.role == "Output":
            lines += [
                "// Largest difference between an output and its golden value, in the units of the values.",
                f"constexpr float kTolerance{port.number} = {literal(np.float32(tensor.tolerance))};",
            ]
    about = f"Golden values of {comment(content.file)}, computed by {comment(golden.runtime)}."
    return _header(content, "golden", about, lines)


def golden_source(content: Content, golden: Golden) -> str:
    """Returns `model_golden.cc`."""
    lines = [
        f"// Golden values of {comment(content.file)}. {WRITTEN}",
        f'#include "{content.name}_golden.h"',
        "",
        f"namespace {content.name} {{",
    ]
    for port, tensor in _pairs(content, golden):
        values = np.asarray(tensor.values, port.dtype)
        lines += ["", f"const {port.label} kGolden{port.label}[] = {{", *rows(values), "};"]
        length = f"sizeof(kGolden{port.label}) == kSamples * k{port.label}Values * sizeof({port.label})"
        lines.append(f'static_assert({length}, "Values are missing.");')
    return _text([*lines, *_end(content)])


def _pairs(content: Content, golden: Golden) -> Iterable[tuple[Port, GoldenTensor]]:
    """Returns each input and output with its golden values."""
    return zip(content.ports, (*golden.inputs, *golden.outputs), strict=True)


def _header(content: Content, part: str, about: str, lines: list[str]) -> str:
    """Returns a header with its guard."""
    guard = f"{content.name.upper()}_{part.upper()}_H_"
    top = [f"// {about}", f"// {WRITTEN}", f"#ifndef {guard}", f"#define {guard}", ""]
    return _text([*top, *lines, *_end(content), "", f"#endif  // {guard}"])


def _end(content: Content) -> list[str]:
    """Returns the end of a namespace."""
    return ["", f"}}  // namespace {content.name}"]


def _text(lines: Iterable[str]) -> str:
    """Returns lines as one text."""
    return "\n".join(lines) + "\n"
