"""Stylize: from its request to a task, from the outcome to its reply."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import progress_pb2, stylize_pb2

from ...config import LimitSettings
from ...engine.costs import passes_cost
from ...methods.stylize import (
    PIXELS,
    LayerWeight,
    StylizeArguments,
    Stylized,
    StylizeSettings,
    default_content_layers,
    default_style_layers,
)
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..arguments.targets import known_layer
from ..errors import Violations
from ..fields import from_dict, parse_fields
from ..pictures.images import ModelInput, fits, png, sizes_taken
from ..progress import check_snapshots, curves, snapshots
from ..reply import provenance
from ..request import Bound, CallContext, check_options, model_of, task_of
from .canvas import canvas, picture, scaled, sized

CONTENT_SIDE, TEXTURE_SIDE = 512, 256  # Default pixels of the longer side.
MAX_STYLES, MAX_LAYERS, MAX_STEPS = 8, 16, 4096
MAX_WEIGHT = 1e9


def bind(request: stylize_pb2.StylizeRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    options = check_options("stylize", request.options, card, at, violations)
    has_content = request.HasField("content")
    content = picture(request.content, "content", at, violations) if has_content else None
    pixels = canvas(content, request.size, CONTENT_SIDE if has_content else TEXTURE_SIDE, card, at, violations)
    styles = _styles(request, max(pixels.shape[:2]), card, at, violations)
    settings = _settings(request, has_content, violations)
    style_layers = _layers(request.style_layers, "style_layers", default_style_layers(card), card, violations)
    content_layers = _layers(request.content_layers, "content_layers", default_content_layers(card), card, violations)
    size = (pixels.shape[0], pixels.shape[1])
    _check_something_to_match(request, has_content, card, style_layers, content_layers, settings, violations)
    _check_sizes(size, settings, card, at.limits, violations)
    snapshot_steps = check_snapshots(request.snapshots, settings.total, violations)
    if card.no_gradient:
        violations.not_applicable(f"Stylize does not apply to {card.name}: {card.no_gradient}")
    violations.check()
    # The content's pass and the two measurements are 3 rows more.
    rows = settings.steps + settings.coarse_steps / 4 + len(styles) + 3
    cost = passes_cost(card.gflop, "image") * rows * size[0] * size[1] / (card.height * card.width)
    arguments = StylizeArguments(has_content, styles, style_layers, content_layers, settings, snapshot_steps)
    task = task_of(options, card, pixels, arguments, cost, at)
    return Bound(task, card, ModelInput(pixels, pb.Region()), (settings.optimizer,))


def _styles(
    request: stylize_pb2.StylizeRequest, longer: int, card: ModelCard, at: CallContext, violations: Violations
) -> tuple[tuple[np.ndarray[Any, Any], float], ...]:
    if len(request.styles) > MAX_STYLES:
        violations.add("styles", f"must be at most {MAX_STYLES}, were {len(request.styles)}", for_every_model=True)
        return ()
    styles = []
    for i, style in enumerate(request.styles):
        weight = _weight(style, f"styles[{i}].weight", violations)
        pixels = picture(style.image, f"styles[{i}].image", at, violations)
        if pixels is None:
            continue
        height, width = pixels.shape[:2]
        height, width = scaled((height, width), longer / max(height, width))
        if not card.any_size:
            height, width = card.height, card.width
        if not fits(height, width, card, at.limits):
            violations.add(f"styles[{i}].image", f"becomes {width}x{height}, and {card.name} does not take that")
            continue
        styles.append((sized(pixels, height, width, card, at), weight))
    return tuple(styles)


def _weight(message: stylize_pb2.Style | stylize_pb2.LayerWeight, path: str, violations: Violations) -> float:
    weight = message.weight if message.HasField("weight") else 1.0
    if not (math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
        violations.add(path, f"must be a number above 0 and up to {MAX_WEIGHT:g}, was {weight:g}", for_every_model=True)
    return weight


def _settings(request: stylize_pb2.StylizeRequest, has_content: bool, violations: Violations) -> StylizeSettings:
    defaults: dict[str, Any] = {"start": "content" if has_content and request.styles else "noise"}
    if request.settings.optimizer == progress_pb2.OPTIMIZER_LBFGS:
        defaults["rate"] = 1.0
    settings = StylizeSettings(
        **parse_fields(StylizeSettings, request.settings, "settings", violations, defaults) or defaults
    )
    if settings.start == "content" and not has_content:
        violations.add("settings.start", "must be NOISE where no content is given, was CONTENT", for_every_model=True)
    if settings.total > MAX_STEPS:
        violations.add(
            "settings.steps",
            f"with coarse_steps make {settings.total}; at most {MAX_STEPS} are allowed",
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
    if len(named) > MAX_LAYERS:
        violations.add(path, f"must be at most {MAX_LAYERS}, were {len(named)}", for_every_model=True)
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


def _check_something_to_match(
    request: stylize_pb2.StylizeRequest,
    has_content: bool,
    card: ModelCard,
    style_layers: Iterable[LayerWeight],
    content_layers: Iterable[LayerWeight],
    settings: StylizeSettings,
    violations: Violations,
) -> None:
    if has_content and not content_layers:
        violations.not_applicable(f"Stylize does not apply to {card.name}: no layer of it has spatial extent")
    if not has_content and not request.styles:
        violations.add(
            "content", "is needed where there are no styles: set content, styles, or both", for_every_model=True
        )
        return
    content = has_content and settings.content_weight
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
    size: tuple[int, int], settings: StylizeSettings, card: ModelCard, limits: LimitSettings, violations: Violations
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


def reply(request: stylize_pb2.StylizeRequest, bound: Bound, outcome: Outcome) -> stylize_pb2.StylizeResponse:
    """The picture with its losses, and with the layers that counted."""
    stylized: Stylized = outcome.result
    arguments: StylizeArguments = bound.task.arguments
    settings = arguments.settings
    counts_style = arguments.styles and settings.style_weight
    counts_content = arguments.has_content and settings.content_weight
    message = stylize_pb2.StylizeResponse(
        png=png(stylized.pixels),
        losses=_losses(stylized.losses),
        initial_losses=_losses(stylized.initial),
        curves=curves(stylized.curves),
        snapshots=snapshots(stylized.snapshots),
        style_layers=[_layer(each) for each in arguments.style_layers] if counts_style else [],
        content_layers=[_layer(each) for each in arguments.content_layers] if counts_content else [],
        asked=stylized.asked,
        done=stylized.done,
        completed_fraction=stylized.done / stylized.asked,
        warnings=stylized.warnings,
        provenance=provenance(bound, outcome),
    )
    from_dict(message.settings, {name: getattr(settings, name) for name in settings.__slots__})
    return message


def _layer(each: LayerWeight) -> stylize_pb2.LayerWeight:
    return stylize_pb2.LayerWeight(layer=each.layer, weight=each.weight)


def _losses(values: Mapping[str, float]) -> list[progress_pb2.LossPart]:
    return [progress_pb2.LossPart(name=name, value=value) for name, value in values.items()]
