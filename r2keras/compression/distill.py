"""Training of a compressed model towards the outputs of its float model, without labels or with some."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._models.keras_internals import history
from r2keras._models.values import check_finite
from r2keras._util.errors import check_int, check_number, check_positive, invalid, invalid_part

# Arrays, or batches of them.
Data = np.ndarray | Sequence | Mapping | Iterable
SMALLEST = 1e-7
# Batches of one pass over data without a length; more are taken for endless.
LONGEST = 10**6


def distill(
    student: keras.Model,
    teacher: keras.Model,
    data: Data,
    *,
    labels: np.ndarray | None = None,
    label_share: float = 0.3,
    features: Sequence[str | tuple[str, str]] = (),
    feature_weight: float = 1.0,
    temperature: float = 1.0,
    epochs: int = 10,
    batch_size: int = 64,
    steps_per_epoch: int | None = None,
    learning_rate: float = 1e-3,
    optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> keras.callbacks.History:
    """Trains a student towards the outputs of a teacher; the student is changed in place.

    The loss of a classification, an output of two or more classes per sample, is the cross-entropy with the teacher's
    probabilities `p`, `-T^2 sum(p log q)`, both softened by the temperature `T`; of any other output, the squared
    difference divided by the variance of the teacher's outputs in the first batch. With labels, the targets are
    `label_share * one_hot + (1 - label_share) * p`. Each feature adds the squared difference of two layers' outputs,
    divided by the teacher's variance, times `feature_weight`.

    Args:
        student: a model of `r2keras.prepare`, or any other with the teacher's inputs and output shapes.
        teacher: the float model, which does not change. It runs in inference mode.
        data: inputs: array, list of arrays, or dict by input name; or batches of them, or of pairs `(inputs, labels)`,
            from a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that returns an iterator.
        labels: class numbers, one per sample, if `data` are arrays; None trains without labels.
        label_share: share of the labels in the targets, from 0 to 1.
        features: names of layers whose outputs are matched as well, or pairs `(student's, teacher's)`.
        feature_weight: weight of each feature in the loss.
        temperature: above 1, the smaller probabilities count more.
        epochs: passes over the data.
        batch_size: samples per step, if `data` are arrays.
        steps_per_epoch: batches per epoch; needed if `data` are endless.
        learning_rate: of Adam at the first step; it decays to 0 along a cosine.
        optimizer: another optimizer, which has its own learning rate.
        callbacks: as in `fit`.
        verbose: as in `fit`.

    Returns:
        What `fit` returns.

    Raises:
        TypeError: a model is not a Keras model.
        ValueError: outputs or labels do not fit; a layer is missing; the data are empty, endless or can be read only
            once; the teacher returns NaN or infinity.

    Example:

    >>> import r2keras
    >>> keras.utils.set_random_seed(0)
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="head")])
    >>> student = r2keras.prepare(teacher, r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=2))]))
    >>> history = distill(student, teacher, np.eye(4, dtype=np.float32), epochs=2, verbose=0)
    >>> len(history.history["loss"])
    2

    Source: Hinton et al., arXiv 1503.02531, section 2; Romero et al., arXiv 1412.6550, equation 3 (features).
    """
    for name, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, keras.Model):
            raise TypeError(invalid_part(name, "a Keras model", str(type(model))))
    epochs, batch_size = check_int("epochs", epochs, 1, None), check_int("batch_size", batch_size, 1, None)
    check_number("label_share", label_share, 0.0, 1.0)
    for name, value in (("temperature", temperature), ("learning_rate", learning_rate)):
        check_positive(name, value)
    _check_outputs(student, teacher)
    pairs = [(name, name) if isinstance(name, str) else tuple(name) for name in features]
    trained = _with_features(student, [pair[0] for pair in pairs], "student")
    watched = _with_features(teacher, [pair[1] for pair in pairs], "teacher")
    targets = _Targets(watched, len(teacher.outputs), temperature, label_share)
    batches, steps = _batches(data, labels, batch_size, steps_per_epoch, targets)
    if optimizer is None:
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps))
    losses = targets.losses(next(batches(0)), feature_weight)
    # A Functional model passes lists of targets to lists of losses; a single one goes without.
    trained.compile(optimizer, losses if len(losses) > 1 else losses[0])
    stream = (batch for epoch in range(epochs) for batch in batches(epoch))
    settings: dict[str, Any] = {"steps_per_epoch": steps, "callbacks": list(callbacks), "verbose": verbose}
    return trained.fit(stream, epochs=epochs, shuffle=False, **settings)


class _Targets:
    """The teacher's outputs as targets.

    Args:
        teacher: the teacher, with its features as further outputs.
        num_outputs: number of its own outputs.
        temperature: see `distill`.
        label_share: see `distill`.
    """

    def __init__(self, teacher: keras.Model, num_outputs: int, temperature: float, label_share: float):
        self.teacher, self.num_outputs = teacher, num_outputs
        self.temperature, self.label_share = temperature, label_share
        outputs = teacher.outputs[:num_outputs]
        self.are_classes = [len(tensor.shape) == 2 and (tensor.shape[1] or 0) > 1 for tensor in outputs]
        self.give_logits = [not ends_in_softmax(teacher, number) for number in range(num_outputs)]

    def of(self, inputs: Any, labels: np.ndarray | None) -> list[np.ndarray]:
        """Returns the targets of one batch."""
        found = keras.tree.flatten(self.teacher(inputs, training=False))
        outputs = [np.asarray(keras.ops.convert_to_numpy(output), np.float32) for output in found]
        for number, output in enumerate(outputs):
            check_finite(f"output {number} of the teacher", output)
        for number, is_class in enumerate(self.are_classes):
            if is_class:
                outputs[number] = self._softened(outputs[number], self.give_logits[number])
        if labels is not None:
            one_hot = np.eye(outputs[0].shape[1], dtype=np.float32)[_class_numbers(labels, outputs[0])]
            outputs[0] = self.label_share * one_hot + (1 - self.label_share) * outputs[0]
        return outputs

    def losses(self, batch: tuple[Any, Any], feature_weight: float) -> list[Callable]:
        """Returns the loss of each output, with the scale of the squared ones from a batch."""
        _, targets = batch
        listed = targets if isinstance(targets, (list, tuple)) else [targets]
        losses: list[Callable] = []
        for number, target in enumerate(listed):
            if number < self.num_outputs and self.are_classes[number]:
                losses.append(_cross_entropy(self.give_logits[number], self.temperature))
            else:
                weight = 1.0 if number < self.num_outputs else feature_weight
                losses.append(_squared(weight / max(float(np.var(target)), SMALLEST)))
        return losses

    def _softened(self, output: np.ndarray, gives_logits: bool) -> np.ndarray:
        """Returns probabilities at the temperature."""
        logits = output if gives_logits else np.log(np.maximum(output, SMALLEST))
        powers = np.exp((logits - logits.max(axis=-1, keepdims=True)) / self.temperature)
        return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def _cross_entropy(gives_logits: bool, temperature: float) -> Callable:
    """Returns the cross-entropy with probabilities at a temperature, `-T^2 sum(p log q)`."""

    def soft_cross_entropy(targets, outputs):
        logits = outputs if gives_logits else ops.log(ops.maximum(outputs, SMALLEST))
        return -(temperature**2) * ops.sum(targets * ops.log_softmax(logits / temperature, axis=-1), axis=-1)

    return soft_cross_entropy


def _squared(scale: float) -> Callable:
    """Returns the mean squared difference of a sample, times a number."""

    def squared_difference(targets, outputs):
        difference = ops.reshape(targets - outputs, (ops.shape(outputs)[0], -1))
        return scale * ops.mean(ops.square(difference), axis=-1)

    return squared_difference


def _batches(
    data: Data,
    labels: np.ndarray | None,
    batch_size: int,
    steps_per_epoch: int | None,
    targets: _Targets,
) -> tuple[Callable[[int], Iterator[tuple[Any, Any]]], int]:
    """Returns a function that yields the batches of an epoch with their targets, and the number of its steps."""

    def with_targets(inputs: Any, classes: Any) -> tuple[Any, Any]:
        found = targets.of(inputs, None if classes is None else np.asarray(classes))
        return _for_fit(inputs), _for_fit(found)

    if _are_arrays(data):
        arrays = keras.tree.map_structure(np.asarray, data)
        count = _count(arrays, labels)
        steps = steps_per_epoch or -(-count // batch_size)

        def of_arrays(epoch: int) -> Iterator[tuple[Any, Any]]:
            order = np.random.default_rng(epoch).permutation(count)
            for step in range(steps):
                # With more steps than batches the data start over.
                start = step % -(-count // batch_size) * batch_size
                chosen = order[start : start + batch_size]
                yield with_targets(_rows(arrays, chosen), None if labels is None else np.asarray(labels)[chosen])

        return of_arrays, steps
    if labels is not None:
        raise ValueError(invalid_part("labels", "None unless `data` are arrays", "labels", "Yield pairs from `data`"))
    steps = steps_per_epoch or _length(data)

    def of_batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        read = 0
        for item in itertools.islice(_iterator(data), steps):
            inputs, classes = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            yield with_targets(keras.tree.map_structure(np.asarray, inputs), classes)
            read += 1
        if read < steps:
            fix = "Pass a dataset, or a function that returns a new iterator"
            raise ValueError(invalid_part("data", f"{steps} batches in every epoch", f"{read} in one", fix))

    return of_batches, steps


def _are_arrays(data: Data) -> bool:
    """Whether data are arrays, not batches of them."""
    if isinstance(data, Mapping):
        return True
    if isinstance(data, (list, tuple)):
        return all(isinstance(item, np.ndarray) for item in data) and bool(data)
    return hasattr(data, "shape") and hasattr(data, "__array__")


def _count(arrays: Any, labels: np.ndarray | None) -> int:
    """Returns the number of samples; raises ValueError unless all arrays have as many."""
    counts = [np.shape(array)[:1] for array in keras.tree.flatten(arrays)]
    counts += [] if labels is None else [np.shape(labels)[:1]]
    if len(set(counts)) != 1 or counts[0] in ((), (0,)):
        raise ValueError(invalid("data", "arrays, and labels, of one length, with at least one sample", counts))
    return int(counts[0][0])


def _for_fit(arrays: Any) -> Any:
    """Returns arrays in a form that generators may yield to `fit` on every backend: no lists."""
    if isinstance(arrays, (list, tuple)):
        return tuple(arrays) if len(arrays) > 1 else arrays[0]
    return arrays


def _rows(arrays: Any, chosen: np.ndarray) -> Any:
    """Returns some samples of arrays."""
    return keras.tree.map_structure(lambda array: array[chosen], arrays)


def _iterator(data: Any) -> Iterator:
    """Returns a new iterator over batches."""
    if callable(data) and not hasattr(data, "__iter__"):
        return iter(data())
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches or LONGEST))
    return iter(data)


def _length(data: Any) -> int:
    """Returns the number of batches of one pass; raises ValueError for data that are empty or endless."""
    if isinstance(data, Iterator):
        received = "an iterator, which can be read once"
        fix = "Pass a function that returns it, or steps_per_epoch and epochs=1"
        raise ValueError(invalid_part("data", "batches that can be read in every epoch", received, fix))
    if isinstance(data, keras.utils.PyDataset) and data.num_batches is not None:
        steps = data.num_batches
    elif hasattr(data, "__len__"):
        steps = len(data)
    else:
        steps = sum(1 for _ in itertools.islice(_iterator(data), LONGEST))
    if not 0 < steps < LONGEST:
        received = "none" if steps == 0 else f"{LONGEST} or more, which are taken for endless"
        raise ValueError(invalid_part("data", "a number of batches", received, "Pass steps_per_epoch"))
    return steps


def _class_numbers(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Returns labels as class numbers of one output; raises ValueError if they are not."""
    flat = labels.ravel()
    if not np.issubdtype(flat.dtype, np.integer) or flat.size != len(outputs) or outputs.ndim != 2:
        received = f"labels of type {labels.dtype} and shape {labels.shape}"
        expected = f"one class number for each of {len(outputs)} samples, and a model with one row of classes"
        raise ValueError(invalid_part("labels", expected, received))
    if flat.min() < 0 or flat.max() >= outputs.shape[1]:
        expected = f"class numbers from 0 to {outputs.shape[1] - 1}"
        raise ValueError(invalid_part("labels", expected, f"{flat.min()} to {flat.max()}"))
    return flat


def _check_outputs(student: keras.Model, teacher: keras.Model) -> None:
    """Raises ValueError unless both models take and return the same shapes."""
    for kind in ("inputs", "outputs"):
        shapes = [[tuple(tensor.shape[1:]) for tensor in getattr(model, kind)] for model in (student, teacher)]
        if shapes[0] != shapes[1]:
            expected = f"a model with the teacher's {kind}, {shapes[1]}"
            raise ValueError(invalid_part("student", expected, f"{kind} of the shapes {shapes[0]}"))


def _with_features(model: keras.Model, names: list[str], argument: str) -> keras.Model:
    """Returns a model of the same layers with the outputs of some as further outputs; the model itself without them."""
    if not names:
        return model
    known = {layer.name: layer for layer in model.layers}
    missing = [name for name in names if name not in known]
    if missing:
        received = f"{missing[0]!r}; the {argument} has {', '.join(map(repr, known))}"
        raise ValueError(invalid_part("features", f"names of layers of the {argument}", received))
    return keras.Model(model.inputs, [*model.outputs, *(known[name].output for name in names)])


def ends_in_softmax(model: keras.Model, number: int) -> bool:
    """Whether an output of a model is a softmax."""
    layer = history(model.outputs[number])[0]
    activation = getattr(layer, "activation", None)
    return isinstance(layer, keras.layers.Softmax) or activation is keras.activations.softmax
