"""Files that several tests of this folder read, exported once."""

import pytest

from r2keras.export.conversion import activation_marks, converter
from r2keras.specs import QuantSpec
from tests.export.conversions import marked_once, once


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Returns `(model, record, path, sizes)` of a small dense model at 2 bits."""
    import keras

    from r2keras.export import to_litert
    from tests.export.models import dense_net
    from tests.export.quantize import quantize

    keras.utils.set_random_seed(0)
    model = dense_net()
    record = quantize(model, lambda name: QuantSpec(num_bits=2 if name.startswith("hidden") else 3))
    path = tmp_path_factory.mktemp("export") / "dense.tflite"
    return model, record, path, to_litert(model, path, record)


@pytest.fixture
def converted_once(monkeypatch):
    """Runs TensorFlow's converter once per model and weights: the forms of a file differ in what is made of that."""
    monkeypatch.setattr(converter, "_converted", once(converter._converted))
    monkeypatch.setattr(activation_marks, "_marked", marked_once(activation_marks._marked))
