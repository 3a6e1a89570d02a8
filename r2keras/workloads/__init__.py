"""What benchmarks and examples share: image data with fixed splits, and small nets with regular layer names."""

from r2keras.workloads import data, nets

__all__ = ["data", "nets"]
