"""The check of older runtimes: the files that it runs hold what Keras computes."""

import numpy as np

from benchmarks import older_runtimes
from r2keras.export import LiteRTModel


def test_the_files_compute_what_lies_beside_them(tmp_path, near):
    files = older_runtimes.write_files(tmp_path)
    assert [path.stem for path in files] == ["dense_w4", "dense_w2", "lstm_w4", "lstm_w2", "conv_w4", "conv_w2"]
    for path in files:
        with np.load(path.with_suffix(".npz")) as data:
            outputs = np.concatenate([LiteRTModel(path).predict(sample[None]) for sample in data["x"]])
            assert np.median(np.abs(outputs - data["y"])) < 1e-6 * np.ptp(data["y"])
