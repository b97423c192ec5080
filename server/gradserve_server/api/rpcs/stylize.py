"""Stylize: from its request to a task, from the outcome to its reply."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import progress_pb2, stylize_pb2

from ...config import LimitSettings
from ...engine.batch_limits import passes_cost
from ...methods.stylize import PIXELS, LayerWeight, Settings, Stylized, default_content_layers, default_style_layers
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..canvas import canvas, picture, scaled
from ..errors import Violations
from ..fields import from_dict, parse_fields
from ..images import ModelInput, fits, png, resized, sizes_taken
from ..progress import MAX_SNAPSHOTS, curves, snapshots
from ..reply import provenance
from ..request import Bound, CallContext, check_options, model_of, task_of
from ..targets import known_layer

LONGEST, TEXTURE = 512, 256  # pixels of the longer side where no size is asked for
MOST_STYLES, MOST_LAYERS, MOST_STEPS = 8, 16, 4096
MAX_WEIGHT = 1e9


def bind_stylize(request: stylize_pb2.StylizeRequest, at: CallContext) -> Bound:
    """Raises RequestError."""
    card, violations = model_of(request.model, at.cards)
    common = check_options("stylize", request.options, card, at, violations)
    given = request.HasField("content")
    content = picture(request.content, "content", at.limits, violations) if given else None
    pixels = canvas(content, request.size, LONGEST if given else TEXTURE, card, at.limits, violations)
    styles = _styles(request, max(pixels.shape[:2]), card, at.limits, violations)
    settings = _settings(request, given, violations)
    style_layers = _layers(request.style_layers, "style_layers", default_style_layers(card), card, violations)
    content_layers = _layers(request.content_layers, "content_layers", default_content_layers(card), card, violations)
    size = (pixels.shape[0], pixels.shape[1])
    _check_asked(request, given, card, style_layers, content_layers, settings, violations)
    _check_sizes(size, settings, card, at.limits, violations)
    if len(request.snapshots) > MAX_SNAPSHOTS or any(step > settings.total for step in request.snapshots):
        violations.add(
            "snapshots", f"must be at most {MAX_SNAPSHOTS} steps from 0 to {settings.total}", for_every_model=True
        )
    if card.no_gradient:
        violations.not_applicable(f"Stylize does not apply to {card.name}: {card.no_gradient}")
    violations.check()
    rows = settings.steps + settings.coarse_steps / 4 + len(styles) + 3  # the content, and the two measurements
    cost = passes_cost(card.gflop, "image") * rows * size[0] * size[1] / (card.height * card.width)
    arguments = {
        "has_content": given,
        "styles": styles,
        "style_layers": style_layers,
        "content_layers": content_layers,
        "settings": settings,
        "snapshots": tuple(request.snapshots),
    }
    task, region, how = task_of(
        "stylize", card, replace(common, image=ModelInput(pixels, pb.Region())), arguments, cost, at
    )
    return Bound(task, card, region, how, (settings.optimizer,))


def _styles(
    request: stylize_pb2.StylizeRequest, longer: int, card: ModelCard, limits: LimitSettings, violations: Violations
) -> list[tuple[np.ndarray[Any, Any], float]]:
    if len(request.styles) > MOST_STYLES:
        violations.add("styles", f"must be at most {MOST_STYLES}, were {len(request.styles)}", for_every_model=True)
        return []
    styles = []
    for i, style in enumerate(request.styles):
        weight = _weight(style, f"styles[{i}].weight", violations)
        pixels = picture(style.image, f"styles[{i}].image", limits, violations)
        if pixels is None:
            continue
        height, width = pixels.shape[:2]
        height, width = scaled((height, width), longer / max(height, width))
        if not card.any_size:
            height, width = card.height, card.width
        if not fits(height, width, card, limits):
            violations.add(f"styles[{i}].image", f"becomes {width}x{height}, and {card.name} does not take that")
            continue
        styles.append((resized(pixels, height, width, card.interpolation), weight))
    return styles


def _weight(message: stylize_pb2.Style | stylize_pb2.LayerWeight, path: str, violations: Violations) -> float:
    weight = message.weight if message.HasField("weight") else 1.0
    if not (math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
        violations.add(path, f"must be a number above 0 and up to {MAX_WEIGHT:g}, was {weight:g}", for_every_model=True)
    return weight


def _settings(request: stylize_pb2.StylizeRequest, given: bool, violations: Violations) -> Settings:
    defaults: dict[str, Any] = {"start": "content" if given and request.styles else "noise"}
    if request.settings.optimizer == progress_pb2.OPTIMIZER_LBFGS:
        defaults["rate"] = 1.0
    settings = Settings(**parse_fields(Settings, request.settings, "settings", violations, defaults) or defaults)
    if settings.start == "content" and not given:
        violations.add("settings.start", "must be NOISE where no content is given, was CONTENT", for_every_model=True)
    if settings.total > MOST_STEPS:
        violations.add(
            "settings.steps",
            f"with coarse_steps make {settings.total}; at most {MOST_STEPS} are allowed",
            for_every_model=True,
        )
    return settings


def _layers(
    messages: Iterable[stylize_pb2.LayerWeight],
    path: str,
    defaults: tuple[LayerWeight, ...],
    card: ModelCard,
    violations: Violations,
) -> tuple[LayerWeight, ...]:
    named = list(messages)
    if len(named) > MOST_LAYERS:
        violations.add(path, f"must be at most {MOST_LAYERS}, were {len(named)}", for_every_model=True)
        return ()
    layers = []
    for i, message in enumerate(named):
        weight = _weight(message, f"{path}[{i}].weight", violations)
        layers.append(LayerWeight(card.listed(message.layer), weight))
        if message.layer == PIXELS and path == "style_layers":
            continue
        layer = known_layer(message.layer, card, f"{path}[{i}].layer", violations)
        if layer is not None and not layer.is_map:
            violations.add(f"{path}[{i}].layer", f"{layer.name} of {card.name} has no spatial extent; name another")
    if len({each.layer for each in layers}) < len(layers):
        violations.add(path, "must name each layer once", for_every_model=True)
    return tuple(layers) or defaults


def _check_asked(
    request: stylize_pb2.StylizeRequest,
    given: bool,
    card: ModelCard,
    style_layers: Iterable[LayerWeight],
    content_layers: Iterable[LayerWeight],
    settings: Settings,
    violations: Violations,
) -> None:
    if given and not content_layers:
        violations.not_applicable(f"Stylize does not apply to {card.name}: no layer of it has spatial extent")
    if not given and not request.styles:
        violations.add(
            "content", "is needed where there are no styles: set content, styles, or both", for_every_model=True
        )
        return
    content = given and settings.content_weight
    style = request.styles and settings.style_weight
    if not content and not style:
        violations.add(
            "settings",
            "style_weight and content_weight leave nothing to optimise: at least one must count",
            for_every_model=True,
        )
    elif not content and all(each.layer == PIXELS for each in style_layers):
        violations.add("style_layers", "must name at least one layer of the model where there is no content to match")


def _check_sizes(
    size: tuple[int, int], settings: Settings, card: ModelCard, limits: LimitSettings, violations: Violations
) -> None:
    """The padded picture, and its half, must suit the model."""
    stages = [(1.0, "pad")] + [(0.5, "coarse_steps")] * bool(settings.coarse_steps)
    for factor, setting in stages:
        height, width = (math.ceil(side * factor) for side in size)
        pad = 2 * min(round(settings.pad * min(height, width)), min(height, width) - 1)
        if not card.any_size and (height + pad, width + pad) != (card.height, card.width):
            violations.add(f"settings.{setting}", f"must be 0: {card.name} accepts one size only")
        elif not fits(height + pad, width + pad, card, limits):
            text = f"makes {width + pad}x{height + pad}, and {card.name} takes {sizes_taken(card, limits)}"
            violations.add(f"settings.{setting}", text)


def stylize_reply(parse_fields: Bound, outcome: Outcome) -> stylize_pb2.StylizeResponse:
    """The picture with its losses."""
    made: Stylized = outcome.result
    asked = parse_fields.task.arguments
    settings: Settings = asked["settings"]
    reply = stylize_pb2.StylizeResponse(
        png=png(made.pixels),
        losses=_losses(made.losses),
        initial_losses=_losses(made.initial),
        curves=curves(made.curves),
        snapshots=snapshots(made.snapshots),
        style_layers=[_layer(each) for each in asked["style_layers"]]
        if asked["styles"] and settings.style_weight
        else [],
        content_layers=[_layer(each) for each in asked["content_layers"]]
        if asked["has_content"] and settings.content_weight
        else [],
        asked=made.asked,
        done=made.done,
        completed_fraction=made.done / made.asked,
        warnings=made.warnings,
        provenance=provenance(parse_fields, outcome),
    )
    from_dict(reply.settings, {name: getattr(settings, name) for name in settings.__slots__})
    return reply


def _layer(each: LayerWeight) -> stylize_pb2.LayerWeight:
    return stylize_pb2.LayerWeight(layer=each.layer, weight=each.weight)


def _losses(values: Mapping[str, float]) -> list[progress_pb2.LossPart]:
    return [progress_pb2.LossPart(name=name, value=value) for name, value in values.items()]
