"""Expansion of small files at install time, and bundles for loaders without flatbuffer code."""
