"""Pure functions for what makes pictures: arguments -> request message, replies -> results."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from gradserve.arguments import ImageLike, Layout, MaximizeArguments, Options, SizeLike, StyleLike, StylizeArguments
from gradserve.messages import fields, inputs
from gradserve.messages.common import choice, count, provenance_of, request_options, score_of
from gradserve.messages.goals import GoalLike, goal_message
from gradserve.results.pictures import Curve, MaximizedImage, MaximizedImages, Progress, StylizedImage
from gradserve.v1 import maximize_pb2, progress_pb2, stylize_pb2

DEFAULT_TIMEOUT = 3600.0  # Seconds that a call which makes pictures may take.
_PRESET = maximize_pb2.MaximizePreset.DESCRIPTOR
_OPTIONS = Options.__annotations__


def maximize_request(
    goals: GoalLike | list[Any], **arguments: Unpack[MaximizeArguments]
) -> maximize_pb2.MaximizeRequest:
    """The arguments of Maximize as a message."""
    settings: dict[str, Any] = dict(arguments)
    options = request_options(**{name: settings.pop(name) for name in _OPTIONS if name in settings})
    image, preset = settings.pop("image", None), settings.pop("preset", "")
    layout = settings.pop("layout", "HWC")
    request = maximize_pb2.MaximizeRequest(
        model=settings.pop("model", ""),
        goals=[goal_message(goal, layout) for goal in (goals if isinstance(goals, list) else [goals])],
        preset=choice("preset", _PRESET, preset) if preset else None,
        image=None if image is None else inputs.message(image, layout),
        size=size_message(settings.pop("size", None)),
        snapshots=[count("snapshots", step) for step in settings.pop("snapshots", ())],
        options=options,
    )
    fields.fill_fields(request.settings, "settings", settings)
    return request


def maximized(goals: GoalLike | list[Any], reply: maximize_pb2.MaximizeResponse) -> MaximizedImage | MaximizedImages:
    """The reply of Maximize: one picture, or for a list of goals all of them."""
    settings, origin = fields.resolved(reply.settings), provenance_of(reply.provenance)
    pictures = MaximizedImages(
        [
            MaximizedImage(
                name=each.name,
                png=each.png,
                value=each.value,
                top=tuple(map(score_of, each.top)),
                curves=curves(each.curves),
                snapshots={shot.step: shot.png for shot in each.snapshots},
                settings=settings,
                preset=fields.choice_name(_PRESET, reply.preset),
                asked=reply.asked,
                done=reply.done,
                warnings=tuple(reply.warnings),
                provenance=origin,
                stretched=each.display or None,
            )
            for each in reply.images
        ]
    )
    return pictures if isinstance(goals, list) else pictures[0]


def maximize_event(
    goals: GoalLike | list[Any], event: maximize_pb2.MaximizeEvent
) -> Progress | MaximizedImage | MaximizedImages:
    """What StreamMaximize sends: progress, and in the end the result."""
    return progress(event.progress) if event.HasField("progress") else maximized(goals, event.result)


def stylize_request(
    content: ImageLike | None, style: StyleLike | None, **arguments: Unpack[StylizeArguments]
) -> stylize_pb2.StylizeRequest:
    """The arguments of Stylize as a message."""
    settings: dict[str, Any] = dict(arguments)
    options = request_options(**{name: settings.pop(name) for name in _OPTIONS if name in settings})
    layout = settings.pop("layout", "HWC")
    styles = [] if style is None else style if isinstance(style, list) else [style]
    request = stylize_pb2.StylizeRequest(
        model=settings.pop("model", ""),
        content=None if content is None else inputs.message(content, layout),
        styles=[_style(each, layout) for each in styles],
        style_layers=_layer_weights(settings.pop("style_layers", ())),
        content_layers=_layer_weights(settings.pop("content_layers", ())),
        size=size_message(settings.pop("size", None)),
        snapshots=[count("snapshots", step) for step in settings.pop("snapshots", ())],
        options=options,
    )
    fields.fill_fields(request.settings, "settings", settings)
    return request


def stylized(reply: stylize_pb2.StylizeResponse) -> StylizedImage:
    """The reply of Stylize as a result."""
    return StylizedImage(
        png=reply.png,
        losses=_losses(reply.losses),
        initial_losses=_losses(reply.initial_losses),
        curves=curves(reply.curves),
        snapshots={shot.step: shot.png for shot in reply.snapshots},
        style_layers={each.layer: each.weight for each in reply.style_layers},
        content_layers={each.layer: each.weight for each in reply.content_layers},
        settings=fields.resolved(reply.settings),
        asked=reply.asked,
        done=reply.done,
        warnings=tuple(reply.warnings),
        provenance=provenance_of(reply.provenance),
    )


def stylize_event(event: stylize_pb2.StylizeEvent) -> Progress | StylizedImage:
    """What StreamStylize sends: progress, and in the end the result."""
    return progress(event.progress) if event.HasField("progress") else stylized(event.result)


def progress(message: progress_pb2.Progress) -> Progress:
    """How far a call has come."""
    return Progress(message.step, message.steps, _losses(message.losses), tuple(message.previews))


def curves(messages: Any) -> Mapping[str, Curve]:
    """Losses by name, one value for each step."""
    return {curve.name: np.array(curve.values, dtype=np.float32) for curve in messages}


def size_message(size: SizeLike) -> progress_pb2.Size | None:
    """The longer side, or (width, height)."""
    if size is None:
        return None
    if isinstance(size, tuple):
        width, height = size
        return progress_pb2.Size(width=count("size", width), height=count("size", height))
    return progress_pb2.Size(longer=count("size", size))


def _layer_weights(layers: Sequence[str] | Mapping[str, float]) -> list[stylize_pb2.LayerWeight]:
    shares = (
        layers if isinstance(layers, Mapping) else dict.fromkeys([layers] if isinstance(layers, str) else layers, 1.0)
    )
    return [stylize_pb2.LayerWeight(layer=layer, weight=weight) for layer, weight in shares.items()]


def _losses(messages: Any) -> dict[str, float]:
    return {loss.name: loss.value for loss in messages}


def _style(each: Any, layout: Layout) -> stylize_pb2.Style:
    """A picture, or a pair of a picture and its weight."""
    picture, weight = each if isinstance(each, tuple) else (each, 1.0)
    return stylize_pb2.Style(image=inputs.message(picture, layout), weight=weight)
