"""Comparison of a model with its file, or with another model, layer by layer."""
