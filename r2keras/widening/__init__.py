"""Wider copies of a model: more units and filters where bits became fewer, from trained weights if wanted."""

from r2keras.widening.net2wider import widen

__all__ = ["widen"]
