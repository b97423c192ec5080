"""What an index of pictures has beside its features: principal components, t-SNE, and how well classes separate."""

from collections.abc import Collection, Sequence
from pathlib import Path

from ...indexes.folder import Array, IndexFault
from ...indexes.sources import Report
from ..index import PictureLayer, pca_file, tsne_file
from ..pca import fit_pca
from ..separability import is_separable, separability
from ..tsne import MIN_PICTURES, fit_tsne, missing


def check_tsne(names: Collection[str], layers: Collection[str], count: int) -> None:
    """Raises IndexFault where a t-SNE of one of these layers cannot be made, before anything is computed."""
    for name in names:
        if name not in layers:
            raise IndexFault(f"--tsne {name}: it is not among the layers to index, {', '.join(layers)}")
    if names and missing():
        raise IndexFault(f"--tsne: {missing()}")
    if names and count < MIN_PICTURES:
        raise IndexFault(f"--tsne: a t-SNE needs {MIN_PICTURES} pictures at least, and there are {count}")


def add_projections(
    folder: Path,
    layers: Sequence[PictureLayer],
    features: Sequence[Array],
    labels: Array,
    tsne: Collection[str],
    report: Report,
) -> tuple[list[PictureLayer], list[str]]:
    """Writes the files of all layers into the folder: the layers with their accuracies, and the files' names.

    `features`: those of each layer, [N, C]. `labels`: [N], -1 where there is none.
    """
    described, files = [], list[str]()
    for i, layer in enumerate(layers):
        report("projections", i, len(layers))
        fit_pca(features[i]).save(folder / pca_file(i))
        files.append(pca_file(i))
        found = dict[str, object]()
        if is_separable(labels):
            accuracies = separability(features[i], labels)
            found = {"accuracy": accuracies.accuracy, "shuffled_accuracy": accuracies.shuffled}
        if layer.name in tsne:
            fit_tsne(features[i]).save(folder / tsne_file(i))
            files.append(tsne_file(i))
            found["tsne"] = True
        described.append(layer.model_copy(update=found))
    report("projections", len(layers), len(layers))
    return described, files
