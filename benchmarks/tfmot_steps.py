"""Training steps of tf_keras counterparts of the nets: float, and quantized by TFMOT. Run in a separate process.

TFMOT's default quantizes weights and activations. The weights-only variant has TFMOT's weight quantizers on the kernels
that `r2keras.prepare` quantizes, and no other quantizers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from step_plan import NUM_CLASSES, OWN_CONFIG, Job
from tf_keras import layers

quantization = tfmot.quantization.keras
PYTORCH_EPSILON = 1e-5


class NoQuantization(quantization.QuantizeConfig):
    """Quantizes nothing."""

    def get_weights_and_quantizers(self, layer):
        return []

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        pass

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class WeightsOnly(NoQuantization):
    """Quantizes kernels to 8 bits like TFMOT's default: per channel for convolutions, per tensor for other layers."""

    def get_weights_and_quantizers(self, layer):
        per_axis = isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)
        quantizer = quantization.quantizers.LastValueQuantizer(
            num_bits=8, per_axis=per_axis, symmetric=True, narrow_range=True
        )
        return [(getattr(layer, _kernel_name(layer)), quantizer)]

    def set_quantize_weights(self, layer, quantize_weights):
        setattr(layer, _kernel_name(layer), quantize_weights[0])


class PadChannels(layers.Layer):
    """Pads the channels with zeros on both sides: the shortcut of `r2keras.workloads.nets.resnet20`."""

    def __init__(self, added: int, **kwargs):
        super().__init__(**kwargs)
        self.added = added

    def call(self, inputs):
        return tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [self.added, self.added]])

    def get_config(self):
        return {**super().get_config(), "added": self.added}


def build(job: Job, variant: str) -> tf_keras.Model:
    """Returns the compiled model of a variant; the control is a second copy of the baseline."""
    tf_keras.utils.set_random_seed(0)
    model, variant = NETS[job.net](job.image), job.model_of(variant)
    if variant == "tfmot_8bit":
        model = _apply(model, lambda layer: NoQuantization() if isinstance(layer, PadChannels) else None)
    elif variant == "tfmot_8bit_weights_only":
        model = _apply(model, lambda layer: WeightsOnly() if _has_kernel(layer) else NoQuantization())
    elif variant == OWN_CONFIG:
        model = _apply_r2keras(model)
    model.compile(
        tf_keras.optimizers.SGD(1e-3, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def training_step(model: tf_keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Returns one training step as in `fit`, on the same batch every time; it has already run twice."""
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    function = model.make_train_function()

    def step() -> float:
        return float(function(batches)["loss"])

    step()
    step()
    return step


def cnn(image: tuple[int, int, int]) -> tf_keras.Model:
    """Returns the counterpart of `nets.cnn`."""
    inputs = x = layers.Input(image)
    x = _conv_bn_relu(x, 16)
    for filters in (32, 64):
        x = _conv_bn_relu(x, filters, stride=2)
    return _with_head(inputs, x)


def resnet20(image: tuple[int, int, int]) -> tf_keras.Model:
    """Returns the counterpart of `nets.resnet20`."""
    inputs = x = layers.Input(image)
    x = _conv_bn_relu(x, 16, epsilon=PYTORCH_EPSILON)
    for block in range(9):
        x = _block(x, 16 * 2 ** (block // 3), 2 if block in (3, 6) else 1)
    return _with_head(inputs, x)


def mobilenet_v2_035(image: tuple[int, int, int]) -> tf_keras.Model:
    """Returns the counterpart of `nets.mobilenet_v2_035`."""
    return tf_keras.applications.MobileNetV2(
        image, alpha=0.35, weights=None, classes=NUM_CLASSES, classifier_activation=None
    )


NETS = {"cnn": cnn, "resnet20": resnet20, "mobilenet_v2_035": mobilenet_v2_035}


def _apply(model: tf_keras.Model, config_of: Callable) -> tf_keras.Model:
    """Quantizes every layer by TFMOT with the config that `config_of` returns, or TFMOT's default if that is None."""

    def annotate(layer):
        config = config_of(layer)
        return layer if config is None else quantization.quantize_annotate_layer(layer, config)

    with quantization.quantize_scope({c.__name__: c for c in (NoQuantization, WeightsOnly, PadChannels)}):
        annotated = tf_keras.models.clone_model(model, clone_function=annotate)
        return quantization.quantize_apply(quantization.quantize_annotate_model(annotated))


def _apply_r2keras(model: tf_keras.Model) -> tf_keras.Model:
    """Quantizes the same tensors as TFMOT's default, inputs included, with the configs of r2keras."""
    from r2keras import QuantSpec, Recipe
    from r2keras import tfmot as r2

    recipe = Recipe([(".*", QuantSpec(num_bits=8, range="min_max", activation_bits=8))])
    return quantization.quantize_apply(r2.annotate(model, recipe), scheme=r2.LowBitScheme(recipe, input_bits=8))


def _has_kernel(layer) -> bool:
    return isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))


def _kernel_name(layer) -> str:
    return "depthwise_kernel" if isinstance(layer, layers.DepthwiseConv2D) else "kernel"


def _block(x, filters: int, stride: int):
    """Adds two 3x3 convolutions around a shortcut without parameters."""
    shortcut, padding = x, "same"
    if stride > 1:
        shortcut = PadChannels((filters - x.shape[-1]) // 2)(layers.MaxPooling2D(1, stride)(x))
        x, padding = layers.ZeroPadding2D(1)(x), "valid"
    x = _conv_bn_relu(x, filters, stride=stride, padding=padding, epsilon=PYTORCH_EPSILON)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(epsilon=PYTORCH_EPSILON)(x)
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _conv_bn_relu(x, filters: int, *, stride: int = 1, padding: str = "same", epsilon: float = 1e-3):
    """Adds a 3x3 convolution, batch norm and ReLU."""
    x = layers.Conv2D(filters, 3, stride, padding, use_bias=False, kernel_initializer="he_normal")(x)
    return layers.ReLU()(layers.BatchNormalization(epsilon=epsilon)(x))


def _with_head(inputs, x) -> tf_keras.Model:
    """Adds global average pooling and a dense layer of logits."""
    return tf_keras.Model(inputs, layers.Dense(NUM_CLASSES)(layers.GlobalAveragePooling2D()(x)))
