"""Compressed kernels: the quantizer or palette of one weight."""
