"""The map of the tests' server: three layers, points on a line, each picture that is sent above its number."""

import io
from typing import Any

from PIL import Image

from gradserve.v1 import project_pb2

COLOURS = ("red", "lime", "blue")  # Of the small pictures, by label.


def thumbnail(colour: str) -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(file, "PNG")
    return file.getvalue()


def projected(request: Any, classes: list[str], region: Any, provenance: Any) -> project_pb2.ProjectResponse:
    """The reply. Without labels, and so without accuracies, where the layer is "unlabelled"."""
    labelled = request.layer != "unlabelled"
    reply = project_pb2.ProjectResponse(
        layer=request.layer or "layer3",
        method=request.method or project_pb2.PROJECTION_METHOD_PCA,
        explained=[0.5, 0.25],
        classes=classes if labelled else [],
        total=600,
        separability_neighbours=10,
        separability_pictures=600 if labelled else 0,
        provenance=provenance,
    )
    for i, name in enumerate(("conv1", "a.layer.of.a.very.long.name", "layer3")):
        layer = reply.layers.add(name=name, channels=8, has_tsne=i == 2)
        if labelled:
            layer.accuracy, layer.shuffled_accuracy = 0.25 * (i + 1), 0.33
    for i in range(len(request.images)):
        picture = reply.pictures.add(x=float(i), y=5.0, region=region)
        if labelled:
            picture.label, picture.label_name, picture.agreement = i % 3, classes[i % 3], 0.75
        for k in range(request.neighbours):
            label = {"label": k % 3, "label_name": classes[k % 3]} if labelled else {}
            small = thumbnail(COLOURS[k % 3]) if request.thumbnails else b""
            picture.neighbours.add(row=k, name=f"n{k}.png", distance=0.5 + k, thumbnail=small, **label)
    for row in range(request.points):
        label = {"label": row % 3} if labelled else {}
        small = thumbnail(COLOURS[row % 3]) if request.thumbnails else b""
        reply.points.add(row=row, x=float(row), y=float(row % 3), name=f"p{row}.png", thumbnail=small, **label)
    return reply
