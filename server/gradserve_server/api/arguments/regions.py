"""Regions of a request, boxes and masks: over which scores are summed, and inside which an attack may change pixels."""

from dataclasses import replace

import numpy as np

from gradserve.v1 import attack_pb2
from gradserve.v1 import common_pb2 as pb

from ...methods.attack import METHODS
from ...methods.regions import ScoredRegion
from ...models.card import ModelCard
from ...models.preprocess import BadImage
from ..errors import Violations
from ..pictures import images
from ..request import CallContext

NEEDED = (
    "must be set for {name}, which gives a score for each position: the box or mask over which it is summed "
    "(on the command line --region box:x0,y0,x1,y1 or --region MASK)"
)
HALF_WHITE = {"u": 128, "f": 0.5}  # Smallest value inside a mask, by the kind of its numbers.


def score_region(
    message: pb.ScoreRegion,
    card: ModelCard,
    picture: images.ModelInput,
    path: str,
    at: CallContext,
    violations: Violations,
) -> ScoredRegion | None:
    """The weights of the positions, 1 inside and 0 outside; None, with a violation, where the region is at fault.

    It is None too where the picture is not there, whose own violation says so: no region can be compared with it.
    """
    if message.WhichOneof("kind") is None:
        violations.add(path, NEEDED.format(name=card.name))
        return None
    if not at.decode:
        return ScoredRegion(np.ones((1, 1), np.float32))
    inside = _inside(message, picture, path, at, violations)
    if inside is None:
        return None
    box = message.box
    return ScoredRegion(
        inside.astype(np.float32), (box.x0, box.y0, box.x1, box.y1) if message.HasField("box") else None
    )


def attack_mask(
    request: attack_pb2.AttackRequest, picture: images.ModelInput, at: CallContext, violations: Violations
) -> np.ndarray | None:
    """The pixels that an attack may change, [h, w] of bool.

    None for all pixels, for a mask at fault, with a violation, and where the picture is missing or not decoded.
    """
    if not request.HasField("mask"):
        return None
    name = request.method.WhichOneof("method")
    if name is not None and not METHODS[name].mask:
        takers = ", ".join(each for each, method in METHODS.items() if method.mask)
        violations.add("mask", f"does not apply to {name}; it does to {takers}", for_every_model=True)
    if request.mask.WhichOneof("kind") is None:
        violations.add("mask", "sets neither box nor picture; leave it out to change all pixels", for_every_model=True)
        return None
    return _inside(request.mask, picture, "mask", at, violations) if at.decode else None


def averaged(region: ScoredRegion | None) -> ScoredRegion | None:
    """The same, over which scores are averaged instead of summed."""
    return None if region is None else replace(region, averaged=True)


def region_message(region: ScoredRegion) -> pb.ScoreRegion:
    """A region as it stands in an answer."""
    if region.box is None:
        return pb.ScoreRegion(mask=pb.Image())
    x0, y0, x1, y1 = region.box
    return pb.ScoreRegion(box=pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))


def _is_missing(picture: images.ModelInput) -> bool:
    """Whether a black picture stands in for one that could not be used."""
    return not picture.region.image_width


def _places(picture: images.ModelInput) -> tuple[np.ndarray, np.ndarray]:
    """The middles of the rows and of the columns of the model's input, in pixels of the picture that was sent."""
    (height, width), part = picture.pixels.shape[:2], picture.region
    rows = part.y + (np.arange(height) + 0.5) * part.height / height
    return rows, part.x + (np.arange(width) + 0.5) * part.width / width


def _seen(picture: images.ModelInput) -> str:
    """Which part of the picture the model sees, in words."""
    part = picture.region
    across, down = (part.x, part.x + part.width), (part.y, part.y + part.height)
    return (
        f"it sees x from {across[0]:.5g} to {across[1]:.5g} and y from {down[0]:.5g} to {down[1]:.5g} of this picture"
    )


def _inside(
    message: pb.ScoreRegion | attack_pb2.AttackMask,
    picture: images.ModelInput,
    path: str,
    at: CallContext,
    violations: Violations,
) -> np.ndarray | None:
    """The positions of the model's input inside a box or a mask, [h, w] of bool, at least one; None with a violation.

    It is None without one where the picture is not there.
    """
    if message.HasField("box"):
        return _in_box(message.box, picture, f"{path}.box", violations)
    kind = message.WhichOneof("kind")
    assert kind is not None, "the caller has checked that one is set"
    mask = _mask(getattr(message, kind), picture, f"{path}.{kind}", at, violations)
    if mask is not None and not mask.any():
        text = f"has nothing that is at least half white where the model looks; {_seen(picture)}"
        violations.add(f"{path}.{kind}", text)
        return None
    return mask


def _in_box(box: pb.Box, picture: images.ModelInput, path: str, violations: Violations) -> np.ndarray | None:
    if not (box.x0 < box.x1 and box.y0 < box.y1):  # This is true for NaN too.
        edges = f"x {box.x0:g} to {box.x1:g}, y {box.y0:g} to {box.y1:g}"
        violations.add(path, f"x0 must be less than x1, and y0 less than y1; was {edges}", for_every_model=True)
        return None
    if _is_missing(picture):
        return None
    rows, columns = _places(picture)
    inside = ((rows >= box.y0) & (rows < box.y1))[:, None] & ((columns >= box.x0) & (columns < box.x1))
    if not inside.any():
        violations.add(path, f"the middle of no position lies in it: the model has none there; {_seen(picture)}")
        return None
    return np.asarray(inside)


def _mask(
    image: pb.Image, picture: images.ModelInput, path: str, at: CallContext, violations: Violations
) -> np.ndarray | None:
    """The mask at the model's positions [h, w], bool; None with a violation."""
    try:
        pixels = images.decode(image, at.limits, over_black=True).pixels
    except BadImage as error:
        violations.add(path, str(error), for_every_model=True)
        return None
    if _is_missing(picture):
        return None
    white = pixels.mean(2) >= HALF_WHITE[pixels.dtype.kind]
    own, whole = picture.pixels.shape[:2], (picture.region.image_height, picture.region.image_width)
    if white.shape == whole:
        rows, columns = (
            places.astype(int).clip(0, size - 1) for places, size in zip(_places(picture), whole, strict=True)
        )
        return np.asarray(white[np.ix_(rows, columns)])
    if white.shape == own:
        return np.asarray(white)
    text = f"must have the size of the picture, {whole[1]}x{whole[0]}, or of the model's input, {own[1]}x{own[0]}"
    violations.add(path, f"{text}; was {white.shape[1]}x{white.shape[0]}")
    return None
