"""Pure functions on tensors, written in `keras.ops` alone: they run alike on TensorFlow, JAX and PyTorch."""

from r2keras.ops import affine, dkm, kmeans, range_loss, ste

__all__ = ["affine", "dkm", "kmeans", "range_loss", "ste"]
