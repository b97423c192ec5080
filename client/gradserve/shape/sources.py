"""The pictures that give shapes and textures, each with its class; squares cut out of their middles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve.datasets import Dataset, Example, open_dataset
from gradserve.images import Array
from gradserve.results.common import slug

_FORM = "write CLASS=FILE, or put it into a folder named by its class and give the folder that holds that one"
_FILES = Path("the files that were named")  # Stands for the folder of pictures that are given as CLASS=FILE.


@dataclass(frozen=True)
class Source:
    """A picture with its class: a name for files, and a square of it, [size, size, 3] uint8."""

    name: str
    class_name: str
    pixels: Array = field(repr=False, compare=False)


@dataclass(frozen=True)
class Sources:
    """All contents, or all textures."""

    datasets: tuple[Dataset, ...]
    share: float  # The side of the square by the shorter side of the picture.

    def squares(self, size: int, class_names: Sequence[str]) -> list[Source]:
        """The pictures cut and scaled to size x size pixels, in their order, with the names of their classes.

        Raises Unreadable for a damaged one.
        """
        sources, names = list[Source](), set[str]()
        for example, class_name in zip(self._examples(), class_names, strict=True):
            name = slug(f"{class_name}_{Path(example.id).stem}")
            while name in names:
                name += "_"
            names.add(name)
            sources.append(Source(name, class_name, square(example.pixels(), self.share, size)))
        return sources

    def labels(self, classes: Sequence[str]) -> list[int]:
        """The numbers of the pictures' classes in a model. Raises ValueError where it has no such class."""
        found = [each.labelled_for(classes, by_order=False) for each in self.datasets]
        return [example.label for each in found for example in each if example.label is not None]

    def _examples(self) -> list[Example]:
        return [example for each in self.datasets for example in each]


def read(texts: Sequence[str], option: str, share: float) -> Sources:
    """The pictures that an option names: folders and .npz files with labels, and CLASS=FILE.

    Raises ValueError where a picture has no class.
    """
    datasets, files = list[Dataset](), list[tuple[str, Path]]()
    for text in texts:
        path, (name, equals, file) = Path(text), text.partition("=")
        if path.is_dir() or path.suffix == ".npz":
            datasets.append(_labelled(open_dataset(path), option))
        elif path.is_file():
            raise ValueError(f"{option} {text}: the picture has no class; {_FORM}")
        elif equals and name and Path(file).is_file():
            files.append((name, Path(file)))
        else:
            raise ValueError(f"{option} {text}: there is no such folder or file; {_FORM}")
    if files:
        names = sorted({name for name, _ in files})
        examples = tuple(
            Example(str(path), names.index(name), name, source=partial(Path, path)) for name, path in files
        )
        datasets.append(Dataset(_FILES, examples, tuple(names)))
    return Sources(tuple(datasets), share)


def _labelled(dataset: Dataset, option: str) -> Dataset:
    if not dataset.labelled:
        raise ValueError(f"{option} {dataset.path}: its pictures have no class; {_FORM}, or add labels.csv")
    return dataset


def square(pixels: Array, share: float, size: int) -> Array:
    """The middle of a picture [H, W, 3], so much of its shorter side, scaled to [size, size, 3]."""
    picture = Image.fromarray(pixels)
    side = max(1, round(share * min(picture.size)))
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))
    return np.asarray(middle.resize((size, size), Image.Resampling.BICUBIC))
