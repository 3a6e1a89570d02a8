"""From a trained wrapper model to plain layers, a record and a file, without any change of values."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras

import r2keras
from r2keras import CompressionRecord, PaletteSpec, QuantSpec, Recipe
from r2keras.tfmot import GridActivation, LowBitScheme, annotate, finalize
from tests.tfmot.nets import X, Y, applied, apply, net, outputs, tiny, trained

quantization = tfmot.quantization.keras
PALETTES = Recipe(
    [
        ("head", QuantSpec(num_bits=8, range="min_max")),
        ("pw|hidden", PaletteSpec(num_bits=2, dim=2, min_size=0)),
        (".*", PaletteSpec(num_bits=2, min_size=40)),
    ]
)
EIGHT = Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8, range="min_max"))])


@pytest.fixture(scope="module")
def finished():
    """The net trained under mixed widths, the plain model and the record."""
    qat = trained(input_bits=8)
    return qat, *finalize(qat)


def test_kernels_are_the_records_values_bit_for_bit(finished):
    _, model, record = finished
    assert set(record.tensors) == {"stem/kernel", "dw/depthwise_kernel", "pw/kernel", "hidden/kernel", "head/kernel"}
    for name, tensor in record.tensors.items():
        layer, _, kernel = name.partition("/")
        np.testing.assert_array_equal(getattr(model.get_layer(layer), kernel).numpy(), tensor.values())
    assert record.kept_float == {} and record.model_name == "net"


def test_the_plain_model_computes_what_was_trained(finished):
    qat, model, record = finished
    np.testing.assert_array_equal(outputs(model), outputs(qat))
    plain = [layer.name for layer in model.layers if not isinstance(layer, GridActivation)]
    assert plain == [layer.name for layer in net().layers]
    grids = {layer.name.removesuffix("_quantized") for layer in model.layers if isinstance(layer, GridActivation)}
    assert grids == set(record.activations) == {"image", "stem_relu", "dw_relu", "pw_bn", "add_relu", "hidden"}


def test_the_record_is_a_file(finished, tmp_path):
    finished[2].save(tmp_path / "net.npz")
    again = CompressionRecord.load(tmp_path / "net.npz")
    assert again.activations == finished[2].activations
    np.testing.assert_array_equal(again.tensors["pw/kernel"].codes, finished[2].tensors["pw/kernel"].codes)


def test_the_file_computes_the_same(finished, tmp_path):
    _, model, record = finished
    sizes = r2keras.export.to_litert(model, tmp_path / "net.tflite", record)
    found = r2keras.export.verify(model, tmp_path / "net.tflite", (X, Y))
    assert found.passed() and found.agreement == 1
    assert {row.name: row.container_bits for row in sizes.tensors}["pw/kernel"] == 2


def test_palettes_reach_the_file(tmp_path):
    qat = trained(recipe=PALETTES)
    model, record = finalize(qat)
    np.testing.assert_array_equal(outputs(model), outputs(qat))
    assert set(record.kept_float) == {"dw/depthwise_kernel"}
    assert "min_size=40" in record.kept_float["dw/depthwise_kernel"]
    assert "soft and hard palette differ" in record.notes["hidden/kernel"]
    assert record.tensors["hidden/kernel"].indices.shape == (4, 3)
    r2keras.export.to_litert(model, tmp_path / "net.tflite", record)
    assert r2keras.export.verify(model, tmp_path / "net.tflite", X).passed()


def test_integer_operators_need_no_data_for_hidden_layers(tmp_path):
    model, record = finalize(trained(tiny(), EIGHT, input_bits=8))
    path = tmp_path / "net.tflite"
    r2keras.export.to_litert(model, path, record, activations="int8")
    assert r2keras.export.verify(model, path, X).relative_difference < 0.05
    r2keras.export.to_litert(model, path, record, activations="int8", io="int8", data=X)
    assert r2keras.export.verify(model, path, X).relative_difference < 0.05
    # The marks of the conversion are gone again.
    assert not any(getattr(layer, "marks", False) for layer in model.layers)


@pytest.mark.parametrize("bits", [2, 3])
def test_integer_operators_hold_the_codes_of_few_bits_exactly(bits, tmp_path):
    recipe = Recipe([(".*", QuantSpec(num_bits=bits, activation_bits=8, levels="mid_tread"))])
    model, record = finalize(trained(tiny(), recipe, input_bits=8))
    # Writing reads every stored code back and compares it with the record.
    sizes = r2keras.export.to_litert(model, tmp_path / "n.tflite", record, activations="int8", data=X)
    assert {row.num_bits for row in sizes.tensors} == {bits}
    assert r2keras.export.verify(model, tmp_path / "n.tflite", X).relative_difference < 0.05


def test_a_sequential_model_too(tmp_path):
    layers = [tf_keras.Input((4,)), tf_keras.layers.Dense(3, "relu", name="a"), tf_keras.layers.Dense(2, name="b")]
    recipe = Recipe([(".*", QuantSpec(num_bits=2, method="ewgs", activation_bits=4))])
    x = X.reshape(-1, 4)
    qat = applied(tf_keras.Sequential(layers), recipe, input_bits=8)
    qat(x, training=True)
    model, record = finalize(qat)
    assert [layer.name for layer in model.layers][1:] == ["a", "a_quantized", "b"]
    np.testing.assert_array_equal(outputs(model, x), outputs(qat, x))
    r2keras.export.to_litert(model, tmp_path / "s.tflite", record)
    assert r2keras.export.verify(model, tmp_path / "s.tflite", x).passed()


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="'image' has no range yet"):
        finalize(applied(tiny(), EIGHT, input_bits=8))
    with pytest.raises(ValueError, match="no compressed kernel"):
        finalize(tiny())
    with pytest.raises(TypeError, match="quantize_apply returned"):
        finalize("model")
    stock = quantization.quantize_apply(quantization.quantize_annotate_model(tiny()))
    with pytest.raises(ValueError, match=r"is quantized by a Default8Bit.*LowBitScheme"):
        finalize(stock)


def test_a_weight_that_is_not_finite_is_named():
    qat = apply(annotate(tiny(), EIGHT), scheme=LowBitScheme(EIGHT))
    qat(X, training=True)
    kernel = qat.get_layer("quant_head")._weight_vars[0][0]
    kernel.assign(kernel * np.nan)
    with pytest.raises(ValueError, match="head/kernel has 24 NaN"):
        finalize(qat)


def test_wrapped_models_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match=r"r2keras\.tfmot\.finalize"):
        r2keras.export.to_litert(applied(tiny(), EIGHT), tmp_path / "net.tflite")
