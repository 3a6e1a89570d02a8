"""Pure functions on tensors, written in `keras.ops` only: the same code runs on TensorFlow, JAX and PyTorch."""

from r2keras.ops import affine, dkm, dynamic, kmeans, range_loss, ste

__all__ = ["affine", "dkm", "dynamic", "kmeans", "range_loss", "ste"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
