"""A stylised copy of a labelled folder: every picture in the style of others, under its label."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import crc32

import numpy as np

from gradserve.client import Client
from gradserve.datasets import IMAGE_SUFFIXES, LABELS_FILE, Dataset, Example
from gradserve.folders.claims import replace_file
from gradserve.messages import inputs
from gradserve.results.common import slug
from gradserve.results.explain import picture_sha256
from gradserve.styled.pictures import StyledFolder, StyledReport, Wanted


@dataclass(frozen=True)
class AugmentPlan:
    """What is made: so many stylised copies of every picture, each in another style, which the seed draws.

    `model`: that makes them. `arguments`: the settings of Stylize, as the client's `stylize` takes them.
    """

    dataset: Dataset
    styles: Sequence[Path]
    copies: int
    seed: int
    model: str
    arguments: Mapping[str, Any]

    def settings(self, model: str, digest: str) -> dict[str, Any]:
        """What decides the copies, but for the pictures themselves."""
        styles = [[each.name, picture_sha256(inputs.message(each))] for each in self.styles]
        own = {"weights_digest": digest, "styles": styles, "copies": self.copies, "seed": self.seed}
        return {**self.arguments, "model": model, **own}


@dataclass(frozen=True)
class StyledCopy:
    """A copy that is wanted: of which picture, in which style, and its file in the folder."""

    example: Example
    style: Path
    file: str


def style_files(paths: Sequence[Path]) -> list[Path]:
    """The pictures that are named, and those in the folders that are. Raises ValueError for an empty folder."""
    files = list[Path]()
    for path in paths:
        within = sorted(each for each in path.iterdir() if _is_picture(each)) if path.is_dir() else [path]
        if not within:
            raise ValueError(f"--style {path} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
        files += within
    return list(dict.fromkeys(files))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." and path.is_file()


def check_apart(data: Path, out: Path) -> None:
    """Raises ValueError where one of the folders holds the other, since copies would count as pictures."""
    source, target = data.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"--out {out} is in the folder of the pictures, or holds it; give one beside it")


class AugmentRun:
    """Makes the copies that are not there."""

    def __init__(self, client: Client, plan: AugmentPlan, out: Path, *, restart: bool = False) -> None:
        """Raises ValueError where pictures have no labels, and for a folder of other settings or of something else."""
        if not plan.dataset.labelled:
            raise ValueError(
                f"{plan.dataset.path} has no labels: put pictures into folders named by class, or add {LABELS_FILE} "
                "with the columns file and class_name"
            )
        if plan.copies > len(plan.styles):
            raise ValueError(f"--copies {plan.copies}: there are {len(plan.styles)} styles, one for each copy")
        self._client, self._plan = client, plan
        self._card = client.model(plan.model)
        self.copies = list(_copies(plan))
        self.folder = StyledFolder(out, plan.settings(self._card.name, self._card.weights_digest), restart=restart)

    def make(self, concurrency: int, advance: Callable[[int], None]) -> StyledReport:
        """Makes the copies; then, where the set is no folder of class folders, the list of their labels."""
        arguments = {**self._plan.arguments, "model": self._card.name, "seed": self._plan.seed, "priority": "batch"}
        wanted = [Wanted(each.file, each.example.source, each.style, arguments) for each in self.copies]
        report = self.folder.make(self._client, wanted, concurrency, advance)
        if not _in_class_folders(self._plan.dataset):
            there = [each for each in self.copies if each.file not in report.failed]
            replace_file(self.folder.path / LABELS_FILE, _labels(self._plan.dataset, there).encode())
        return report


def _copies(plan: AugmentPlan) -> list[StyledCopy]:
    """All copies; a picture's styles depend on its id and the seed alone, so that a set may grow."""
    found, files = list[StyledCopy](), set[str]()
    stems = [_stem(example) for example in plan.dataset]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    for example, stem in zip(plan.dataset, stems, strict=True):
        generator = np.random.default_rng([plan.seed, crc32(example.id.encode())])
        for number in generator.permutation(len(plan.styles))[: plan.copies]:
            style = plan.styles[number]
            name = example.id if stem in twice else stem
            file = f"{name}-{slug(style.stem)}.png"
            file = f"{name}-{slug(style.stem)}-{number}.png" if file in files else file
            files.add(file)
            found.append(StyledCopy(example, style, file))
    return found


def _stem(example: Example) -> str:
    """The path of a picture within its set, without its ending. Raises ValueError for one that lies outside."""
    path = PurePosixPath(example.id)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{example.id} lies outside of the folder that lists it, so that its copy has no place")
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def _in_class_folders(dataset: Dataset) -> bool:
    return dataset.path.is_dir() and not (dataset.path / LABELS_FILE).is_file()


def _labels(dataset: Dataset, copies: Sequence[StyledCopy]) -> str:
    """The list of the copies with the labels of their pictures, as `open_dataset` reads it."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(("file", "class_index", "class_name", "original", "style"))
    for each in copies:
        example = each.example
        index = example.label if dataset.numbered else ""
        table.writerow((each.file, index, example.class_name, example.id, each.style.name))
    return file.getvalue()
