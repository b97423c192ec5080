"""Project: from its request to a task, from the features and the index to the reply."""

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import project_pb2

from ...methods.pictures import tsne
from ...methods.pictures.index import PictureIndex, PictureLayer, opened
from ...methods.pictures.nearest import Array, nearest, voted
from ...methods.pictures.separability import NEIGHBOUR_COUNT
from ...methods.project import PictureFeatures, ProjectArguments
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..arguments.batches import batch_of, read_pictures
from ..errors import Violations
from ..fields import choice, enum_value
from ..pictures.images import ModelInput
from ..reply import provenance
from ..request import PREPROCESSES, Bound, CallContext, area, check_options, in_exact, model_of, task_of
from .exemplars import indexed_layer, pictures_of

MAX_IMAGES, MAX_POINTS, MAX_NEIGHBOURS = 512, 10_000, 100
DEFAULT_NEIGHBOURS = 10
MAX_THUMBNAIL_BYTES = 48 << 20  # The most bytes of small pictures in one reply.
# The work of preparing a t-SNE for new pictures, and of placing one of them, in GFLOP.
TSNE_GFLOP, PLACING_GFLOP = 10.0, 0.02
LEFT_OUT = "THUMBNAILS_LEFT_OUT: {count} small pictures had no room in the reply, which carries {most} MiB of them"
METHOD = project_pb2.DESCRIPTOR.enum_types_by_name["ProjectionMethod"]


def bind(request: project_pb2.ProjectRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    choice(pb.Preprocess.DESCRIPTOR, request.preprocess, "preprocess", violations)
    options = in_exact(check_options("project", request.options, card, at, violations), "Project", violations)
    pictures, batch = _pictures(request, card, at, violations)
    method = choice(METHOD, request.method, "method", violations) or "pca"
    _check_counts(request, violations)
    index = pictures_of(card, violations)
    number = None if index is None else indexed_layer(request.layer, index, card, violations)
    entry = None if index is None or number is None else index.manifest.layers[number]
    if index is not None and entry is not None:
        _check_method(method, entry, index, bool(request.images), card, violations)
    violations.check()
    assert index is not None, "violations were checked"
    assert entry is not None, "violations were checked"
    count = len(request.images)
    cost = count * card.gflop * area(batch[0], card)
    task = task_of(options, card, batch, ProjectArguments(entry.name, count), cost, at)
    comparing = 2e-9 * count * len(index) * entry.channels  # GFLOP of finding the neighbours.
    placing = TSNE_GFLOP + count * PLACING_GFLOP if method == "tsne" and count else 0.0
    return Bound(
        task,
        card,
        pictures[0],
        (method,),
        regions=tuple(each.region for each in pictures),
        reply_gflop=comparing + placing,
    )


def _pictures(
    request: project_pb2.ProjectRequest, card: ModelCard, at: CallContext, violations: Violations
) -> tuple[list[ModelInput], np.ndarray]:
    """The request's pictures with their batch; a black one in place of none."""
    if not request.images:
        nothing = np.zeros((card.height, card.width, 3), np.uint8)
        return [ModelInput(nothing, pb.Region(), preprocess=pb.PREPROCESS_MODEL_DEFAULT)], nothing[None]
    how = PREPROCESSES.get(request.preprocess, pb.PREPROCESS_MODEL_DEFAULT)
    quick = request.options.quick_decode
    pictures = read_pictures(request.images, "images", MAX_IMAGES, how, card, at, violations, quick=quick)
    return pictures, batch_of(pictures, "images", violations)


def _check_counts(request: project_pb2.ProjectRequest, violations: Violations) -> None:
    neighbours = _neighbours(request)
    if not 1 <= neighbours <= MAX_NEIGHBOURS:
        text = f"must be from 1 to {MAX_NEIGHBOURS}, was {neighbours}"
        violations.add("neighbours", text, for_every_model=True)
    if request.points > MAX_POINTS:
        violations.add("points", f"must be from 0 to {MAX_POINTS}, was {request.points}", for_every_model=True)


def _neighbours(request: project_pb2.ProjectRequest) -> int:
    return request.neighbours if request.HasField("neighbours") else DEFAULT_NEIGHBOURS


class _Thumbnails:
    """Small pictures of an index for one reply, as far as there is room for them."""

    def __init__(self, request: project_pb2.ProjectRequest, index: PictureIndex) -> None:
        self._index, self._room = index, MAX_THUMBNAIL_BYTES
        self._wanted = not request.HasField("thumbnails") or request.thumbnails
        self.left_out = 0

    def of(self, row: int) -> bytes:
        """The thumbnail of a row; empty where none are wanted, or where there is no room for it."""
        data = self._index.thumbnail(row) if self._wanted else b""
        if len(data) > self._room:
            self.left_out += 1
            return b""
        self._room -= len(data)
        return data


def _check_method(
    method: str, entry: PictureLayer, index: PictureIndex, has_images: bool, card: ModelCard, violations: Violations
) -> None:
    """Violations where the index has no t-SNE of the layer, or the server cannot place new images in it."""
    if method != "tsne":
        return
    if not entry.tsne:
        there = [each.name for each in index.manifest.layers if each.tsne]
        has = f"it has those of {', '.join(there)}" if there else "it has none"
        text = f"the index of {card.name} has no t-SNE of {entry.name}; {has}; build it with --tsne {entry.name}"
        violations.add("method", f"{text}, or name PCA")
    elif has_images and tsne.missing():
        violations.not_applicable(f"method: TSNE places no new pictures here: {tsne.missing()}")


def reply(request: project_pb2.ProjectRequest, bound: Bound, outcome: Outcome) -> project_pb2.ProjectResponse:
    """Places, neighbours, and what the index has. Comparing many pictures takes long, so that callers take turns."""
    arguments: ProjectArguments = bound.task.arguments
    index = opened(bound.card.pictures, bound.card.pictures_digest)
    manifest, method = index.manifest, bound.methods[0]
    number = index.number(arguments.layer)
    assert number is not None, "the request was checked"
    message = project_pb2.ProjectResponse(
        layer=arguments.layer,
        method=enum_value(METHOD, method),
        explained=map(float, index.pca(number).explained[:2]) if method == "pca" else (),
        layers=map(_layer, manifest.layers),
        classes=manifest.classes or (),
        total=len(index),
        separability_neighbours=NEIGHBOUR_COUNT,
        separability_pictures=manifest.separability_pictures,
        provenance=provenance(bound, outcome),
    )
    features: PictureFeatures = outcome.result
    thumbnails = _Thumbnails(request, index)
    if features.values is not None:
        _add_pictures(message, request, bound, index, number, features.values, thumbnails)
    _add_points(message, request, index, number, thumbnails)
    if thumbnails.left_out:
        message.provenance.warnings.append(LEFT_OUT.format(count=thumbnails.left_out, most=MAX_THUMBNAIL_BYTES >> 20))
    return message


def _layer(entry: PictureLayer) -> project_pb2.ProjectedLayer:
    layer = project_pb2.ProjectedLayer(name=entry.name, channels=entry.channels, has_tsne=entry.tsne)
    if entry.accuracy is not None and entry.shuffled_accuracy is not None:
        layer.accuracy, layer.shuffled_accuracy = entry.accuracy, entry.shuffled_accuracy
    return layer


def _add_pictures(
    message: project_pb2.ProjectResponse,
    request: project_pb2.ProjectRequest,
    bound: Bound,
    index: PictureIndex,
    number: int,
    features: Array,
    thumbnails: _Thumbnails,
) -> None:
    """The pictures of the request, each with its neighbours."""
    known, wanted, method = index.features(number), _neighbours(request), bound.methods[0]
    rows, distances = nearest(known, features, max(wanted, tsne.PLACING_NEIGHBOURS if method == "tsne" else 0))
    is_tsne = method == "tsne"
    points = tsne.place(index.tsne(number), rows, distances) if is_tsne else index.pca(number).place(features)
    rows = rows[:, :wanted]
    labels, shares = voted(index.labels[rows])
    for i, (x, y) in enumerate(points.tolist()):
        picture = message.pictures.add(x=x, y=y, region=bound.regions[i])
        if labels[i] >= 0:
            picture.label, picture.agreement = int(labels[i]), float(shares[i])
            picture.label_name = index.class_name(picture.label)
        for row, distance in zip(rows[i].tolist(), distances[i].tolist(), strict=False):
            label = _label(index, row)
            picture.neighbours.add(
                row=row,
                name=index.name(row),
                label=label,
                label_name="" if label is None else index.class_name(label),
                distance=distance,
                thumbnail=thumbnails.of(row),
            )


def _add_points(
    message: project_pb2.ProjectResponse,
    request: project_pb2.ProjectRequest,
    index: PictureIndex,
    number: int,
    thumbnails: _Thumbnails,
) -> None:
    """Adds as many of the index's own pictures as were asked for, at even distances in the index."""
    count = min(request.points, len(index))
    if not count:
        return
    is_tsne = message.method == project_pb2.PROJECTION_METHOD_TSNE
    places = index.tsne(number).points if is_tsne else index.pca(number).points
    for row in np.linspace(0, len(index) - 1, count).round().astype(int).tolist():
        message.points.add(
            row=row,
            x=float(places[row, 0]),
            y=float(places[row, 1]),
            label=_label(index, row),
            name=index.name(row),
            thumbnail=thumbnails.of(row),
        )


def _label(index: PictureIndex, row: int) -> int | None:
    label = int(index.labels[row])
    return label if label >= 0 else None
