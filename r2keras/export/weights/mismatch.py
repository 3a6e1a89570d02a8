"""The error for a weight whose stored form differs from the record."""

from __future__ import annotations

# Largest relative difference of a decoded weight from that of the float file; single precision rounds by up to 6e-8.
DECODING_TOLERANCE = 1e-6


def broken(name: str, reason: str) -> RuntimeError:
    """Returns the error for a weight whose stored form differs from the record."""
    return RuntimeError(
        f"The weight {name!r} did not reach the file unchanged: {reason}. Nothing was written. "
        "This is a defect of r2keras: please report the layer and the spec."
    )
