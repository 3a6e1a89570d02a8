"""Stand-ins for the headers of LiteRT for Microcontrollers: to compile generated code and run it on a fake."""

from pathlib import Path

# The methods of MicroMutableOpResolver that register built-in operators, and AddDecode, in the order of
# tensorflow/lite/micro/micro_mutable_op_resolver.h in github.com/tensorflow/tflite-micro at commit 25b10cd2896f.
# Those of the signal library and of other custom operators are left out.
_METHODS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce
Cast Ceil Concatenation Conv2D Cos CumSum Decode DepthToSpace DepthwiseConv2D Dequantize Div DynamicUpdateSlice
EmbeddingLookup Elu Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather GatherNd Greater
GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogicalAnd LogicalNot LogicalOr
Logistic LogSoftmax Maximum MaxPool2D MirrorPad Mean Minimum Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize
ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round
Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Squeeze Sqrt Square SquaredDifference
StridedSlice Sub Sum Svdf Tanh TransposeConv Transpose Unpack UnidirectionalSequenceLSTM VarHandle While ZerosLike
"""
METHODS = _METHODS.split()

RESOLVER = """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite {
struct MicroOpResolver { unsigned added = 0, room = 0; };
template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  MicroMutableOpResolver() { room = tOpCount; }
%s
 private:
  TfLiteStatus Register() { return ++added <= room ? kTfLiteOk : kTfLiteError; }
};
}
"""
INTERPRETER = """
#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
struct TfLiteTensor { struct { char* raw; } data; std::size_t bytes; };
bool FakeInvoke(TfLiteTensor& input, TfLiteTensor& output);
TfLiteTensor FakeTensor(bool is_input);
namespace tflite {
struct Model {};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver& resolver, std::uint8_t* arena, std::size_t)
      : resolver_(resolver), arena_(arena), input_(FakeTensor(true)), output_(FakeTensor(false)) {}
  // Every operator of the resolver has to be registered, so that it has no room for others.
  TfLiteStatus AllocateTensors() {
    const bool aligned = reinterpret_cast<std::uintptr_t>(arena_) % 16 == 0;
    return aligned && resolver_.added == resolver_.room ? kTfLiteOk : kTfLiteError;
  }
  TfLiteTensor* input(std::size_t i) { return i == 0 ? &input_ : nullptr; }
  TfLiteTensor* output(std::size_t i) { return i == 0 ? &output_ : nullptr; }
  TfLiteStatus Invoke() { return FakeInvoke(input_, output_) ? kTfLiteOk : kTfLiteError; }
  std::size_t arena_used_bytes() const { return 0; }
 private:
  const MicroOpResolver& resolver_;
  std::uint8_t* arena_;
  TfLiteTensor input_, output_;
};
}
"""
LOG = "#pragma once\n#include <cstdio>\n#define MicroPrintf(...) std::printf(__VA_ARGS__)\n"
SETUP = "#pragma once\nnamespace tflite { inline void InitializeTarget() {} }\n"
SCHEMA = """
#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite { inline const Model* GetModel(const void*) { static Model model; return &model; } }
"""


def write_headers(folder: Path) -> Path:
    """Writes the headers below a folder, and returns it."""
    methods = "\n".join(f"  TfLiteStatus Add{name}() {{ return Register(); }}" for name in METHODS)
    headers = {
        "micro/micro_mutable_op_resolver.h": RESOLVER % methods,
        "micro/micro_interpreter.h": INTERPRETER,
        "micro/micro_log.h": LOG,
        "micro/system_setup.h": SETUP,
        "schema/schema_generated.h": SCHEMA,
    }
    for name, text in headers.items():
        path = folder / "tensorflow" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
