"""A run of block-wise reconstruction over all blocks of a model."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from r2keras._models import rebuild, values
from r2keras._models.call_kinds import NORMS
from r2keras._models.cuts import Key, tensors_of
from r2keras._models.keras_internals import history
from r2keras._models.walk import QUANTIZED_SUFFIX, Kernel, ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras._util.progress import Update
from r2keras.calibration.reconstruction.blocks import blocks_of
from r2keras.calibration.reconstruction.learned import OFFSETS, LearnedWeights, PassingGrid
from r2keras.calibration.reconstruction.options import ReconstructOptions
from r2keras.calibration.reconstruction.training import Task, divergence, mean_loss, squared, train
from r2keras.compression.distill import ends_in_softmax
from r2keras.compression.integer_biases import round_biases
from r2keras.layers.quantize_activation import GridActivation
from r2keras.layers.recurrent.layers import QuantizedRNN
from r2keras.record import CompressionRecord, QuantizedTensor

# Bytes of the inputs and targets of a block, above which it trains on fewer samples.
MEMORY_LIMIT = 2**30
# One in so many samples is not trained on, and decides whether the training was of use.
HELD_OUT = 8


class Run:
    """One run: the float model, and a copy of the quantized one with learned layers.

    Args:
        view: the float model.
        small: the quantized model.
        record: the codes and scales of `small`.
        arrays: the inputs.
        options: settings of the training.
    """

    def __init__(
        self,
        view: ModelView,
        small: ModelView,
        record: CompressionRecord,
        arrays: list[np.ndarray],
        options: ReconstructOptions,
    ):
        self.small, self.record, self.options = small, record, options
        self.rng = np.random.default_rng(options.seed)
        # Samples come ordered by their values; the first ones are to be like all of them.
        order = self.rng.permutation(len(arrays[0]))
        self.arrays = [array[order] for array in arrays]
        self.notes: dict[str, str] = {}
        uses = Counter(call.path for call in small.graph.calls)
        kernels = self._learned_kernels(uses)
        floats = {kernel.full_name: values.to_numpy(kernel.variable) for kernel in view.kernels}
        student = rebuild.rebuild(small, lambda path, layer: self._layer(path, layer, kernels, floats, uses))
        self.learned = dict(view_of(student).instances(LearnedWeights))
        self.grids = [layer for _, layer in view_of(student).instances(PassingGrid)]
        for _, layer in view_of(student).layers:
            layer.trainable = False
        self._set_learning(self.learned.values(), False)
        self.has_masks = any(_masks(layer) for _, layer in small.layers)
        # A copy, because parts of a model leave traces in its layers.
        self.teacher, self.student = _functional(rebuild.rebuild(view)), _functional(student)
        self.teacher_tensors, self.student_tensors = tensors_of(self.teacher), tensors_of(self.student)
        counts = Counter(path.partition("/")[0] for path, own in kernels.items() for _ in own)
        self.blocks = blocks_of(self.teacher, counts, options.block_kernels, self._is_cut)

    def train(self, update: Update) -> None:
        """Trains every block, then the whole model."""
        options = self.options
        done = len(self.blocks) if options.epochs else 0
        if options.epochs:
            self._train_blocks(update)
        if options.end_to_end_epochs:
            update(done, "Reconstruction, whole model")
            wanted = _run(self.teacher, self.arrays, options.batch_size)
            self._trained(self.learned, self.student, self.arrays, wanted, options.end_to_end_epochs, is_end=True)
        update(done + 1, "Reconstruction")

    def _train_blocks(self, update: Update) -> None:
        """Trains the blocks in their order, each on the outputs of those before it."""
        sources = list(self.student.inputs), list(self.teacher.inputs)
        count = self._count()
        given = wanted = [array[:count] for array in self.arrays]
        for number, block in enumerate(self.blocks):
            update(number, f"Reconstruction, block {number + 1} of {len(self.blocks)}")
            ends = self._ends(block.output)
            part, teacher = (keras.Model(*pair) for pair in zip(sources, ends, strict=True))
            wanted = _run(teacher, wanted, self.options.batch_size)
            layers = {path: layer for path, layer in self.learned.items() if path.partition("/")[0] in block.layers}
            if any(layer.tensors for layer in layers.values()):
                is_end = block.output is None
                ratio = self._trained(layers, part, given, wanted, self.options.epochs, is_end=is_end)
                self._note(layers, ratio, count)
            given = _run(part, given, self.options.batch_size)
            sources = ends

    def result(self) -> tuple[ModelView, CompressionRecord]:
        """Returns a copy of the quantized model with the learned values, and its record."""
        copy = view_of(rebuild.rebuild(self.small))
        tensors = dict(self.record.tensors)
        for path, learned in self.learned.items():
            weights = dict(copy.weights_in(path))
            for name, tensor in learned.learned_tensors().items():
                tensors[tensor.name] = tensor
                weights[name].assign(tensor.values())
            for name, offset in learned.learned_offsets().items():
                weights[name].assign(offset)
        notes = dict(self.record.notes)
        for name, note in self.notes.items():
            notes[name] = f"{notes[name]}; {note}" if name in notes else note
        record = dataclasses.replace(self.record, tensors=tensors, notes=notes)
        round_biases(copy, record)
        return copy, record

    def _learned_kernels(self, uses: Counter[str]) -> dict[str, list[Kernel]]:
        """Returns the kernels to learn by the paths of their layers; notes why others stay."""
        shared = self.small.tied_sources | {tie.path for tie in self.small.ties}
        found: dict[str, list[Kernel]] = {}
        for kernel in self.small.kernels:
            tensor = self.record.tensors.get(kernel.full_name)
            if tensor is None:
                continue
            if not isinstance(tensor, QuantizedTensor):
                reason = "it has a palette"
            elif isinstance(self.small.layers_by_path[kernel.path], QuantizedRNN):
                reason = "its layer quantizes its state"
            elif kernel.path in shared:
                reason = "its layer shares weights"
            elif uses[kernel.path] > 1:
                reason = f"its layer is called {uses[kernel.path]} times"
            else:
                found.setdefault(kernel.path, []).append(kernel)
                continue
            self.notes[kernel.full_name] = f"Reconstruction: unchanged, because {reason}"
        if not found:
            received = f"a record in which {'; '.join(f'{n}: {t}' for n, t in self.notes.items()) or 'no kernel is'}"
            fix = "Leave the step reconstruct out"
            raise ValueError(invalid_part("record", "a kernel on a uniform grid that can be learned", received, fix))
        return found

    def _layer(
        self,
        path: str,
        layer: keras.Layer,
        kernels: dict[str, list[Kernel]],
        floats: dict[str, np.ndarray],
        uses: Counter[str],
    ) -> keras.Layer | None:
        """Returns what stands for a layer of the quantized model; None for a plain copy."""
        if isinstance(layer, GridActivation):
            return PassingGrid(layer, self.options.drop, self.options.seed)
        own = kernels.get(path, [])
        if not own and not (type(layer).__name__ in NORMS and uses[path] == 1):
            return None
        weights = dict(self.small.weights_in(path))
        tensors = [(kernel.name, self.record.tensors[kernel.full_name]) for kernel in own]
        return LearnedWeights(
            rebuild.copy_layer(layer),
            {name: tensor for name, tensor in tensors if isinstance(tensor, QuantizedTensor)},
            {kernel.name: floats[kernel.full_name] for kernel in own},
            {name: values.to_numpy(weights[name]) for name in OFFSETS if name in weights},
            self.options.code_rate,
        )

    def _is_cut(self, key: Key) -> bool:
        """Whether a block may end at a tensor of the float model: the quantized one has it after the same layer."""
        other = self.student_tensors.get(key)
        if other is None or self.has_masks or not keras.backend.is_float_dtype(other.dtype):
            return False
        layers = [history(tensor)[0] for tensor in (self.teacher_tensors[key], other)]
        plain = [layer.layer if isinstance(layer, LearnedWeights) else layer for layer in layers]
        first, second = (getattr(layer, "activation", None) for layer in plain)
        return first == second

    def _ends(self, key: Key | None) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
        """Returns the tensors of both models, the student's first, at which a block ends; None is their end."""
        if key is None:
            return list(self.student.outputs), list(self.teacher.outputs)
        rounded = (key[0] + QUANTIZED_SUFFIX, key[1], 0)
        is_rounded = key[2] == 0 and rounded in self.student_tensors
        return [self.student_tensors[rounded if is_rounded else key]], [self.teacher_tensors[key]]

    def _trained(
        self,
        layers: dict[str, LearnedWeights],
        part: keras.Model,
        given: list[np.ndarray],
        wanted: list[np.ndarray],
        epochs: int,
        *,
        is_end: bool,
    ) -> float:
        """Trains the layers of a part of the model; returns the loss on unseen samples after it against before."""
        losses = [squared(array) for array in wanted]
        if is_end:
            are_shares = [ends_in_softmax(self.teacher, number) for number in range(len(wanted))]
            losses = [divergence if is_share else loss for is_share, loss in zip(are_shares, losses, strict=True)]
        task, arrays, batch_size = Task(part, losses), [*given, *wanted], self.options.batch_size
        kept = len(arrays[0]) // HELD_OUT
        learned, unseen = [array[kept:] for array in arrays], [array[:kept] for array in arrays]
        before = mean_loss(task, unseen if kept else learned, batch_size)
        state = [(variable, ops.convert_to_numpy(variable)) for layer in layers.values() for variable in layer.learned]
        self._set_learning(layers.values(), True)
        rate = self.options.learning_rate
        train(task, learned, epochs=epochs, batch_size=batch_size, learning_rate=rate, rng=self.rng)
        self._set_learning(layers.values(), False)
        after = mean_loss(task, unseen if kept else learned, batch_size)
        if not after < before:
            after = before
            for variable, value in state:
                variable.assign(value)
        return after / before if before > 0 else 1.0

    def _set_learning(self, layers: Iterable[LearnedWeights], learns: bool) -> None:
        """Sets whether layers learn, and whether activations pass unrounded at random."""
        for layer in layers:
            layer.learn(learns)
        for grid in self.grids:
            grid.drops(learns)

    def _count(self) -> int:
        """Returns the number of samples to train blocks on: all, or as many as the memory limit allows."""
        start = sum(map(_size, self.student.inputs))
        largest = 0
        for block in self.blocks:
            end = sum(map(_size, self._ends(block.output)[0]))
            # Each model has its own.
            largest, start = max(largest, 2 * (start + end)), end
        count, limit = len(self.arrays[0]), max(1, MEMORY_LIMIT // max(1, largest))
        if count > limit:
            warnings.warn(
                f"Blocks are trained on {limit} of {count} samples, because the activations of all would take more "
                f"than {MEMORY_LIMIT / 2**30:g} GiB. Expected fewer samples, or smaller ones.",
                UserWarning,
                stacklevel=5,
            )
        return min(count, limit)

    def _note(self, layers: dict[str, LearnedWeights], ratio: float, count: int) -> None:
        """Notes the result of a block for each of its kernels."""
        share = "" if count == len(self.arrays[0]) else f", on {count} samples"
        for layer in layers.values():
            for tensor in layer.tensors.values():
                self.notes[tensor.name] = f"Reconstruction: error of the block {ratio:.3f} of that before{share}"


def _functional(model: keras.Model) -> keras.Model:
    """Returns a Functional model of the same layers."""
    return keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model


def _masks(layer: keras.Layer) -> bool:
    """Whether a layer makes a mask, which only a whole model passes on."""
    return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))


def _size(tensor: keras.KerasTensor) -> int:
    """Returns the bytes of a tensor per sample; unknown axes count as 1."""
    return 4 * math.prod(size or 1 for size in tensor.shape[1:])


def _run(model: keras.Model, arrays: list[np.ndarray], batch_size: int) -> list[np.ndarray]:
    """Returns the outputs of a model for all samples, batch by batch."""
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(arrays[0]), batch_size):
        batch = [ops.convert_to_tensor(array[start : start + batch_size]) for array in arrays]
        outputs = keras.tree.flatten(model(batch if len(batch) > 1 else batch[0], training=False))
        parts.append([np.asarray(ops.convert_to_numpy(output), np.float32) for output in outputs])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]
