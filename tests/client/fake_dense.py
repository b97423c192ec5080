"""The fake server's answer to Dense."""

import io

import numpy as np
from PIL import Image

from gradserve.v1 import common_pb2, dense_pb2

STRIDE, OFFSET, CELLS = 4, 2.0, (3, 5)


def mapped(
    request: dense_pb2.DenseRequest, classes: list[str], region: common_pb2.Region, provenance: common_pb2.Provenance
) -> dense_pb2.DenseResponse:
    """Of each target three rows of five cells; the probability of target i is .9 in cell i of the middle row."""
    targets = list(request.targets) or [common_pb2.Target(rank=1)]
    probabilities = np.full((len(targets), *CELLS), 0.05, "<f4")
    reply = dense_pb2.DenseResponse(stride=STRIDE, offset=OFFSET, height=12, width=20, tiles=2, region=region)
    file = io.BytesIO()
    Image.new("RGB", (10, 6), "red").save(file, "PNG")
    for i, target in enumerate(targets):
        probabilities[i, 1, i % CELLS[1]] = 0.9
        index = classes.index(target.class_name) if target.class_name else target.class_index
        score = common_pb2.Score(class_index=index, class_name=classes[index], probability=0.5, logit=3.0)
        reply.maps.append(dense_pb2.DenseMap(score=score, largest=0.9, y=1, x=i % CELLS[1], png=file.getvalue()))
    reply.top.append(reply.maps[0].score)
    for tensor, values in ((reply.logits, np.log(probabilities)), (reply.probabilities, probabilities)):
        tensor.CopyFrom(common_pb2.Tensor(shape=values.shape, dtype=2, data=values.astype("<f4").tobytes()))
    reply.provenance.CopyFrom(provenance)
    return reply
