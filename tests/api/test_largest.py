"""The largest request of each RPC that the default limits allow is answered."""

import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from picture_indexes import models_with_pictures
from PIL import Image
from serving import Server, Stubs, methods, picture

from gradserve.v1 import (
    attack_pb2,
    certify_pb2,
    concepts_pb2,
    dense_pb2,
    differentiate_pb2,
    exemplars_pb2,
    explain_pb2,
    influence_pb2,
    inspect_pb2,
    maximize_pb2,
    predict_pb2,
    project_pb2,
    service_pb2,
    stylize_pb2,
)
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.rpcs import (
    concepts,
    dense,
    differentiate,
    exemplars,
    explain,
    goals,
    influence,
    inspect,
    predict,
    project,
    stylize,
    suspects,
)
from gradserve_server.config import LimitSettings

LIMITS = LimitSettings()
PICTURE, REST = LIMITS.max_image_pixels, LIMITS.max_request_pixels - LIMITS.max_image_pixels
OVERHEAD = 4096  # Bytes of a message beside its tensor, at most.
TIMEOUT = 300


@cache
def photo(pixels: int, form: str = "JPEG") -> pb.Image:
    """A smooth picture of nearly so many pixels as a file, of few bytes."""
    side = int(pixels**0.5)
    row = np.linspace(0, 255, side, dtype=np.uint8)
    file = io.BytesIO()
    channels = [Image.fromarray(np.broadcast_to(each, (side, side))) for each in (row, row[::-1] // 2, row)]
    Image.merge("RGB", channels).save(file, form)
    return pb.Image(encoded=file.getvalue())


def tensor() -> pb.Image:
    """Numbers of nearly as many bytes as a request may have."""
    side = int(((LIMITS.max_request_bytes - OVERHEAD) / 12) ** 0.5)
    pixels = np.random.default_rng(0).random((side, side, 3), np.float32)
    return pb.Image(tensor=pb.Tensor(shape=pixels.shape, dtype=pb.DTYPE_FLOAT32, data=pixels.tobytes()))


def explained() -> explain_pb2.ExplainRequest:
    """The most methods and pixels: those of the picture and those of another that a target names."""
    alike = pb.Target(similarity=pb.Similarity(image=photo(REST)))
    several = methods(gradient={}) * explain.MAX_METHODS
    return explain_pb2.ExplainRequest(model="small", image=photo(PICTURE), methods=several, targets=[alike])


def attacked() -> attack_pb2.AttackRequest:
    """A picture and a mask of its size."""
    each = photo(LIMITS.max_request_pixels // 2)
    return attack_pb2.AttackRequest(model="small", image=each, method={"fgsm": {}}, mask={"picture": each})


def maximized() -> maximize_pb2.MaximizeRequest:
    summands = [{"target": {"class_index": i}, "weight": 0.1} for i in range(goals.MAX_SUMMANDS)]
    several = [maximize_pb2.Goal(summands=summands)] * goals.MAX_GOALS
    return maximize_pb2.MaximizeRequest(
        model="small", image=photo(PICTURE), goals=several, settings={"steps": 1}, size=SIZE
    )


def stylized() -> stylize_pb2.StylizeRequest:
    """A content and eight styles, which have all pixels of a request together."""
    each = photo(LIMITS.max_request_pixels // (1 + stylize.MAX_STYLES))
    styles = [stylize_pb2.Style(image=each)] * stylize.MAX_STYLES
    settings = stylize_pb2.StylizeSettings(steps=1, coarse_steps=0)
    return stylize_pb2.StylizeRequest(model="small", content=each, styles=styles, settings=settings, size=SIZE)


def differentiated() -> differentiate_pb2.DifferentiateRequest:
    rows = [photo(LIMITS.max_request_pixels // differentiate.MAX_IMAGES)] * differentiate.MAX_IMAGES
    return differentiate_pb2.DifferentiateRequest(model="small", images=rows, preprocess=pb.PREPROCESS_MODEL_DEFAULT)


def mapped() -> dense_pb2.DenseRequest:
    """Sixteen classes of a picture that is cut into tiles."""
    pixels = dense.MAX_INPUTS * LIMITS.max_input_pixels
    return dense_pb2.DenseRequest(model="small", image=photo(pixels), targets=[{"rank": i + 1} for i in range(16)])


def inspected() -> inspect_pb2.InspectRequest:
    rows = [photo(LIMITS.max_request_pixels // inspect.MAX_IMAGES)] * inspect.MAX_IMAGES
    labels = [i % 10 for i in range(len(rows))]
    return inspect_pb2.InspectRequest(model="digits", table={"images": rows, "labels": labels})


def conceived() -> concepts_pb2.ConceptsRequest:
    """The most pictures of each kind; a small one of each and many large ones, which have all pixels together."""
    counts = concepts.MAX_CONCEPTS, concepts.MAX_NEGATIVES, concepts.MAX_CLASS_IMAGES
    large = photo(int(0.98 * LIMITS.max_request_pixels) // sum(counts))
    kinds = [[picture(i, 64, 64), *[large] * (count - 1)] for i, count in enumerate(counts)]
    return concepts_pb2.ConceptsRequest(
        model="small",
        concept_images=kinds[0],
        negative_images=kinds[1],
        class_images=kinds[2],
        classes=[{"class_index": i} for i in range(concepts.MAX_CLASSES)],
        random_directions=concepts.MAX_RANDOM_DIRECTIONS,
    )


def projected() -> project_pb2.ProjectRequest:
    """The most pictures, points and thumbnails."""
    rows = [photo(LIMITS.max_request_pixels // project.MAX_IMAGES)] * project.MAX_IMAGES
    most = {"neighbours": project.MAX_NEIGHBOURS, "points": project.MAX_POINTS}
    return project_pb2.ProjectRequest(model="digits", images=rows, **most)


SIZE = {"height": 64, "width": 64}
REQUESTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "a picture of the most pixels": (
        "Predict",
        lambda: predict_pb2.PredictRequest(model="small", image=photo(PICTURE), top_k=predict.MAX_TOP_K),
    ),
    "a PNG of the most pixels": (
        "Predict",
        lambda: predict_pb2.PredictRequest(model="small", image=photo(PICTURE, "PNG")),
    ),
    "a tensor of the most bytes": ("Predict", lambda: predict_pb2.PredictRequest(model="small", image=tensor())),
    "maps": ("Explain", explained),
    "a stream of maps": ("StreamExplain", explained),
    "an attack": ("Attack", attacked),
    "a certificate": ("Certify", lambda: certify_pb2.CertifyRequest(model="small", image=photo(PICTURE), samples=10)),
    "pictures of goals": ("Maximize", maximized),
    "a stream of pictures of goals": ("StreamMaximize", maximized),
    "nine pictures": ("Stylize", stylized),
    "a stream of nine pictures": ("StreamStylize", stylized),
    "influences": (
        "Influence",
        lambda: influence_pb2.InfluenceRequest(model="digits", image=photo(PICTURE), top=influence.MAX_TOP),
    ),
    "suspects": ("Suspects", lambda: influence_pb2.SuspectsRequest(model="digits", top=suspects.MAX_TOP)),
    "exemplars": (
        "Exemplars",
        lambda: exemplars_pb2.ExemplarsRequest(
            model="digits", count=exemplars.MAX_CHANNELS, spectrum=True, values=True
        ),
    ),
    "features": ("Embed", lambda: influence_pb2.EmbedRequest(model="small", image=photo(PICTURE))),
    "gradients": ("Differentiate", differentiated),
    "a table over the most pictures": ("Inspect", inspected),
    "a concept by the most pictures": ("Concepts", conceived),
    "places of the most pictures": ("Project", projected),
    "maps of the largest picture": ("Dense", mapped),
}


@pytest.fixture(scope="module")
def own_stubs() -> Iterator[Stubs]:
    with Server(models_with_pictures(), "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)
        assert "Traceback" not in server.log()


def test_every_rpc_is_tried() -> None:
    rpcs = {method.name for method in service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods}
    assert {rpc for rpc, _ in REQUESTS.values()} == rpcs


@pytest.mark.parametrize("case", REQUESTS)
def test_the_largest_request_is_answered(case: str, own_stubs: Stubs) -> None:
    rpc, make = REQUESTS[case]
    reply = getattr(own_stubs.gradients, rpc)(make(), timeout=TIMEOUT)
    messages = list(reply) if rpc.startswith("Stream") else [reply]
    assert all(message.ByteSize() for message in messages)
