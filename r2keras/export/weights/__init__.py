"""Stored forms of weights, and the constants of the float file that they replace."""
