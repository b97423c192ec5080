"""Reading results.json again: the record of an earlier run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradserve.parameters.method import Method
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import CLEAN, Plan, Trial
from gradserve.robustness.record import Picture, Record, Shard, Whole, trial_name
from gradserve.robustness.results import SCHEMA

NAME = "results.json"


class CannotRead(ValueError):
    """A file that is not the results.json of a run, or of another version."""


def document(path: Path) -> dict[str, Any]:
    """The document of a file, or of the results.json of a folder. Raises CannotRead."""
    path = path / NAME if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotRead(f"there is no {path}; a run writes it when it ends") from None
    except (OSError, ValueError) as error:
        raise CannotRead(f"{path} is not the {NAME} of a robustness check: {error}") from error
    if not isinstance(found, dict) or "verdict" not in found:
        raise CannotRead(f"{path} is not the {NAME} of a robustness check")
    schema = found.get("schema")
    if schema is None:
        raise CannotRead(f"{path} is too old: it lacks the outcomes of its pictures; measure that model again")
    if schema != SCHEMA:
        raise CannotRead(f"{path} has schema {schema}, and this version of gradserve reads schema {SCHEMA}")
    return found


def record(path: Path) -> Record:
    """The record of the run that wrote a file, or the results.json of a folder. Raises CannotRead."""
    return recorded(path, document(path))


def recorded(path: Path, found: Mapping[str, Any]) -> Record:
    """The record in the document of a file. Raises CannotRead."""
    try:
        return _recorded(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise CannotRead(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _recorded(found: Mapping[str, Any]) -> Record:
    trials = [_trial(each) for each in found["trials"]]
    plan = Plan(
        model=found["model"],
        digests=found["weights"],
        heads=found["heads"],
        trials=trials,
        seed=found["seed"],
        preprocess=found["preprocess"],
        precision=found["precision"],
        reference=found["reference"],
    )
    keys = {CLEAN: CLEAN, **{trial_name(trial, plan.model): trial.key for trial in trials}}
    pictures = [
        Picture(each["id"], each["label"], each["class_name"], each["digest"], each.get("group"))
        for each in found["outcomes"]
    ]
    outcomes = [
        _outcome(each["id"], keys[name], values)
        for each in found["outcomes"]
        for name, values in each["trials"].items()
    ]
    column = found["groups"]["column"] if found["groups"] else ""
    shard = Shard(**found["shard"]) if found["shard"] else None
    return Record(plan, pictures, outcomes, column, shard, Whole(**found["set"]) if shard else None)


def _trial(found: Mapping[str, Any]) -> Trial:
    """A trial with the same name, budget and key; the values of its settings are texts."""
    arguments = {**found["settings"], **({} if found["eps"] is None else {"eps": found["eps"]})}
    method = Method.named(found["name"])
    return Trial(found["name"], found["level"], found["model"], method, arguments, found["natural"])


def _outcome(id: str, trial: str, found: Mapping[str, Any]) -> Outcome:
    texts = {name: tuple(found.get(name, ())) for name in ("warnings", "reasons")}
    return Outcome(id, trial, **{**found, **texts})
