"""What the trials of a study hold besides Optuna's own fields: their names, and a check of what a journal says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2keras._util.json_text import member
from r2keras._util.numeric import as_int, as_number
from r2keras._util.shown import shown

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

# The folder of the saved models, within the folder of the study.
MODELS = "models"
PARAMETERS = {"method", "num_bits", "width"}
_TEXTS = ("label", "failed", "given_up")


def model_name(number: int) -> str:
    """Returns the name of the saved model of a trial, within the folder of the study.

    >>> model_name(2)
    'models/trial2.keras'
    """
    return f"{MODELS}/trial{number}.keras"


def check_trials(study: Study) -> None:
    """Raises ValueError for a study whose trials are not those of a search, as in a damaged journal."""
    if [direction.name for direction in study.directions] != ["MAXIMIZE", "MINIMIZE"]:
        raise ValueError("it does not maximize quality and minimize bytes")
    for trial in study.get_trials(deepcopy=False):
        where = f"trial {trial.number}"
        if trial.params and set(trial.params) != PARAMETERS:
            raise ValueError(f"{where} has the parameters {shown(sorted(trial.params))}")
        _check_attributes(trial, where)


def _check_attributes(trial: FrozenTrial, where: str) -> None:
    """Raises for an attribute that is not of its type, and for a missing one."""
    attributes: dict[str, Any] = trial.user_attrs
    for name in _TEXTS:
        member({name: "", **attributes}, name, str, where)
    for name in ("value", "seconds"):
        if attributes.get(name) is not None:
            member(attributes, name, float, where)
    for value in member({"values": [], **attributes}, "values", list, where):
        if as_number(value) is None:
            raise ValueError(f"`values` of {where} has {shown(value)}, which is not a number")
    # A saved model is deleted once it is dominated: no other file may be named.
    if attributes.get("model") not in (None, model_name(trial.number)):
        raise ValueError(f"`model` of {where} is not {model_name(trial.number)!r}: {shown(attributes['model'])}")
    owner = attributes.get("owner", ["", 1])
    pid = as_int(owner[1]) if isinstance(owner, list) and len(owner) == 2 and isinstance(owner[0], str) else None
    # `os.kill` takes others for groups of processes.
    if pid is None or not 0 < pid < 2**31:
        raise ValueError(f"`owner` of {where} is not a host and a process: {shown(owner)}")
    if "label" in attributes:
        member(attributes, "bytes", int, where)
    if trial.state.name == "COMPLETE":
        member(attributes, "label", str, where)
        member(attributes, "value", float, where)
        if len(trial.values or ()) != 2 or not trial.params:
            raise ValueError(f"{where} is complete without a result")
