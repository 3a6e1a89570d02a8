"""Files for devices: writing them, running them, comparing them with Keras, measuring them."""

from r2keras.export.litert import to_litert
from r2keras.export.runtime import Latency, LiteRTModel
from r2keras.export.sizes import FileSizes, TensorSize, sizes
from r2keras.export.verify import Verification, verify

__all__ = ["FileSizes", "Latency", "LiteRTModel", "TensorSize", "Verification", "sizes", "to_litert", "verify"]
