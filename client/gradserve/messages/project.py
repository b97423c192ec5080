"""Pure functions for Project: arguments -> request message, reply -> result."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from gradserve.arguments import BatchLike, Layout, Options, PhotoOptions
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    check_names,
    choice,
    count,
    provenance_of,
    region_of,
    request_options,
)
from gradserve.parameters.common import Preprocess
from gradserve.parameters.project import ProjectionMethod
from gradserve.results.project import PictureNeighbour, ProjectedLayer, ProjectedPicture, ProjectedPoint, Projection
from gradserve.v1 import project_pb2

METHOD = project_pb2.DESCRIPTOR.enum_types_by_name["ProjectionMethod"]


class ProjectArguments(PhotoOptions, total=False):
    """What `project` takes besides the pictures.

    layer: of the index; its last one if left out. method: "pca" or "tsne". neighbours: how many nearest indexed
    pictures are told for each picture, 1 to 100, 10 if left out. points: of how many indexed pictures the places are
    returned, 0 to 10000. thumbnails: small pictures of both.
    """

    layer: str
    method: ProjectionMethod
    neighbours: int
    points: int
    thumbnails: bool


_OWN = ProjectArguments.__annotations__.keys() | {"images", "timeout"}


def project_request(
    images: BatchLike | None = None,
    *,
    layer: str = "",
    method: ProjectionMethod = "pca",
    neighbours: int = 10,
    points: int = 0,
    thumbnails: bool = True,
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> project_pb2.ProjectRequest:
    """The arguments of Project as a message."""
    check_names("project", options, _OWN)
    return project_pb2.ProjectRequest(
        model=model,
        layer=layer,
        images=[inputs.message(each, layout) for each in _pictures(images)],
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        method=choice("method", METHOD, method),
        neighbours=count("neighbours", neighbours),
        points=count("points", points),
        thumbnails=thumbnails,
        options=request_options(**options),
    )


def _pictures(images: BatchLike | None) -> list[Any]:
    return [] if images is None else inputs.batch(images)


def names_of(images: BatchLike | None) -> list[str]:
    """The names of files, and numbers from 1 of other pictures."""
    pictures = _pictures(images)
    is_path = [isinstance(each, (str, os.PathLike)) for each in pictures]
    return [
        Path(each).name if path else str(i) for i, (each, path) in enumerate(zip(pictures, is_path, strict=True), 1)
    ]


def projection(
    reply: project_pb2.ProjectResponse, request: project_pb2.ProjectRequest, names: Sequence[str]
) -> Projection:
    """The reply of Project as a result. `names`: those of the request's pictures."""
    sent = zip(reply.pictures, request.images, names, strict=True)
    return Projection(
        pictures=tuple(_picture(picture, image, name) for picture, image, name in sent),
        points=tuple(map(_point, reply.points)),
        layer=reply.layer,
        method=fields.choice_name(METHOD, reply.method),
        explained=tuple(reply.explained),
        layers=tuple(map(_layer, reply.layers)),
        classes=tuple(reply.classes),
        total=reply.total,
        separability_neighbours=reply.separability_neighbours,
        separability_pictures=reply.separability_pictures,
        provenance=provenance_of(reply.provenance),
    )


def _picture(reply: project_pb2.ProjectedPicture, image: Any, name: str) -> ProjectedPicture:
    return ProjectedPicture(
        name=name,
        x=reply.x,
        y=reply.y,
        neighbours=tuple(map(_neighbour, reply.neighbours)),
        label=_given(reply, "label"),
        label_name=reply.label_name,
        agreement=reply.agreement,
        region=region_of(reply.region),
        image=image,
    )


def _neighbour(reply: project_pb2.PictureNeighbour) -> PictureNeighbour:
    label = _given(reply, "label")
    return PictureNeighbour(reply.row, reply.name, label, reply.label_name, reply.distance, reply.thumbnail)


def _point(reply: project_pb2.ProjectedPoint) -> ProjectedPoint:
    return ProjectedPoint(reply.row, reply.x, reply.y, _given(reply, "label"), reply.name, reply.thumbnail)


def _layer(reply: project_pb2.ProjectedLayer) -> ProjectedLayer:
    accuracy, shuffled = (_given(reply, name) for name in ("accuracy", "shuffled_accuracy"))
    return ProjectedLayer(reply.name, reply.channels, accuracy, shuffled, reply.has_tsne)


def _given(message: Any, name: str) -> Any:
    """The value of a field that may be absent."""
    return getattr(message, name) if message.HasField(name) else None
