"""Indexes as a server holds them: checked against their model, and the embedded one built at first use."""

from dataclasses import replace
from pathlib import Path

import torch

from ...models.card import ModelCard
from ...models.catalogue import ModelSpec
from ...models.loading import LoadError
from ...models.preparation import prepare
from ...models.prepared import Prepared
from ...models.sample import difference
from ..indexes.cache import cached
from ..indexes.examples import ArrayExamples
from ..indexes.folder import IndexFault, check_origin, preprocessing
from ..indexes.sources import IndexOrigin
from .estimates import projected_of, regression_of, unfolded
from .index import VERSION, Index, Manifest, opened
from .indexing.build import Builder
from .indexing.plan import IndexPlan, check_head


def attached(spec: ModelSpec, model: Prepared) -> tuple[Prepared, dict[str, Prepared]]:
    """The model with its index in its card, and the unfolded instance that the index is of, by its engine's name.

    Without an index: the model alone. Raises LoadError, IndexFault.
    """
    if spec.index is None:
        return model, {}
    check_head(model.card)
    plain = prepare(spec, model.device, fold=False)
    if reason := difference(plain.card, model.card):
        raise LoadError(f"model {spec.name}: {reason}")
    folder = embedded(plain) if spec.index == "embedded" else Path(spec.index).absolute()
    index = Index(folder)
    index.verify()
    check(index.manifest, plain.card, folder)
    digest = "" if spec.index == "embedded" else index.digest
    _hold(str(folder), digest, model.device)
    name = unfolded(spec.name)
    plain = replace(plain, card=replace(plain.card, name=name, precisions=("exact",)))
    return replace(model, card=replace(model.card, index=str(folder), index_digest=digest)), {name: plain}


def _hold(folder: str, digest: str, device: torch.device) -> None:
    """Opens all of an index, which may be replaced while it is served. Raises IndexFault."""
    index = opened(folder, digest)
    methods = index.manifest.methods
    if "projected" in methods:
        projected_of(folder, digest, device, torch.float32)
    if "last_layer" in methods:
        regression_of(folder, digest)
    index.hold()  # The files read since were its own if it has not been replaced meanwhile.


def check(manifest: Manifest, card: ModelCard, folder: Path) -> None:
    """Raises IndexFault for an index of other weights or of another preprocessing."""
    hint = f"build it again: gradserve index --model {card.name} --data ... --out {folder}"
    check_origin(manifest, card, folder, hint)
    if manifest.classes != len(card.classes):
        raise IndexFault(f"index {folder} is of other classes than {card.name} has now; {hint}")


def embedded(model: Prepared) -> Path:
    """The index of `digits`, built from scikit-learn's bundled data where it is not in the user's cache yet."""
    examples = training_set()
    origin = IndexOrigin(preprocessing(model.card), examples.digest())
    builder = Builder(model, examples, origin, IndexPlan(label_smoothing=0.05))
    return cached(f"{model.card.name}-{model.card.digest[:16]}-v{VERSION}", Index, builder.run)


def training_set() -> ArrayExamples:
    """What `digits` was trained on."""
    from ...models.embedded.digits.data import parts, pixels  # The import stands here, since few servers need it.

    x, _, y, _ = parts()
    return ArrayExamples(pixels(x), y)
