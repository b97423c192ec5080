"""Objects cut out of pictures by their maps: GrabCut (Rother, Kolmogorov, Blake 2004), begun from the strong values."""

from typing import NamedTuple

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

from ..pictures.images import png

BLUR = 6 / 224  # Standard deviation of the map's Gaussian blur, as a share of the shorter side.
# Quantiles of the map above which a pixel is surely, or probably, of the object, and up to which it surely is not.
SURE, PROBABLE, OUTSIDE = 0.95, 0.8, 0.3
ITERATIONS = 5
LEAST_PIXELS = 5  # GrabCut describes object and background by five colours each.
MAX_SIDE = 320  # Larger pictures are cut at this longer side, since the time grows with the number of pixels.
CORNER_DISTANCE = 1.0  # Pixels that an outline of fewer corners may lie beside the mask's edge.
NO_SEGMENT = "NO_SEGMENT: the map has too few positive values, or the same ones everywhere; nothing is cut out"


class Segment(NamedTuple):
    """An object in pixels of the model's input: [H, W] bool, and its corners [n, 2] as x and y."""

    mask: np.ndarray
    outline: np.ndarray


def segment(pixels: np.ndarray, values: np.ndarray) -> Segment | None:
    """The object of an RGB picture [H, W, 3] that a map [H, W] lies on, None where the map points to none.

    The picture is uint8, or floats in [0, 1]. The same picture and map always give the same object.
    """
    import cv2  # Here, since it takes memory in each process that imports it.

    cv2.setNumThreads(1)
    height, width = values.shape
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    colours = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    small = cv2.resize(np.ascontiguousarray(colours), size, interpolation=cv2.INTER_AREA)
    found = _cut(small, cv2.resize(np.maximum(values, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA))
    if found is None:
        return None
    mask = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
    (edge, *_), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return Segment(mask.astype(bool), cv2.approxPolyDP(edge, CORNER_DISTANCE, closed=True)[:, 0])


def _cut(colours: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """The largest connected part of what GrabCut finds, uint8 [H, W] of 0 and 1, or None for nothing."""
    import cv2

    seeds = _seeds(values)
    if seeds is None:
        return None
    cv2.setRNGSeed(0)  # Of this thread alone. GrabCut begins from colours drawn at random.
    state = np.zeros((2, 1, 65))
    cv2.grabCut(colours, seeds, (0, 0, 1, 1), state[0], state[1], ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, labels, facts, _ = cv2.connectedComponentsWithStats(found)
    return (labels == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8) if count > 1 else None


def _seeds(values: np.ndarray) -> np.ndarray | None:
    """What belongs to the object for sure, probably, probably not, and surely not, as GrabCut numbers these."""
    import cv2

    blurred = cv2.GaussianBlur(values, (0, 0), BLUR * min(values.shape))
    sure, probable, outside = np.quantile(blurred, (SURE, PROBABLE, OUTSIDE))
    seeds = np.full(values.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[blurred <= outside] = cv2.GC_BGD
    seeds[blurred > probable] = cv2.GC_PR_FGD
    seeds[(blurred >= sure) & (blurred > outside)] = cv2.GC_FGD
    inside = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).sum()
    return seeds if LEAST_PIXELS <= inside <= seeds.size - LEAST_PIXELS else None


def segment_message(found: Segment, region: pb.Region) -> explain_pb2.Segment:
    """The object as a message, in pixels of the picture that was sent."""
    height, width = found.mask.shape
    scale = np.array([region.width / width, region.height / height])
    origin, limit = np.array([region.x, region.y]), np.array([region.image_width, region.image_height])
    rows, columns = np.flatnonzero(found.mask.any(1)), np.flatnonzero(found.mask.any(0))
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]])
    box = np.clip(corners * scale + origin, 0, limit).ravel().tolist()
    return explain_pb2.Segment(
        mask=png(found.mask.astype(np.uint8) * 255),
        outline=np.clip((found.outline + 0.5) * scale + origin, 0, limit).ravel().tolist(),
        box=pb.Box(x0=box[0], y0=box[1], x1=box[2], y1=box[3]),
        share=float(found.mask.mean()),
    )
