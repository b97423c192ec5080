"""Gradients of the tests' server: every number of picture i is its place in the gradient times 1e-12 times i + 1."""

from typing import Any

import numpy as np

from gradserve import images
from gradserve.v1 import common_pb2, differentiate_pb2

UNIT = 1e-12  # It is far below the smallest number of float16.


def gradient(request: Any, side: int) -> np.ndarray:
    """The gradient that is answered, float32."""
    count = len(request.images)
    shape = (count, 4) if request.layer else (count, side, side, 3)
    numbers = np.arange(np.prod(shape[1:])).reshape(shape[1:])
    return (numbers * UNIT * np.arange(1, count + 1).reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


def differentiated(request: Any, classes: int, side: int, provenance: Any) -> differentiate_pb2.DifferentiateResponse:
    """The reply."""
    values = gradient(request, side)
    count = len(values)
    reply = differentiate_pb2.DifferentiateResponse(values=np.arange(count), provenance=provenance)
    for image in request.images:
        width, height = images.opened(image).size
        reply.regions.add(width=width, height=height, image_width=width, image_height=height)
    logits = np.tile(np.arange(classes, dtype="<f4"), (count, 1))
    reply.logits.CopyFrom(tensor(logits, common_pb2.DTYPE_FLOAT32))
    if request.forward_only:
        return reply
    if request.format == differentiate_pb2.GRADIENT_FORMAT_FLOAT16:
        reply.scales.extend(np.exp2(np.floor(np.log2(UNIT * np.arange(1, count + 1)))))
        scales = np.array(reply.scales).reshape(-1, *[1] * (values.ndim - 1))
        reply.gradient.CopyFrom(tensor((values / scales).astype("<f2"), common_pb2.DTYPE_FLOAT16))
    elif request.format == differentiate_pb2.GRADIENT_FORMAT_BFLOAT16:
        upper = (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")
        reply.gradient.CopyFrom(tensor(upper, common_pb2.DTYPE_BFLOAT16))
    else:
        reply.gradient.CopyFrom(tensor(values, common_pb2.DTYPE_FLOAT32))
    return reply


def tensor(values: np.ndarray, dtype: Any) -> common_pb2.Tensor:
    """An array as a Tensor."""
    return common_pb2.Tensor(shape=values.shape, dtype=dtype, data=values.tobytes())
