"""Dense: from its request to a task, from the outcome to its reply."""

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

import numpy as np

from gradserve import colours
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import dense_pb2

from ...config import LimitSettings
from ...methods.dense import DenseArguments, DenseMaps
from ...methods.targets import Target
from ...models.card import ModelCard
from ...models.tiles import DenseHead, amount, best_size, most_cells, refusal
from ...pool.wire import Outcome, Task
from ..arguments.targets import MAX_TARGETS, targets_of
from ..errors import Violations
from ..pictures.images import ModelInput
from ..pictures.sheets import sheet
from ..reply import best, fill_tensor, provenance, scores
from ..request import Bound, CallContext, CheckedOptions, check_options, in_exact, model_of, task_of
from .canvas import empty, picture, sides, sized

MAX_INPUTS = 16  # The most pixels of a picture, as a multiple of those that a model's input may have.
MAX_NUMBERS = 64 << 20  # The most numbers of a map of all classes' scores, or of the last map of linear layers.
MAX_VALUES = 4 << 20  # The most positions of all maps in a reply, each of which has a logit and a probability.
MAX_TILES = 4096
TOP = 5  # The classes of the whole picture that a reply has.
TRIAL = "dense_head"
CLASS_KINDS = ("class_index", "class_name", "rank", None)  # `targets_of` tells of a target that has none.
# About what it costs to try a head: passes at the model's own size, and pixels of the long side of narrow pictures.
TRIAL_PASSES, TRIAL_PIXELS = 10, 24_000


def bind(request: dense_pb2.DenseRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong.

    Until the model's head is known, the task is instead one that finds out what it is; see `is_trial`.
    """
    card, violations = model_of(request.model, at.cards)
    options = in_exact(check_options("dense", request.options, card, at, violations), "Dense", violations)
    photo = picture(request.image, "image", at, violations)
    photo = empty(card.height, card.width) if photo is None else photo
    natural = (photo.shape[0], photo.shape[1])
    height, width = sides(request.size, natural, violations)
    targets = _targets(request.targets, card, at, violations)
    head = at.cards.dense_heads.get(card.name)
    why = refusal(card) if head is None else head.refused
    if why:
        violations.not_applicable(f"Dense does not apply to {card.name}: {why}")
    fits = not why and _check_bounds(height, width, request, card, at.limits, violations)
    if request.HasField("tile") and not why:
        _check_tile(request.tile, card, head, at.limits, violations)
    region = pb.Region(width=natural[1], height=natural[0], image_width=natural[1], image_height=natural[0])
    if head is None:
        violations.check()
        return Bound(_trial(options, card, at), card, ModelInput(photo, region), ("dense",))
    tile = _tile(height, width, request, card, head, at.limits, violations) if fits else (height, width)
    violations.check()
    pixels = photo if (height, width) == natural else sized(photo, height, width, card, at)
    arguments = DenseArguments(targets, tile, card.head, head)
    task = task_of(options, card, pixels, arguments, _cost(height, width, tile, card, head), at)
    how = pb.PREPROCESS_AS_IS if pixels is photo else pb.PREPROCESS_WHOLE_IMAGE
    return Bound(task, card, ModelInput(pixels, region, preprocess=how), ("dense",))


def is_trial(bound: Bound) -> bool:
    """Whether its task finds what the model's head is, after which the request is bound again."""
    return bound.task.rpc == TRIAL


def _trial(options: CheckedOptions, card: ModelCard, at: CallContext) -> Task:
    passes = TRIAL_PASSES + TRIAL_PIXELS * card.min_size / (card.height * card.width)
    task = task_of(options, card, empty(card.height, card.width), None, passes * card.gflop, at, may_end_early=True)
    return replace(task, id=f"{task.id}/trial", rpc=TRIAL, allow_partial=False)


def _targets(
    messages: Sequence[pb.Target], card: ModelCard, at: CallContext, violations: Violations
) -> tuple[Target, ...]:
    """The classes; what is no class or rank is a violation."""
    wrong = [i for i, each in enumerate(messages) if each.WhichOneof("kind") not in CLASS_KINDS]
    for i in wrong:
        text = "must be a class or a rank; maps of units are those of Inspect's activations"
        violations.add(f"targets[{i}]", text, for_every_model=True)
    found = targets_of(messages, card, False, at, violations)
    return tuple(each for each in found if isinstance(each, Target))


def _field(request: dense_pb2.DenseRequest) -> str:
    """The field that decides the size in which the model sees the picture."""
    return "size" if request.HasField("size") else "image"


def _check_bounds(
    height: int,
    width: int,
    request: dense_pb2.DenseRequest,
    card: ModelCard,
    limits: LimitSettings,
    violations: Violations,
) -> bool:
    """Whether the picture has a size that some head takes; if not, with violations."""
    field, most, before = _field(request), MAX_INPUTS * limits.max_input_pixels, len(violations.invalid)
    if max(height, width) > limits.max_aspect * min(height, width):
        violations.add(field, f"must be at most {limits.max_aspect:g} to 1, was {width}x{height}")
    if height * width > most:
        violations.add(field, f"must have at most {most} pixels, was {width}x{height}; set a smaller size")
    if min(height, width) < card.min_size:
        violations.add(field, f"{card.name} takes sides of at least {card.min_size} pixels, was {width}x{height}")
    return len(violations.invalid) == before


def _check_tile(
    tile: int, card: ModelCard, head: DenseHead | None, limits: LimitSettings, violations: Violations
) -> None:
    """Violations where a tile is too small or too large; how small it may be depends on the head, if that is known."""
    longest, least, sees = isqrt(limits.max_input_pixels), card.min_size, ""
    if head is not None and head.untiled:
        violations.add("tile", f"must be left out for {card.name}: {head.untiled}")
        return
    if head is not None:
        least = head.least_tile
        sees = " (a smaller one may have no cell that depends on it alone)"
    if least > longest:
        text = f"must be left out for {card.name}, whose smallest tile has {least} pixels a side"
        violations.add("tile", f"{text}, since the server takes at most {limits.max_input_pixels} pixels at once")
    elif not least <= tile <= longest:
        violations.add("tile", f"must be from {least} to {longest} for {card.name}{sees}, was {tile}")


def _tile(
    height: int,
    width: int,
    request: dense_pb2.DenseRequest,
    card: ModelCard,
    head: DenseHead,
    limits: LimitSettings,
    violations: Violations,
) -> tuple[int, int]:
    """The largest height and width of a tile, with violations where picture or tiles do not suit the head."""
    field = _field(request)
    if min(height, width) < head.least:
        what = f"sides of at least {head.least} pixels, with which its last map has a cell for its head"
        violations.add(field, f"{card.name} takes {what}; was {width}x{height}")
    _check_cells(height, width, request, card, head, violations)
    if request.HasField("tile"):
        count = 0 if violations.invalid else amount(height, width, (request.tile, request.tile), head).tiles
        if count > MAX_TILES:
            violations.add(
                "tile", f"makes {count} tiles of {width}x{height}, and may make {MAX_TILES}; set a larger one"
            )
        return request.tile, request.tile
    if height * width <= limits.max_input_pixels:
        return height, width
    size = None if head.untiled else best_size(height, width, limits.max_input_pixels, head)
    if size is None:
        why = head.untiled or f"the smallest tile has {head.least_tile} pixels a side"
        text = f"{card.name} takes at most {limits.max_input_pixels} pixels at once, and cannot be cut into tiles"
        violations.add(field, f"{text}: {why}; was {width}x{height}, set a smaller size")
    return size or (height, width)


def _check_cells(
    height: int, width: int, request: dense_pb2.DenseRequest, card: ModelCard, head: DenseHead, violations: Violations
) -> None:
    """A violation where the maps would have too many cells for a worker, or for a reply."""
    cells, count = most_cells(height, width, head), min(max(1, len(request.targets)), MAX_TARGETS)
    share_of_worker = cells * max(head.channels if head.chain else 0, card.outputs) / MAX_NUMBERS
    share_of_reply = cells * count / MAX_VALUES
    if max(share_of_worker, share_of_reply) > 1:
        pixels = int(height * width / max(share_of_worker, share_of_reply))
        text = f"must have at most about {pixels} pixels for maps of {f'{count} classes' if count > 1 else 'a class'}"
        fewer = share_of_reply > share_of_worker and count > 1
        helps = "name fewer classes, or set a smaller size" if fewer else "set a smaller size"
        violations.add(_field(request), f"{text} of {card.name}, was {width}x{height}; {helps}")


def _cost(height: int, width: int, tile: tuple[int, int], card: ModelCard, head: DenseHead) -> float:
    """What the tiles and the head cost in GFLOP."""
    pixels = amount(height, width, tile, head).pixels
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
