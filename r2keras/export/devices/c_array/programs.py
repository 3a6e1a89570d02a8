"""C++ programs beside a C array: a check of the bytes, and a run on LiteRT for Microcontrollers."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2keras.export.devices.c_array.sources import Content

_BYTES = Template(
    """\
// Checks the bytes of the C array, without LiteRT for Microcontrollers.
//     g++ -std=c++11 -I. ${name}_data.cc check/${name}_bytes.cc -o bytes && ./bytes
#include <cstdio>

#include "${name}_data.h"

static std::uint32_t Crc32(const unsigned char* data, std::size_t size) {
  std::uint32_t sum = 0xffffffffu;
  for (std::size_t i = 0; i < size; ++i) {
    sum ^= data[i];
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ (sum & 1u ? 0xedb88320u : 0u);
  }
  return ~sum;
}

int main() {
  const bool same = Crc32(${name}::kData, ${name}::kBytes) == ${name}::kCrc32;
  const bool aligned = reinterpret_cast<std::uintptr_t>(${name}::kData) % 16 == 0;
  std::printf("%lu bytes, %s, %s\\n", static_cast<unsigned long>(${name}::kBytes),
              same ? "unchanged" : "CHANGED", aligned ? "aligned" : "NOT ALIGNED");
  return same && aligned ? 0 : 1;
}
"""
)
_RUN = Template(
    """\
// Runs the file on LiteRT for Microcontrollers and compares its outputs with the golden values.
// Exit code: 0, or 1 if the file does not run or an output differs.
#include <cstring>

#include "${name}_data.h"
#include "${name}_golden.h"
#include "${name}_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static std::uint8_t arena[${name}::kArenaBytes];

template <typename T>
static bool Set(TfLiteTensor* tensor, const T* values, std::size_t count) {
  if (tensor == nullptr || tensor->bytes != count * sizeof(T)) return false;
  std::memcpy(tensor->data.raw, values, tensor->bytes);
  return true;
}

template <typename T>
static bool IsNear(const TfLiteTensor* tensor, const T* expected, std::size_t count, float tolerance) {
  if (tensor == nullptr || tensor->bytes != count * sizeof(T)) return false;
  for (std::size_t i = 0; i < count; ++i) {
    T found;
    std::memcpy(&found, tensor->data.raw + i * sizeof(T), sizeof(T));
    const double difference = static_cast<double>(found) - static_cast<double>(expected[i]);
    // Written so that NaN is not near.
    if (!(difference <= tolerance && -difference <= tolerance)) return false;
  }
  return true;
}

int main() {
  tflite::InitializeTarget();
  ${name}::Resolver resolver;
  if (${name}::AddOperators(resolver) != kTfLiteOk) return 1;
  tflite::MicroInterpreter interpreter(tflite::GetModel(${name}::kData), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  int failed = 0;
  for (std::size_t sample = 0; sample < ${name}::kSamples; ++sample) {
    bool good = true;
${inputs}
    good = good && interpreter.Invoke() == kTfLiteOk;
${outputs}
    if (!good) ++failed;
  }
  MicroPrintf("%d of %d samples differ, arena of %d bytes used", failed,
              static_cast<int>(${name}::kSamples), static_cast<int>(interpreter.arena_used_bytes()));
  return failed ? 1 : 0;
}
"""
)


def bytes_program(content: Content) -> str:
    """Returns `check/model_bytes.cc`."""
    return _BYTES.substitute(name=content.name)


def run_program(content: Content) -> str:
    """Returns `check/model_run.cc`."""
    inputs, outputs = [], []
    for port in content.ports:
        number, label, space = port.number, port.label, content.name
        count = f"{space}::k{label}Values"
        golden = f"{space}::kGolden{label} + sample * {count}"
        if port.role == "Input":
            inputs.append(f"    good = good && Set(interpreter.input({number}), {golden}, {count});")
        else:
            tensor, tolerance = f"interpreter.output({number})", f"{space}::kTolerance{number}"
            outputs.append(f"    good = good && IsNear({tensor}, {golden}, {count}, {tolerance});")
    return _RUN.substitute(name=content.name, inputs="\n".join(inputs), outputs="\n".join(outputs))
