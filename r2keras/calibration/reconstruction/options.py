"""Settings of block-wise reconstruction."""

from __future__ import annotations

import dataclasses

from r2keras._util.errors import check_int, check_number, check_positive, invalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Settings of block-wise reconstruction.

    Args:
        epochs: passes over the data for each block, at least 0.
        end_to_end_epochs: passes over the data for the whole model afterwards, at least 0; 0 leaves this part out.
        batch_size: samples per step.
        learning_rate: the learning rate of Adam for scales, as a share of themselves, and for biases, as a share of
            their root mean square, at the first step; it decays to 0 along a cosine. Above 0.
        code_rate: the learning rate of the codes, in steps of the grid per unit of `learning_rate`; 0 keeps them. A
            code is rounded from a float that training moves, and small rates keep it from moving to and fro.
        block_kernels: number of kernels below which a part of the model is joined with the next one, at least 1.
        drop: probability with which an activation stays float during training (QDrop), from 0 to 0.99.
        seed: seed of the order of the samples and of `drop`.

    Raises:
        ValueError: a number out of range, or no epochs at all.

    Example:

    >>> ReconstructOptions(end_to_end_epochs=0).end_to_end_epochs
    0
    """

    epochs: int = 2
    end_to_end_epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 0.01
    code_rate: float = 0.2
    block_kernels: int = 2
    drop: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 0, "end_to_end_epochs": 0, "batch_size": 1, "block_kernels": 1, "seed": 0}
        for name, minimum in least.items():
            object.__setattr__(self, name, check_int(name, getattr(self, name), minimum, None))
        check_positive("learning_rate", self.learning_rate)
        check_number("code_rate", self.code_rate, 0.0, 100.0)
        check_number("drop", self.drop, 0.0, 0.99)
        if not self.epochs and not self.end_to_end_epochs:
            raise ValueError(invalid("epochs", "at least 1 if end_to_end_epochs is 0", 0))
