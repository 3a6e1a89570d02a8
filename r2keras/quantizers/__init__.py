"""Quantizers: layers that turn a weight into the value it will have in the file, one paper a file."""

from r2keras.quantizers.affine import AffineQuantizer

__all__ = ["AffineQuantizer"]
