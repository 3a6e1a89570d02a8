"""The operator that Arm's compiler Vela puts in place of those that an Ethos-U NPU runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# The name of the custom operator.
ETHOS_U = b"ethos-u"
# Its first inputs: commands, constants, and two memories that nothing computes. The data follow.
SCRATCH = (2, 3)
FIRST_DATA = 4
SOURCE_FIX = "Use the file from which it was compiled"


def is_ethos_u(file: ModelT, operator: OperatorT) -> bool:
    """Whether an operator runs on an Ethos-U NPU."""
    return file.operatorCodes[operator.opcodeIndex].customCode == ETHOS_U


def is_compiled(file: ModelT) -> bool:
    """Whether Vela compiled a file, so that it runs on an Ethos-U NPU alone."""
    return any(is_ethos_u(file, operator) for graph in file.subgraphs for operator in graph.operators)


def compiled_error(name: str) -> ValueError:
    """Returns the error for a compiled file that is to run here."""
    return ValueError(f"{name} is compiled for Ethos-U, and runs on that NPU only. {SOURCE_FIX}.")
