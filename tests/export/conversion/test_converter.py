"""Float files of TensorFlow's converter, where what it writes does not run as it is."""

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

from r2keras.export import LiteRTModel, to_litert

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose])
@pytest.mark.parametrize("add", [lambda x: x + 0.5, lambda x: 3.0 * (x - 0.25)], ids=["add", "subtract and scale"])
def test_a_number_added_to_a_transposed_convolution_without_a_bias(kind, add, tmp_path):
    """The converter makes it a bias of one entry, which the runtime refuses."""
    image = keras.Input((6,) * (1 if "1D" in kind.__name__ else 2) + (4,))
    model = keras.Model(image, add(kind(5, 3, use_bias=False)(image)))
    data = RNG.normal(size=(2, *image.shape[1:])).astype(np.float32)
    to_litert(model, tmp_path / "model.tflite")
    found = LiteRTModel(tmp_path / "model.tflite").predict(data)
    np.testing.assert_allclose(found, model.predict(data, verbose=0), atol=1e-5)
