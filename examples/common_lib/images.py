"""Images of other sizes and scales."""

from __future__ import annotations

import numpy as np


def resized(photographs: np.ndarray) -> np.ndarray:
    """Converts photographs of 224 x 224 pixels, -1 to 1, to the person detector's input: 96 x 96 pixels, 0 to 1."""
    import tensorflow as tf

    return tf.image.resize((photographs + 1) / 2, (96, 96), method="area").numpy()
