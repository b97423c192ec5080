"""What the stand-in for a server answers to Attack: the red channel, four levels up."""

import numpy as np

from gradserve import images
from gradserve.v1 import attack_pb2, common_pb2

CAT = common_pb2.Score(class_index=0, class_name="cat", probability=0.75, logit=4.0)
DOG = common_pb2.Score(class_index=1, class_name="dog", probability=0.9, logit=5.0)
BEFORE = np.full((6, 5, 3), 100, np.uint8)
CHANGE = np.zeros((6, 5, 3), int)
CHANGE[..., 0] = 4


def attacked(request, region, provenance) -> attack_pb2.AttackResponse:
    """One answer, with what was asked for beside it."""
    before = attack_pb2.Judgement(predicted=CAT, label=CAT, margin=2.5)
    after = attack_pb2.Judgement(predicted=DOG, label=CAT, margin=-1.5)
    reply = attack_pb2.AttackResponse(
        adversarial=png(BEFORE + CHANGE),
        method=request.method,
        method_name=request.method.WhichOneof("method"),
        loss=attack_pb2.LOSS_CROSS_ENTROPY,
        asked=10,
        done=10,
        region=region,
        provenance=provenance,
        certificate=attack_pb2.Certificate(
            verdict=attack_pb2.VERDICT_FOUND,
            label_name="cat",
            before=before,
            after=after,
            l0=30,
            l2=0.086,
            linf=4 / 255,
            norm=request.norm or attack_pb2.NORM_LINF,
            eps=request.eps or 4 / 255,
            within_budget=True,
            queries=11,
            gradients=10,
            first_success=3,
            warnings=["SATURATED"],
        ),
    )
    add_what_was_asked_for(reply, request)
    return reply


def png(pixels: np.ndarray) -> bytes:
    return images.png(images.Image.fromarray(pixels.astype(np.uint8)))


def add_what_was_asked_for(reply, request) -> None:
    """Adds what an answer has only for some requests."""
    if request.HasField("defence"):
        reply.certificate.undefended.CopyFrom(reply.certificate.after)
    if request.HasField("mask"):
        reply.certificate.mask_pixels = 12
    if request.method.WhichOneof("method") == "ensemble":
        reply.stages.add(method="apgd", queries=7, gradients=6)
        reply.stages.add(method="apgd_targeted", reached=True, queries=4, gradients=3)
    if request.perturbation:
        reply.perturbation, reply.magnification = png(128 + 31 * CHANGE), 31.0
    if request.trajectory:
        reply.trajectory.add(step=0, predicted=CAT, margin=2.5, loss=0.1)
        reply.trajectory.add(step=1, predicted=DOG, margin=-1.5, loss=3.0)
