"""Dense: from its request to a task, from the outcome to its reply."""

from collections.abc import Sequence
from math import isqrt

import numpy as np

from gradserve import colours
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import dense_pb2

from ...config import LimitSettings
from ...methods.dense import DenseArguments, DenseMaps
from ...methods.targets import Target
from ...models.card import ModelCard
from ...models.tiles import NOT_TRIED, DenseHead, best_size, most_cells, tiles
from ...pool.wire import Outcome, Task
from ..errors import Violations
from ..images import ModelInput
from ..reply import best, fill_tensor, provenance, scores
from ..request import PRIORITIES, Bound, CallContext, check_options, in_exact, model_of, task_of, time_budget
from ..sheets import sheet
from ..targets import targets_of
from .canvas import empty, picture, sides, sized

MAX_INPUTS = 16  # The most pixels of a picture, in those that are allowed as a model's input.
MAX_NUMBERS = 64 << 20  # The most numbers of a map of all classes' scores, or of the last map of linear layers.
TOP = 5  # The classes of the whole picture that a reply has.
TRIAL_PASSES = 16  # About what it costs to try a head, in forward passes at the model's own size.


def trial_task(request: dense_pb2.DenseRequest, card: ModelCard, at: CallContext) -> Task:
    """The task that finds what the model's head is, before the request can be checked."""
    budget = time_budget(request.options, at.remaining)
    return Task(
        id=f"{at.request_id}/trial",
        rpc="dense_head",
        model=card.name,
        image=empty(card.height, card.width),
        priority=PRIORITIES.get(request.options.priority, "interactive"),
        arrived=at.arrived,
        deadline=at.arrived + budget if budget > 0 else float("inf"),  # `bind` refuses the others.
        cost=TRIAL_PASSES * card.gflop,
        caller=at.caller.name,
        weight=at.caller.weight,
        generation=at.cards.generation,
    )


def bind(request: dense_pb2.DenseRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong.

    What the model's head is must have been found before; see `trial_task`.
    """
    card, violations = model_of(request.model, at.cards)
    options = in_exact(check_options("dense", request.options, card, at, violations), "Dense", violations)
    photo = picture(request.image, "image", at, violations)
    photo = empty(card.height, card.width) if photo is None else photo
    natural = (photo.shape[0], photo.shape[1])
    height, width = sides(request.size, natural, violations)
    targets = _targets(request.targets, card, at, violations)
    head = at.cards.dense_heads.get(card.name, NOT_TRIED)
    if head.refused:
        violations.not_applicable(f"Dense does not apply to {card.name}: {head.refused}")
        violations.check()
    tile = _check_size(height, width, request, card, head, at.limits, violations)
    violations.check()
    pixels = photo if (height, width) == natural else sized(photo, height, width, card, at)
    arguments = DenseArguments(targets, tile, card.head, head)
    task = task_of(options, card, pixels, arguments, _cost(height, width, tile, card, head), at)
    region = pb.Region(width=natural[1], height=natural[0], image_width=natural[1], image_height=natural[0])
    how = pb.PREPROCESS_AS_IS if pixels is photo else pb.PREPROCESS_WHOLE_IMAGE
    return Bound(task, card, ModelInput(pixels, region, preprocess=how), ("dense",))


def _targets(
    messages: Sequence[pb.Target], card: ModelCard, at: CallContext, violations: Violations
) -> tuple[Target, ...]:
    """The classes; what is no class or rank is a violation."""
    wrong = [i for i, each in enumerate(messages) if each.WhichOneof("kind") in ("unit", "contrast", "similarity")]
    for i in wrong:
        text = "must be a class or a rank; maps of units are those of Inspect's activations"
        violations.add(f"targets[{i}]", text, for_every_model=True)
    found = targets_of(messages, card, False, at, violations)
    return tuple(each for each in found if isinstance(each, Target))


def _check_size(
    height: int,
    width: int,
    request: dense_pb2.DenseRequest,
    card: ModelCard,
    head: DenseHead,
    limits: LimitSettings,
    violations: Violations,
) -> tuple[int, int]:
    """The largest height and width of a tile, with violations where picture or tiles are too small or too large."""
    field = "size" if request.HasField("size") else "image"
    if max(height, width) > limits.max_aspect * min(height, width):
        violations.add(field, f"must be at most {limits.max_aspect:g} to 1, was {width}x{height}")
    if min(height, width) < head.least:
        what = f"sides of at least {head.least} pixels, with which its last map has a cell for its head"
        violations.add(field, f"{card.name} takes {what}; was {width}x{height}")
    numbers = most_cells(height, width, head) * max(head.channels if head.chain else 0, card.outputs)
    most = MAX_INPUTS * limits.max_input_pixels
    if height * width > most or numbers > MAX_NUMBERS:
        pixels = min(most, int(MAX_NUMBERS / numbers * height * width))
        text = f"must have at most about {pixels} pixels for maps of {card.name}, was {width}x{height}"
        violations.add(field, f"{text}; set a smaller size")
    longest = isqrt(limits.max_input_pixels)
    if request.HasField("tile"):
        least = max(head.least_tile, card.min_size + head.stride)
        if head.untiled:
            violations.add("tile", f"must be left out for {card.name}: {head.untiled}")
        elif not least <= request.tile <= longest:
            sees = "a smaller one may have no cell that depends on it alone"
            violations.add("tile", f"must be from {least} to {longest} for {card.name} ({sees}), was {request.tile}")
        return request.tile, request.tile
    if height * width <= limits.max_input_pixels:
        return height, width
    size = None if head.untiled else best_size(height, width, limits.max_input_pixels, head)
    if size is None:
        why = head.untiled or f"the smallest tile has {head.least_tile} pixels a side"
        text = f"{card.name} takes at most {limits.max_input_pixels} pixels at once, and cannot be cut into tiles"
        violations.add(field, f"{text}: {why}; was {width}x{height}, set a smaller size")
    return size or (height, width)


def _cost(height: int, width: int, tile: tuple[int, int], card: ModelCard, head: DenseHead) -> float:
    """What the tiles and the head cost in GFLOP."""
    pixels = sum(each.area for each in tiles(height, width, tile, head))
    cells = most_cells(height, width, head)
    return card.gflop * pixels / (card.height * card.width) + head.gflop * cells


def reply(request: dense_pb2.DenseRequest, bound: Bound, outcome: Outcome) -> dense_pb2.DenseResponse:
    """The maps with a picture each."""
    found: DenseMaps = outcome.result
    head = bound.task.arguments.head
    height, width = bound.picture.pixels.shape[:2]
    response = dense_pb2.DenseResponse(
        stride=head.stride,
        offset=head.offset,
        height=height,
        width=width,
        tiles=found.tiles,
        top=scores(found.logits, best(found.logits, TOP), bound.card),
        region=bound.picture.region,
        provenance=provenance(bound, outcome),
    )
    for score, values in zip(scores(found.logits, found.labels, bound.card), found.probabilities, strict=True):
        y, x = np.unravel_index(int(values.argmax()), values.shape)
        png = sheet([colours.coloured(values.astype(np.float64), signed=False)])
        response.maps.append(dense_pb2.DenseMap(score=score, largest=float(values[y, x]), y=int(y), x=int(x), png=png))
    fill_tensor(response.logits, found.scores.astype("<f4"))
    fill_tensor(response.probabilities, found.probabilities.astype("<f4"))
    return response
