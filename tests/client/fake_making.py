"""What the fake server makes: pictures of one colour, in the sizes that are asked for."""

from collections.abc import Iterator

from PIL import Image

from gradserve import images
from gradserve.v1 import common_pb2, maximize_pb2, progress_pb2, stylize_pb2

STEPS = 3
COURSE = {"objective": [1.0, 2.0, 4.0], "total_variation": [0.5, 0.25, 0.5]}
LOSSES = {"style": [1.0, 0.5, 0.1], "content": [0.0, 0.2, 0.3]}


def maximized(request, classes, origin) -> maximize_pb2.MaximizeResponse:
    """A red picture for every goal."""
    reply = maximize_pb2.MaximizeResponse(
        preset=request.preset or maximize_pb2.MAXIMIZE_PRESET_STRONG,
        settings=maximize_pb2.MaximizeSettings(steps=STEPS, rate=0.05, octaves=1),
        asked=STEPS,
        done=2 if request.options.allow_partial else STEPS,
        warnings=["ODD: a warning"],
        provenance=origin,
    )
    side = request.size.longer or 24
    for goal in request.goals:
        target = goal.summands[0].target
        name = target.class_name or classes[min(target.class_index, len(classes) - 1)]
        score = common_pb2.Score(class_index=0, class_name=name, probability=0.98, logit=4.0)
        made = reply.images.add(
            goal=goal, name=name, png=png(side, "red"), value=4.0, top=[score], curves=curves(COURSE)
        )
        if request.preset == maximize_pb2.MAXIMIZE_PRESET_LECTURE:
            made.display = png(side, "grey")
        for step in request.snapshots:
            made.snapshots.add(step=step, png=png(side, "blue"))
    return reply


def stylized(request, origin) -> stylize_pb2.StylizeResponse:
    """A green picture."""
    size = images.opened(request.content).size if request.HasField("content") else (24, 24)
    return stylize_pb2.StylizeResponse(
        png=png(request.size.longer or max(size), "green"),
        losses=parts(LOSSES, -1),
        initial_losses=parts(LOSSES, 0),
        curves=curves(LOSSES),
        style_layers=request.style_layers or [stylize_pb2.LayerWeight(layer="pixels", weight=1)],
        content_layers=[stylize_pb2.LayerWeight(layer="features.0", weight=1)],
        settings=request.settings,
        asked=STEPS,
        done=STEPS,
        provenance=origin,
    )


def progress(course: dict[str, list[float]]) -> Iterator[progress_pb2.Progress]:
    """Two reports."""
    for step in (1, 2):
        yield progress_pb2.Progress(step=step, steps=STEPS, losses=parts(course, step), previews=[png(8, "black")])


def parts(course: dict[str, list[float]], step: int) -> list[progress_pb2.LossPart]:
    return [progress_pb2.LossPart(name=name, value=values[step]) for name, values in course.items()]


def curves(course: dict[str, list[float]]) -> list[progress_pb2.Curve]:
    return [progress_pb2.Curve(name=name, values=values) for name, values in course.items()]


def png(side: int, colour: str) -> bytes:
    return images.png(Image.new("RGB", (side, side), colour))
