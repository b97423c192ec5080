"""One run in several parts: shard K of N measures every Nth picture, and the results of all give those of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradserve.datasets import Dataset
from gradserve.robustness import reading
from gradserve.robustness.record import Picture, Record, Shard, Whole
from gradserve.robustness.results import RunStats

# What shards of one run share, by the names in results.json.
_SHARED = ("model", "weights", "heads", "reference", "seed", "preprocess", "precision", "trials", "set")


class NotOneRun(ValueError):
    """Results that are not the shards of one run: says why."""


def parsed(text: str) -> Shard:
    """The shard of "3/16". Raises ValueError."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(f"--shard is a number and how many there are, such as 3/16 of 1/16 to 16/16; not {text!r}")
    return Shard(int(number), int(of))


def cut(dataset: Dataset, shard: Shard) -> Dataset:
    """The pictures of a shard. Raises ValueError where there are fewer pictures than shards."""
    if shard.of > len(dataset):
        raise ValueError(f"--shard {shard} of {len(dataset)} pictures: there are more shards than pictures")
    return replace(dataset, examples=dataset.examples[shard.number - 1 :: shard.of])


def merged(folders: Sequence[Path]) -> tuple[Record, RunStats]:
    """The record of the run whose shards wrote these folders, and what they cost. Raises NotOneRun and CannotRead."""
    if not folders:
        raise NotOneRun("--merge needs the folders of all shards, such as --merge out-*/")
    found = {str(folder): reading.document(folder) for folder in folders}
    records = {name: reading.recorded(Path(name), each) for name, each in found.items()}
    _check_settings(found)
    parts = _by_number(records)
    first = next(iter(records.values()))
    pictures: list[Picture | None] = [None] * first.whole.pictures
    for number, part in parts.items():
        places = range(number - 1, len(pictures), len(parts))
        if len(places) != len(part.pictures):
            raise NotOneRun(f"shard {part.shard} has {len(part.pictures)} pictures instead of {len(places)}")
        pictures[number - 1 :: len(parts)] = part.pictures
    whole = [picture for picture in pictures if picture]
    if Whole.of(whole) != first.whole:
        raise NotOneRun("the pictures of these shards are not those of one set, each once")
    outcomes = [outcome for part in parts.values() for outcome in part.outcomes]
    record = Record(first.plan, whole, outcomes, first.column)
    return record, _effort([each["effort"] for each in found.values()], len(whole))


def _check_settings(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises NotOneRun for a run that is no shard, and for shards of different runs."""
    (first, mine), *others = found.items()
    for name, document in found.items():
        if not document.get("shard"):
            raise NotOneRun(f"{name} is a whole run, not a shard of one")
    for name, document in others:
        differing = [key for key in _SHARED if document.get(key) != mine.get(key)]
        differing += ["number of shards"] if document["shard"]["of"] != mine["shard"]["of"] else []
        columns = [(each["groups"] or {}).get("column") for each in (document, mine)]
        differing += ["group"] if columns[0] != columns[1] else []
        if differing:
            raise NotOneRun(f"{name} is of a run with other {', '.join(differing)} than {first}")


def _by_number(records: Mapping[str, Record]) -> dict[int, Record]:
    """The shards in their order. Raises NotOneRun where one is there twice or is missing."""
    folders: dict[int, str] = {}
    for folder, record in records.items():
        assert record.shard  # `_check_settings` lets nothing else pass.
        number, of = record.shard.number, record.shard.of
        if number in folders:
            raise NotOneRun(f"{folders[number]} and {folder} overlap: both are shard {record.shard}")
        folders[number] = folder
    if missing := [f"{number}/{of}" for number in range(1, of + 1) if number not in folders]:
        raise NotOneRun(f"missing: shard {', '.join(missing)}")
    return {number: records[folders[number]] for number in sorted(folders)}


def _effort(efforts: Sequence[Mapping[str, Any]], pictures: int) -> RunStats:
    known, rows, seconds = (
        sum(each[name] for each in efforts) for name in ("answers_from_the_journal", "rows", "seconds")
    )
    return RunStats(pictures, known, rows, seconds)
