"""What benchmarks and examples share: images with fixed splits, small nets with regular layer names, their training."""

from r2keras.workloads import data, nets, training

__all__ = ["data", "nets", "training"]
