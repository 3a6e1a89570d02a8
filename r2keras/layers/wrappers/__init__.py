"""Wrappers that compress the weights of any layer."""
