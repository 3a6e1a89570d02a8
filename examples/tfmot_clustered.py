"""A model that TFMOT clustered, as a small file: `cluster_weights`, `strip_clustering`, `r2keras.recover`, `to_litert`.

    python examples/tfmot_clustered.py                         # scikit-learn's digits, no download
    python examples/tfmot_clustered.py --clusters=4 --epochs=10 --sparsity=0.5

TFMOT leaves a clustered model with few distinct values per kernel, in float: its file is as large as before. `recover`
finds these values and records them as palettes, guessing nothing, and the file holds a table and an index per weight.
With --sparsity the weights are pruned first and their zeros are kept, as TFMOT's collaborative optimization does. Each
row is one file: bytes, bytes after gzip, accuracy. `--smoke` takes seconds; its figures are meaningless.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from absl import flags
from common_lib.flag_checks import UsageError, apply_smoke, check_positive
from common_lib.program import make_console, start

from r2keras._util.native_log import quiet_imports

FLAGS = flags.FLAGS
flags.DEFINE_integer("clusters", 16, "Distinct values per kernel, 2 to 256.")
flags.DEFINE_float("sparsity", 0.0, "Share of the weights to prune before clustering, 0 to 0.95.")
flags.DEFINE_integer("epochs", 10, "Epochs of the float training.")
flags.DEFINE_integer("cluster_epochs", 5, "Epochs of training with clusters, and of pruning.")
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.")
flags.DEFINE_string("out", "out/tfmot_clustered", "Folder for the files and results.json.")
flags.DEFINE_bool("smoke", False, "Train for one epoch; the figures are meaningless.")

SMOKE = {"epochs": 1, "cluster_epochs": 1}
BATCH_SIZE = 64


def main() -> int:
    """Trains, clusters, recovers and writes the files; returns the exit code."""
    apply_smoke(SMOKE)
    check_flags()
    with quiet_imports():
        import tf_keras

        import r2keras
        from r2keras._util.files import atomic_write_text
        from r2keras._util.tables import add_row, new_table
        from r2keras.workloads import data

    tf_keras.utils.set_random_seed(FLAGS.seed)
    digits = data.load("digits")
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    model = trained(digits)
    rows = [row_of("float", r2keras.export.to_litert(model, out / "float.tflite"), out / "float.tflite", digits)]
    clustered = clustered_model(model, digits)
    path = out / "clustered.tflite"
    rows.append(row_of("clustered by TFMOT", r2keras.export.to_litert(clustered, path), path, digits))
    record = r2keras.recover(clustered)
    path = out / "recovered.tflite"
    rows.append(row_of("recovered", r2keras.export.to_litert(clustered, path, record), path, digits))
    atomic_write_text(out / "results.json", json.dumps(rows, indent=1) + "\n")
    table = new_table("Files", [("file", False), ("bytes", True), ("gzip", True), ("accuracy", True)])
    for row in rows:
        add_row(table, [row["file"], f"{row['bytes']:,}", f"{row['gzip_bytes']:,}", f"{row['accuracy']:.2%}"])
    make_console().print(table, record)
    return 0


def check_flags() -> None:
    """Raises UsageError for flags out of range."""
    for name in ("epochs", "cluster_epochs"):
        check_positive(name, FLAGS[name].value)
    if not 2 <= FLAGS.clusters <= 256:
        raise UsageError(f"--clusters={FLAGS.clusters} should be from 2 to 256")
    if not 0 <= FLAGS.sparsity <= 0.95:
        raise UsageError(f"--sparsity={FLAGS.sparsity} should be from 0 to 0.95")


def trained(digits):
    """Returns a float classifier."""
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.Conv2D(64, 3, activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    fit(model, digits, FLAGS.epochs, 1e-3)
    return model


def clustered_model(model, digits):
    """Returns the model after TFMOT's clustering, and pruning before it if --sparsity is set."""
    import tensorflow_model_optimization as tfmot

    if FLAGS.sparsity:
        schedule = tfmot.sparsity.keras.ConstantSparsity(FLAGS.sparsity, begin_step=0, frequency=10)
        pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
        fit(pruned, digits, FLAGS.cluster_epochs, 5e-4, [tfmot.sparsity.keras.UpdatePruningStep()])
        model = tfmot.sparsity.keras.strip_pruning(pruned)
    start_at = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    options = {"number_of_clusters": FLAGS.clusters, "cluster_centroids_init": start_at}
    student = cluster.cluster_weights(model, **options, preserve_sparsity=bool(FLAGS.sparsity))
    fit(student, digits, FLAGS.cluster_epochs, 1e-4)
    return tfmot.clustering.keras.strip_clustering(student)


def fit(model, digits, epochs, learning_rate, callbacks=()) -> None:
    """Trains a model on the digits."""
    import tf_keras

    model.compile(tf_keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    model.fit(digits.x_train, digits.y_train, BATCH_SIZE, epochs, callbacks=list(callbacks), verbose=0)


def row_of(name, sizes, path, digits) -> dict:
    """Returns the figures of one file."""
    from r2keras.export import LiteRTModel

    found = LiteRTModel(path).predict(digits.x_test).argmax(axis=1)
    return {
        "file": name,
        "bytes": sizes.file_bytes,
        "gzip_bytes": len(gzip.compress(path.read_bytes(), mtime=0)),
        "accuracy": float((found == digits.y_test).mean()),
        "path": path.name,
    }


if __name__ == "__main__":
    start(main)
