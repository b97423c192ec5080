"""`gradserve index --kind pictures`: what the pictures of a data set do in each layer."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.filesize import decimal

from gradserve.datasets import Dataset, open_dataset

from ..methods.indexes.folder import preprocessing
from ..methods.indexes.sources import Examples, IndexOrigin
from ..methods.influence.serving import training_set
from ..methods.pictures.index import PictureIndex, PictureManifest
from ..methods.pictures.indexing.build import PicturesBuilder
from ..methods.pictures.indexing.plan import PicturesPlan
from ..methods.pictures.separability import NEIGHBOUR_COUNT
from ..models.card import ModelCard
from ..models.preparation import prepare
from .command import console, reporting, spec_of
from .examples import DatasetExamples, named_classes

BAR = 40  # Letters of a bar of 100 %.


@dataclass(frozen=True)
class Pictures:
    """The pictures to index, and the names of their labels, if they have labels."""

    examples: Examples
    classes: tuple[str, ...] | None


def split(names: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def build_pictures(
    model: str, config: Path | None, data: Path | None, out: Path, plan: PicturesPlan, device: torch.device
) -> None:
    """Builds the index with progress bars and prints what it takes. Raises ValueError, OSError."""
    prepared = prepare(spec_of(model, config), device)
    card = prepared.card
    pictures = pictures_of(card, data)
    origin = IndexOrigin(preprocessing(card), pictures.examples.digest())
    with reporting() as report:
        builder = PicturesBuilder(prepared, pictures.examples, pictures.classes, origin, plan, report)
        count = len(pictures.examples)
        disk, scratch = (decimal(count * each) for each in (builder.bytes_per_picture, builder.scratch_per_picture))
        names = ", ".join(layer.name for layer in builder.layers)
        console.print(f"{count} pictures, layers {names}: about {disk} and small pictures; {scratch} more meanwhile")
        builder.run(out)
    manifest = PictureIndex(out).manifest
    console.print(f"{out}: {decimal(sum(file.bytes for file in manifest.files.values()))}")
    print_separability(manifest)
    console.print(f'serve it:  \\[models.{card.name}]  pictures = "{out}"')


def pictures_of(card: ModelCard, data: Path | None) -> Pictures:
    """The data set; without one the training set of `digits`. Raises ValueError, OSError."""
    if data is not None:
        dataset, classes = with_classes(open_dataset(data), card)
        return Pictures(DatasetExamples(dataset, card), classes)
    if card.name != "digits" or card.builder != "embedded":
        raise ValueError("--data is needed: a folder of pictures or of class folders, or an .npz with images")
    return Pictures(training_set(), card.classes)


def with_classes(dataset: Dataset, card: ModelCard) -> tuple[Dataset, tuple[str, ...] | None]:
    """The data set with the names of its labels: its own, else the model's, else numbers; None without labels."""
    if not dataset.labelled:
        return dataset, None
    if all(example.class_name for example in dataset):
        return dataset, named_classes(dataset)
    try:
        labelled = dataset.labelled_for(card.classes)
    except ValueError:
        return dataset, named_classes(dataset)
    return labelled, labelled.classes


def print_separability(manifest: PictureManifest) -> None:
    """How well each layer separates the classes, with a bar for each; why there is nothing to tell otherwise."""
    if not manifest.separability_pictures:
        why = "have no labels" if manifest.classes is None else "are all of one class"
        console.print(f"no separability by layer: the pictures {why}")
        return
    print_of = f"{NEIGHBOUR_COUNT} nearest neighbours, {manifest.separability_pictures} pictures"
    console.print(f"separability, the accuracy of {print_of} (with shuffled labels):")
    width = max(len(layer.name) for layer in manifest.layers)
    for layer in manifest.layers:
        accuracy, shuffled = layer.accuracy or 0.0, layer.shuffled_accuracy or 0.0
        bar = "#" * round(BAR * accuracy)
        console.print(f"  {layer.name:{width}}  {accuracy:.3f} ({shuffled:.3f})  {bar}", markup=False)
