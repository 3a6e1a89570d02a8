"""Recurrent layers with low-bit weights and states."""
