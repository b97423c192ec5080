"""Pictures with labels, read one by one when they are needed: `open_dataset(path)`.

folder/cat/1.jpg, folder/dog/2.jpg      class folders; what lies in deeper folders counts too
folder/labels.csv, folder/1.jpg         columns file and class_index, class_name or label
folder/1.jpg, folder/2.jpg              pictures without labels
file.npz                                images [N,H,W,3] uint8, or jpeg (all files' bytes) and offsets [N+1];
                                        labels [N] (numbers), classes (names) and names [N] (ids) where known
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from gradserve import images
from gradserve.arguments import ImageLike
from gradserve.messages import inputs
from gradserve.messages.fields import unknown

LABELS_FILE = "labels.csv"
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MAX_PIXELS = 50_000_000  # The most pixels of one picture, which is the servers' default too.


class Unreadable(ValueError):
    """A picture that cannot be read: which, and why."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"{id}: {reason}")
        self.id, self.reason = id, reason


@dataclass(frozen=True)
class Example:
    """One picture: its id within the set, and its label (class index) and class name where they are known."""

    id: str
    label: int | None
    class_name: str
    source: Callable[[], ImageLike] = field(repr=False, compare=False)
    columns: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)  # Its line of labels.csv.

    @property
    def image(self) -> ImageLike:
        """The picture as it lies there, for a client to send: a path, a file's bytes or an array."""
        return self.source()

    def pixels(self) -> images.Array:
        """The decoded picture, upright and in RGB: [H, W, 3] uint8. Raises Unreadable."""
        try:
            message = inputs.message(self.image)
            if message.WhichOneof("kind") == "encoded":
                _check_size(message.encoded)
            return np.asarray(images.opened(message))
        except Exception as error:  # Pillow's decoders raise errors of any type for a damaged file.
            raise Unreadable(self.id, _reason(error)) from error


@dataclass(frozen=True)
class Dataset(Sequence[Example]):
    """Examples in the order of their ids or of the file; `classes` names their labels, as far as names are known."""

    path: Path
    examples: tuple[Example, ...]
    classes: tuple[str, ...] = ()
    numbered: bool = False  # Whether the set itself numbers its labels, instead of the order of its folders.

    @property
    def labelled(self) -> bool:
        """Whether every example has a label."""
        return all(example.label is not None for example in self.examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, place: int | slice) -> Example | tuple[Example, ...]:
        return self.examples[place]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def take(self, count: int | None, seed: int = 0) -> "Dataset":
        """So many examples drawn at random, in their old order; all if there are no more, or without a count."""
        if count is None or count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return replace(self, examples=tuple(self.examples[i] for i in chosen))

    def decoded(self) -> Iterator[tuple[Example, "images.Array | Unreadable"]]:
        """Every example with its pixels, or with the reason why it has none."""
        for example in self.examples:
            try:
                yield example, example.pixels()
            except Unreadable as problem:
                yield example, problem

    def labelled_for(self, classes: Sequence[str]) -> "Dataset":
        """The same set with labels as a model numbers its classes. Raises ValueError where they cannot be told.

        By name if the model knows all names ("golden_retriever" is "golden retriever"); else by the set's own numbers,
        or by class folders named 0, 1, 2, ...; else, where there are as many folders as classes, by their order.
        """
        if not self.labelled:
            raise ValueError(
                f"{self.path} has no labels: put pictures into folders named by class, add {LABELS_FILE} with the "
                "columns file and class_name, or use an npz with labels"
            )
        place = _places(self, classes)
        examples = tuple(replace(each, label=place(each), class_name=classes[place(each)]) for each in self.examples)
        return replace(self, examples=examples, classes=tuple(classes), numbered=True)


def open_dataset(path: str | Path) -> Dataset:
    """The pictures of a folder or an npz; none is decoded yet. Raises ValueError for one without any, OSError."""
    path = Path(path)
    if path.is_dir():
        dataset = _from_table(path) if (path / LABELS_FILE).is_file() else _from_folder(path)
    elif path.suffix == ".npz":
        dataset = _from_npz(path)
    elif path.exists():
        raise ValueError(f"{path} is neither a folder nor an .npz file")
    else:
        raise FileNotFoundError(f"there is no {path}")
    if not dataset.examples:
        raise ValueError(f"{path} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), nor do its class folders")
    return dataset


def _from_folder(path: Path) -> Dataset:
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    classed = [(file, number) for number, folder in enumerate(folders) for file in _pictures(folder.rglob("*"))]
    if classed:
        names = tuple(folder.name for folder in folders)
        entries = [(file.relative_to(path).as_posix(), number, names[number], file) for file, number in classed]
        return Dataset(path, tuple(_example(*each) for each in entries), names)
    return Dataset(path, tuple(_example(file.name, None, "", file) for file in _pictures(path.iterdir())))


def _pictures(files: Iterator[Path]) -> list[Path]:
    return sorted(f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") and f.is_file())


def _example(id: str, label: int | None, class_name: str, file: Path) -> Example:
    return Example(id, label, class_name, partial(_same, file))


def _same(image: ImageLike) -> ImageLike:
    return image


class _Row(NamedTuple):
    """A line of labels.csv."""

    file: str
    number: int | None
    name: str
    columns: Mapping[str, str]


def _from_table(path: Path) -> Dataset:
    with (path / LABELS_FILE).open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        rows = [_row(path, table.line_num, line) for line in table]
    unnumbered = sorted({row.name for row in rows if row.number is None})
    numbered = not unnumbered
    number = {name: place for place, name in enumerate(sorted({row.name for row in rows}))}
    names = {row.number: row.name for row in rows if row.number is not None} if numbered else {}
    classes = tuple(names.get(i, "") for i in range(max(names) + 1)) if names else tuple(number)
    examples = [
        replace(_example(r.file, r.number if numbered else number[r.name], r.name, path / r.file), columns=r.columns)
        for r in rows
    ]
    return Dataset(path, tuple(examples), classes, numbered)


def _row(path: Path, line: int, row: dict[str, Any]) -> _Row:
    def cell(*columns: str) -> str:
        return next((str(row[column]).strip() for column in columns if row.get(column)), "")

    file, label = cell("file", "filename", "image", "path"), cell("label")
    index = cell("class_index") or (label if label.isdecimal() else "")
    name = cell("class_name", "class") or ("" if label.isdecimal() else label)
    if not file or not (index.isdecimal() or (name and not index)):
        needed = "file, and class_index (a whole number), class_name or label"
        raise ValueError(f"{path / LABELS_FILE}, line {line}: each line needs {needed}; it has {row}")
    columns = {column: str(value or "").strip() for column, value in row.items() if column}
    return _Row(file, int(index) if index else None, name, columns)


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, images.Array] = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an npz file of plain arrays: {error}") from error
    sources = _sources(path, arrays)
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (len(sources),) or not np.issubdtype(labels.dtype, np.integer)):
        expected = f"{len(sources)} whole numbers, one for each picture"
        raise ValueError(f"{path}: labels must be {expected}, not {labels.dtype} {labels.shape}")
    if labels is not None and len(labels) and labels.min() < 0:
        raise ValueError(f"{path}: labels start at 0; there is {labels.min()}")
    classes = tuple(map(str, arrays.get("classes", ())))
    names = [str(name) for name in arrays.get("names", ())]
    ids = names if len(set(names)) == len(sources) else [str(i) for i in range(len(sources))]
    numbers = [None] * len(sources) if labels is None else [int(label) for label in labels]
    class_names = [classes[n] if n is not None and n < len(classes) else "" for n in numbers]
    examples = [Example(*each) for each in zip(ids, numbers, class_names, sources, strict=True)]
    return Dataset(path, tuple(examples), classes, numbered=True)


def _sources(path: Path, arrays: dict[str, images.Array]) -> list[Callable[[], ImageLike]]:
    if "images" in arrays:
        pixels = arrays["images"]
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
        ):
            raise ValueError(f"{path}: images must be uint8 [N, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        return [partial(_same, each) for each in pixels]
    if "jpeg" in arrays and "offsets" in arrays:
        blob = arrays["jpeg"]
        return [partial(_bytes, blob, begin, end) for begin, end in pairwise(arrays["offsets"].tolist())]
    raise ValueError(f"{path} has neither images nor jpeg and offsets; it has {', '.join(arrays) or 'nothing'}")


def _bytes(blob: images.Array, begin: int, end: int) -> bytes:
    return blob[begin:end].tobytes()


def _places(dataset: Dataset, classes: Sequence[str]) -> Callable[[Example], int]:
    """A function from an example to the index of its class among a model's. See `labelled_for` for the rules."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(classes):
        places.setdefault(_plain(name), []).append(place)
    names = {_plain(example.class_name) for example in dataset}
    strange = sorted(example.class_name for example in dataset if _plain(example.class_name) not in places)
    if not strange and (all(len(places[name]) == 1 for name in names) or not dataset.numbered):
        return lambda example: places[_plain(example.class_name)][0]
    # Servers give these names to classes without names.
    nameless = all(name == f"class {place}" for place, name in enumerate(classes))
    foreign = any(names) and len(strange) == len(dataset) and len(dataset.classes) != len(classes)
    if dataset.numbered and (nameless or not foreign):
        return partial(_own_number, dataset.path, len(classes))
    if all(name.isdecimal() and int(name) < len(classes) for name in dataset.classes):
        return lambda example: int(example.class_name)
    if len(dataset.classes) == len(classes) and len(strange) == len(dataset):  # The folders' order gives the numbers.
        return partial(_own_number, dataset.path, len(classes))
    raise ValueError(f"{dataset.path}: the model has {unknown('class', strange[0], classes)}")


def _own_number(path: Path, count: int, example: Example) -> int:
    assert example.label is not None
    if example.label >= count:
        raise ValueError(f"{path}: {example.id} has the label {example.label}, but the model has {count} classes")
    return example.label


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _check_size(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, damaged or of an unknown format"
    return str(error) or type(error).__name__
