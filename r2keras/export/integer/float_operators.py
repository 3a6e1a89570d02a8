"""Operators of an integer file that stay float, and which of them were to be expected."""

from __future__ import annotations

import dataclasses

NO_GRID = "its output has no grid in the record"
FLOAT_INPUT = "its input is float"
LAST_SOFTMAX = "its output is a float output of the model"
ROUNDED_ROWS = "its rows are rounded at run time"
# Of recurrent layers: LiteRT has no loop of integer operators.
RECURRENT_KINDS = {"WHILE", "REVERSE_V2"}


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """An operator that stays float.

    Args:
        position: number of integer operators before it.
        kind: its kind.
        text: the operator, its weight and the reason.
        reason: the reason alone.
    """

    position: int
    kind: str
    text: str
    reason: str


def unexpected(operators: list[FloatOperator], count: int) -> list[str]:
    """Returns the operators that should not be float, each with its reason.

    Expected are those at the end of the model, and what follows products whose rows are rounded at run time.

    Args:
        operators: all of them.
        count: number of integer operators.
    """
    tail = {op.reason for op in operators if op.position == count}
    tail_is_expected = tail <= {NO_GRID, FLOAT_INPUT, LAST_SOFTMAX}
    reasons, kinds = set[str](), set[str]()
    if any(op.reason == ROUNDED_ROWS for op in operators):
        reasons, kinds = {ROUNDED_ROWS, FLOAT_INPUT}, RECURRENT_KINDS
    others = [op for op in operators if op.reason not in reasons and op.kind not in kinds]
    return [op.text for op in others if not (tail_is_expected and op.position == count)]
