"""Exemplars of the tests' server: two patches of each channel."""

from typing import Any

import numpy as np

from gradserve import images
from gradserve.v1 import common_pb2, exemplars_pb2

PICTURES = 7


def exemplars(request: Any, provenance: Any) -> exemplars_pb2.ExemplarsResponse:
    """The reply; the layer "vector" has no places, and "unlabelled" no classes."""
    layer = request.layer or "layer2"
    channels = list(request.channels) or [5, 1, 2][: request.count or 3]
    reply = exemplars_pb2.ExemplarsResponse(
        layer=layer,
        channels=[_channel(each, layer, spectrum=request.spectrum) for each in channels],
        pictures=PICTURES,
        layers=["layer1", "layer2"],
        height=24,
        width=24,
        provenance=provenance,
    )
    if request.values:
        numbers = np.arange(len(channels) * PICTURES, dtype="<f4")
        shape = [len(channels), PICTURES]
        tensor = common_pb2.Tensor(shape=shape, dtype=common_pb2.DTYPE_FLOAT32, data=numbers.tobytes())
        reply.values.CopyFrom(tensor)
    return reply


def _channel(number: int, layer: str, *, spectrum: bool) -> exemplars_pb2.ChannelExemplars:
    patches = [_patch(i, layer) for i in range(2)]
    channel = exemplars_pb2.ChannelExemplars(channel=number, exemplars=patches, spectrum=patches if spectrum else [])
    if layer != "unlabelled":
        channel.purity = 0.5
    return channel


def _patch(i: int, layer: str) -> exemplars_pb2.ExemplarPatch:
    picture = images.png(images.Image.fromarray(np.full((6, 8, 3), 100 + i, np.uint8)))
    box = {"left": 4, "top": 0, "width": 8, "height": 6}
    patch = exemplars_pb2.ExemplarPatch(value=2.5 - i, row=i, name=f"{i}.png", picture=picture, **box)
    if layer != "unlabelled":
        patch.label, patch.label_name = i, ("cat", "dog")[i]
    if layer != "vector":
        patch.y, patch.x = 3, i
    return patch
