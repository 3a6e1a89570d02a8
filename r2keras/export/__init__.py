"""Export to files for devices, and tools that run, verify and measure them."""

from r2keras.export.conversion.one_step import streaming
from r2keras.export.devices.benchmark import Benchmark, BenchmarkRow, benchmark
from r2keras.export.devices.browser.page import web_page
from r2keras.export.devices.c_array.c_array import CArray, c_array
from r2keras.export.devices.ethos_u import EthosUReport, ethos_u
from r2keras.export.devices.golden import Golden, GoldenTensor, golden
from r2keras.export.devices.inspection import InspectedOperator, InspectedTensor, Inspection, inspect
from r2keras.export.devices.profile import Profile, ProfileRow, profile
from r2keras.export.devices.results import DeviceResult, DeviceResults
from r2keras.export.install.bundle_file import bundle
from r2keras.export.install.expand_file import expand
from r2keras.export.litert.to_litert import to_litert
from r2keras.export.runtime.file_sizes import FileSizes, TensorSize, sizes
from r2keras.export.runtime.litert_model import Latency, LiteRTModel
from r2keras.export.runtime.litert_stream import LiteRTStream
from r2keras.export.runtime.tflm_model import TFLMModel, tflm_arena
from r2keras.export.runtime.tflm_sizes import TFLMSizes
from r2keras.export.runtime.verification import Verification, verify
from r2keras.export.tflm.to_tflm import to_tflm

__all__ = [
    "Benchmark",
    "BenchmarkRow",
    "CArray",
    "DeviceResult",
    "DeviceResults",
    "EthosUReport",
    "FileSizes",
    "Golden",
    "GoldenTensor",
    "InspectedOperator",
    "InspectedTensor",
    "Inspection",
    "Latency",
    "LiteRTModel",
    "LiteRTStream",
    "Profile",
    "ProfileRow",
    "TFLMModel",
    "TFLMSizes",
    "TensorSize",
    "Verification",
    "benchmark",
    "bundle",
    "c_array",
    "ethos_u",
    "expand",
    "golden",
    "inspect",
    "profile",
    "sizes",
    "streaming",
    "tflm_arena",
    "to_litert",
    "to_tflm",
    "verify",
    "web_page",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
