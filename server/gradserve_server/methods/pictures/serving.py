"""Indexes of pictures as a server holds them: checked against their model."""

from dataclasses import replace
from pathlib import Path

from ...models.card import ModelCard
from ...models.catalogue import ModelSpec
from ...models.prepared import Prepared
from ..indexes.cache import cached
from ..indexes.folder import IndexFault, check_origin, preprocessing
from ..indexes.sources import IndexOrigin
from ..influence.serving import training_set
from .index import VERSION, PictureIndex, PictureManifest, opened
from .indexing.build import PicturesBuilder
from .indexing.plan import PicturesPlan


def with_pictures(spec: ModelSpec, model: Prepared) -> Prepared:
    """The model with its index of pictures in its card; itself where it has none. Raises IndexFault."""
    if spec.pictures is None:
        return model
    folder = embedded(model) if spec.pictures == "embedded" else Path(spec.pictures).absolute()
    index = PictureIndex(folder)
    index.verify()
    check(index.manifest, model.card, folder)
    digest = "" if spec.pictures == "embedded" else index.digest
    opened(str(folder), digest)
    return replace(model, card=replace(model.card, pictures=str(folder), pictures_digest=digest))


def embedded(model: Prepared) -> Path:
    """The index of what `digits` was trained on, built where it is not in the user's cache yet."""
    card, examples = model.card, training_set()
    origin = IndexOrigin(preprocessing(card), examples.digest())
    builder = PicturesBuilder(model, examples, card.classes, origin, PicturesPlan())
    return cached(f"{card.name}-pictures-{card.digest[:16]}-v{VERSION}", PictureIndex, builder.run)


def check(manifest: PictureManifest, card: ModelCard, folder: Path) -> None:
    """Raises IndexFault for an index of other weights, of another preprocessing, or of other layers."""
    hint = f"build it again: gradserve index --kind pictures --model {card.name} --data ... --out {folder}"
    check_origin(manifest, card, folder, hint)
    for each in manifest.layers:
        layer = card.layer(each.name)
        if layer is None or layer.channels != each.channels:
            raise IndexFault(f"index {folder} is of the layer {each.name}, which {card.name} does not have; {hint}")
