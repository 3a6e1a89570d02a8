"""Models that TFMOT clustered: their files become small, and compute the same."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras

import r2keras
from r2keras.export import LiteRTModel, to_litert


@pytest.fixture(scope="module")
def clustered():
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    parts = [layers.Conv2D(16, 3, activation="relu", name="conv"), layers.Flatten(), layers.Dense(10, name="head")]
    model = tf_keras.Sequential([layers.Input((8, 8, 3)), *parts])
    api = tfmot.clustering.keras
    options = {"number_of_clusters": 16, "cluster_centroids_init": api.CentroidInitialization.LINEAR}
    return api.strip_clustering(api.cluster_weights(model, **options))


def test_the_file_is_small_and_computes_the_same(clustered, tmp_path):
    record = r2keras.recover(clustered)
    assert {name: tensor.spec.num_bits for name, tensor in record.tensors.items()} == {
        "conv/kernel": 4,
        "head/kernel": 4,
    }
    large = to_litert(clustered, tmp_path / "float.tflite").file_bytes
    small = to_litert(clustered, tmp_path / "small.tflite", record).file_bytes
    assert small < large / 4
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    expected = clustered.predict(x, verbose=0)
    np.testing.assert_allclose(LiteRTModel(tmp_path / "small.tflite").predict(x), expected, atol=1e-5)
