"""The views of Inspect, from their messages to the arguments of workers."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gradserve.v1 import inspect_pb2

from ...config import LimitSettings
from ...engine.costs import GRADIENT_COST, passes_cost
from ...methods.inspect.activations import ActivationsArguments
from ...methods.inspect.receptive_field import NEIGHBOURS, PICTURES, FieldArguments, rounds
from ...methods.inspect.table import TableArguments
from ...methods.inspect.weights import WeightsArguments
from ...models.card import Layer, ModelCard
from ..arguments.targets import has_channels, known_layer
from ..errors import Violations, near, shown
from ..fields import choice
from ..pictures.images import fits
from ..request import area

MAX_CHANNELS, MAX_INPUTS = 256, 64
DEFAULT_FILTERS, DEFAULT_INPUTS, DEFAULT_MAPS = 64, 8, 16
FIELD_CHANNELS = 16  # How many channels a receptive field is of, where none is named.
MAX_VALUE_BYTES = 60 << 20  # The most bytes of numbers in one reply.
NUMBER_BYTES = 4
STATISTICS_COST = 250  # Floating-point operations that take as long as the statistics of one value of a layer's output.
COLOURS = 3
ORDER = inspect_pb2.DESCRIPTOR.enum_types_by_name["ChannelOrder"]


def weights(message: inspect_pb2.WeightsView, card: ModelCard, violations: Violations) -> WeightsArguments | None:
    """What is shown of a layer's weights; None, with a violation, where that is at fault."""
    count = _count(message, "weights", DEFAULT_FILTERS, violations)
    inputs = message.inputs if message.HasField("inputs") else DEFAULT_INPUTS
    if not 1 <= inputs <= MAX_INPUTS:
        violations.add("weights.inputs", f"must be from 1 to {MAX_INPUTS}, was {inputs}", for_every_model=True)
    layer = weighted_layer(message.layer, card, violations)
    if layer is None:
        return None
    channels = _channels(message.channels, "weights.channels", layer.name, layer.weight[0], violations)
    shape, channels_last = input_map(layer, card) if len(layer.weight) == 2 else (None, False)
    whole = is_colour(layer, card, shape) or (len(layer.weight) == 2 and shape is None)
    width = layer.weight[1] if shape is None else shape[0]
    share = 1.0 if whole or message.values else min(inputs, width) / width  # Of each channel's weights.
    numbers = (len(channels) or min(count, layer.weight[0])) * prod(layer.weight[1:]) * share
    _check_size(numbers, "weights", message, violations)
    return WeightsArguments(
        layer.name, channels, count, None if whole else inputs, shape, channels_last, message.values
    )


def weighted_layer(name: str, card: ModelCard, violations: Violations) -> Layer | None:
    """The layer, which may be a folded convolution; None, with a violation, where it has no weights."""
    layers, listed = every_layer(card), card.listed(name)
    layer = next((each for each in layers if each.name == listed), None)
    names = [each.name for each in layers if each.weight]
    if layer is None:
        violations.add("weights.layer", f"{card.name} has no layer {shown(name)}; {near(name, names)}")
    elif not layer.weight:
        what = f"{layer.name} ({layer.kind}) has no weights of convolutions or linear layers"
        violations.add("weights.layer", f"{what}; name another; {near(name, names)}")
        return None
    return layer


def every_layer(card: ModelCard) -> list[Layer]:
    """All layers in the order in which they run, with the convolutions that are folded."""
    return sorted((*card.layers, *card.folded_layers), key=lambda layer: layer.number)


def table_layers(card: ModelCard) -> list[Layer]:
    """The rows of the table. The last call of a layer that runs more than once has the layer's plain name alone."""
    layers = every_layer(card)
    later = [*(layer.name for layer in layers[1:]), ""]
    return [
        layer for layer, name in zip(layers, later, strict=True) if layer.name.rpartition(":")[0] != name or not name
    ]


def is_colour(layer: Layer, card: ModelCard, shape: tuple[int, int, int] | None) -> bool:
    """Whether a layer's inputs are the colours of the image: of the first layer with weights, if it sees three."""
    if card.channels != COLOURS:
        return False
    first = next(each for each in every_layer(card) if each.weight)
    inputs = shape[0] if shape is not None else layer.weight[1] if len(layer.weight) == 4 else 0
    return layer.name == first.name and inputs == COLOURS


def input_map(layer: Layer, card: ModelCard) -> tuple[tuple[int, int, int] | None, bool]:
    """Channels, height and width of the map that a linear layer takes as a vector, and whether channels come last.

    None where it takes no map. The map is the output of the last layer before it, or of an earlier one where all those
    between give vectors of as many values; where only such vectors come before, it is the image.
    """
    before = [each for each in card.layers if each.number < layer.number and each.layout != "other"]
    for each in reversed(before):
        if each.values != layer.weight[1]:
            return None, False
        if each.layout in ("nchw", "nhwc"):
            shape = (each.channels, each.height, each.width)
            return (shape, each.layout == "nhwc") if each.is_map else (None, False)
        if each.layout != "vector":
            return None, False
    image = (card.channels, card.height, card.width)
    return (image if prod(image) == layer.weight[1] else None), False


def activations(
    message: inspect_pb2.ActivationsView, card: ModelCard, pixels: np.ndarray, violations: Violations
) -> ActivationsArguments | None:
    """Which maps are shown; None, with a violation, where that is at fault."""
    count = _count(message, "activations", DEFAULT_MAPS, violations)
    order: Any = choice(ORDER, message.order, "activations.order", violations) or "mean"
    layer = known_layer(message.layer, card, "activations.layer", violations)
    if layer is None or not _has_positions(layer, card, violations):
        return None
    channels = _channels(message.channels, "activations.channels", layer.name, layer.channels, violations)
    positions = layer.height * layer.width * area(pixels, card)
    numbers = (len(channels) or min(count, layer.channels)) * positions
    _check_size(numbers, "activations", message, violations)
    return ActivationsArguments(layer.name, channels, count, order)


def _has_positions(layer: Layer, card: ModelCard, violations: Violations) -> bool:
    if not has_channels(layer, card, "activations.layer", violations):
        return False
    if layer.layout == "vector":
        maps = near(layer.name, [each.name for each in card.layers if each.is_map])
        text = f"{layer.name} has no spatial extent: its output is a vector of {layer.channels}"
        violations.add("activations.layer", f"{text}; name a layer that gives a map; {maps}")
    return layer.layout != "vector"


def table(message: inspect_pb2.TableView, card: ModelCard, violations: Violations) -> TableArguments:
    """Which layers are watched, and by which loss."""
    pictures, labels = len(message.images), tuple(message.labels)
    if labels and len(labels) != pictures:
        text = f"must be none, or one for each of the {pictures} images, were {len(labels)}"
        violations.add("table.labels", text, for_every_model=True)
    if labels and card.positions:
        violations.not_applicable(f"table.labels does not apply, since {card.name} gives a score for each position")
    for i, label in enumerate(labels):
        if label >= len(card.classes):
            violations.add(f"table.labels[{i}]", f"must be below {len(card.classes)}, was {label}")
            break
    layers = tuple(layer.name for layer in table_layers(card) if layer.layout != "other" and card.layer(layer.name))
    return TableArguments(layers, pictures, labels, loss=not (card.positions or card.no_gradient))


def row_cost(arguments: TableArguments, card: ModelCard) -> float:
    """What a picture of the table costs, in GFLOP."""
    numbers = sum(layer.values for layer in map(card.layer, arguments.layers) if layer is not None)
    statistics = numbers * STATISTICS_COST / 1e9
    return passes_cost(card.gflop, "image" if arguments.loss else "nothing") + statistics


def receptive_field(
    message: inspect_pb2.ReceptiveFieldView, card: ModelCard, limits: LimitSettings, violations: Violations
) -> FieldArguments | None:
    """Of which unit, and on which sizes; None, with a violation, where that is at fault."""
    path = "receptive_field"
    layer = known_layer(message.layer, card, f"{path}.layer", violations)
    if layer is None or not has_channels(layer, card, f"{path}.layer", violations):
        return None
    if card.no_gradient:
        violations.not_applicable(f"receptive_field does not apply to {card.name}: {card.no_gradient}")
    if message.HasField("channel"):
        channels = _channels([message.channel], f"{path}.channel", layer.name, layer.channels, violations)
    else:
        few = min(FIELD_CHANNELS, layer.channels)
        channels = tuple(i * layer.channels // few for i in range(few))
    sizes = [(card.height, card.width)]
    while card.any_size and layer.is_map:
        height, width = 2 * sizes[-1][0], 2 * sizes[-1][1]
        if not fits(height, width, card, limits):
            break
        sizes.append((height, width))
    return FieldArguments(layer.name, channels, layer.layout != "vector", tuple(sizes))


def field_cost(arguments: FieldArguments, card: ModelCard) -> float:
    """What a receptive field costs in GFLOP if it ends on the second size, as most do."""
    areas = [height * width / (card.height * card.width) for height, width in arguments.sizes[:2]]
    last = PICTURES * (rounds(len(arguments.channels)) + len(NEIGHBOURS)) - 1
    return card.gflop * (sum(areas) * (1 + GRADIENT_COST) + areas[-1] * last * GRADIENT_COST)


def _count(message: Any, view: str, default: int, violations: Violations) -> int:
    """How many channels are shown, where they are not named."""
    count = int(message.count) if message.HasField("count") else default
    if not 1 <= count <= MAX_CHANNELS:
        violations.add(f"{view}.count", f"must be from 1 to {MAX_CHANNELS}, was {count}", for_every_model=True)
    elif message.HasField("count") and message.channels:
        text = "is for the strongest channels, and channels names some; set one of both"
        violations.add(f"{view}.count", text, for_every_model=True)
    if len(message.channels) > MAX_CHANNELS:
        text = f"must be at most {MAX_CHANNELS}, were {len(message.channels)}"
        violations.add(f"{view}.channels", text, for_every_model=True)
    return count


def _channels(channels: Sequence[int], path: str, layer: str, total: int, violations: Violations) -> tuple[int, ...]:
    """The numbers of channels, with a violation for the first that the layer does not have."""
    beyond = next((each for each in channels if each >= total), None)
    if beyond is not None:
        violations.add(path, f"must be from 0 to {total - 1}, as {layer} has {total} channels; was {beyond}")
    return tuple(channels)


def _check_size(numbers: float, view: str, message: Any, violations: Violations) -> None:
    """A violation for more numbers than a reply may carry, or than a worker may send to be drawn."""
    size = numbers * NUMBER_BYTES
    if size > MAX_VALUE_BYTES:
        limit = f"at most {MAX_VALUE_BYTES >> 20} MiB are allowed; ask for fewer channels"
        path = f"{view}.{'channels' if message.channels else 'count'}"
        violations.add(path, f"these channels have {size / 2**20:.1f} MiB of numbers; {limit}")
