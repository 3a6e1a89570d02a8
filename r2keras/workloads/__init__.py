"""What benchmarks and examples share: images and texts with fixed splits, small nets, their training."""

from r2keras.workloads import data, nets, text, training

__all__ = ["data", "nets", "text", "training"]
