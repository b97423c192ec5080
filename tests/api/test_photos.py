"""Real photos and large JPEG files over gRPC against torchvision's own transforms and the untouched networks."""

import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lengths import length
from paths import DATA
from PIL import Image, ImageOps
from safetensors.torch import load_file
from serving import PATIENCE, Server, Stubs, methods, values
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.transforms import v2

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.embedded.cifar10.network import cifar10
from gradserve_server.models.embedded.digits.network import digits

WEIGHTS = DATA / "mobilenet_v2-imagenet.safetensors"
CONFIG = f"""
[models.mobilenet_v2]
weights = "{WEIGHTS}"
precisions = ["exact"]
[models.cifar10]
precisions = ["exact"]
[models.digits]
precisions = ["exact"]
"""
PHOTOS = sorted((DATA / "images").glob("*.JPEG"))[:: length(4, 1)]
LARGE = length(3, 12)  # Photos that are enlarged to what a phone takes.
SHORTER = 3000  # Pixels of their shorter side.
ORIENTATION = 0x0112
SIZES = {"mobilenet_v2": (256, 224), "cifar10": (32, 32), "digits": (8, 8)}  # The pixels of resize and crop.
MEAN_STD = {
    "mobilenet_v2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "digits": ((0.5,) * 3, (0.5,) * 3),
}

pytestmark = pytest.mark.skipif(not PHOTOS, reason="needs ../shared/data")


@pytest.fixture(scope="module")
def stubs() -> Iterator[Stubs]:
    with Server(CONFIG, "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


@cache
def network(name: str) -> nn.Module:
    """As its author wrote it."""
    made = {"mobilenet_v2": mobilenet_v2, "cifar10": cifar10, "digits": digits}[name]()
    made.load_state_dict(load_file(WEIGHTS if name == "mobilenet_v2" else str(EMBEDDED[name].weights)))
    return made.eval().requires_grad_(False)


def transformed(name: str, file: bytes) -> Tensor:
    """The picture in [0, 1] as torchvision's transforms make it of the upright file, [1, 3, H, W]."""
    resize, crop = SIZES[name]
    steps = [v2.Resize(resize), v2.CenterCrop(crop), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose(steps)(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB"))[None]


def expected(name: str, file: bytes) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the best of them by the pixels with its colours added up."""
    image = transformed(name, file).requires_grad_()
    logits = network(name)(v2.functional.normalize(image, *MEAN_STD[name]))
    (gradient,) = torch.autograd.grad(logits.max(), image)
    return logits[0].detach(), gradient[0].sum(0)


def asked(stubs: Stubs, name: str, file: bytes, **options: Any) -> tuple[Tensor, Tensor, bool]:
    """The same from the server, and whether it decoded quickly."""
    image, exact = pb.Image(encoded=file), {"precision": pb.PRECISION_EXACT, **options}
    predicted = stubs.gradients.Predict(
        predict_pb2.PredictRequest(model=name, image=image, top_k=len(network_classes(name)), options=exact),
        timeout=PATIENCE,
    )
    logits = torch.tensor([score.logit for score in sorted(predicted.top, key=lambda score: score.class_index)])
    (gradient,) = methods(gradient={"reduce": explain_pb2.REDUCE_SIGNED})
    reply = stubs.gradients.Explain(
        explain_pb2.ExplainRequest(model=name, image=image, methods=[gradient], options=exact), timeout=PATIENCE
    )
    found = torch.from_numpy(values(reply.explanations[0].raw))
    assert predicted.provenance.quick_decode == reply.provenance.quick_decode
    return logits, found, reply.provenance.quick_decode


def network_classes(name: str) -> range:
    return range(1000 if name == "mobilenet_v2" else 10)


def enlarged(place: int) -> bytes:
    """A photo with a shorter side of 3000 pixels, as JPEG; every third one lies on its side."""
    with Image.open(PHOTOS[length(1, 4) * place]) as photo:
        factor = SHORTER / min(photo.size)
        size = (round(photo.width * factor), round(photo.height * factor))
        file, exif = io.BytesIO(), Image.Exif()
        exif[ORIENTATION] = 1 if place % 3 else 6
        photo.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def check(stubs: Stubs, name: str, file: bytes) -> None:
    logits, gradient, quick = asked(stubs, name, file)
    their_logits, their_gradient = expected(name, file)
    assert not quick
    assert (logits - their_logits).norm() <= 1e-5 * their_logits.norm()
    assert logits.topk(5).indices.tolist() == their_logits.topk(5).indices.tolist()
    assert F.cosine_similarity(gradient.flatten(), their_gradient.flatten(), dim=0) >= 0.999


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("place", range(len(PHOTOS)))
def test_photos_are_seen_as_torchvision_sees_them(stubs: Stubs, place: int, name: str) -> None:
    check(stubs, name, PHOTOS[place].read_bytes())


@pytest.mark.parametrize("place", range(LARGE))
def test_large_files_are_seen_as_torchvision_sees_them(stubs: Stubs, place: int) -> None:
    file = enlarged(place)
    with Image.open(io.BytesIO(file)) as large:
        assert min(large.size) == SHORTER
    for name in SIZES:
        check(stubs, name, file)


def test_a_quick_decode_gives_another_input_and_says_so(stubs: Stubs) -> None:
    """What the decoder's own averages give, seen through torchvision's transforms."""
    file = enlarged(1)
    with Image.open(io.BytesIO(file)) as smaller:
        smaller.draft("RGB", (512, 512))
        assert min(smaller.size) == SHORTER // 4
        pixels = smaller.convert("RGB")
    lossless = io.BytesIO()
    pixels.save(lossless, "PNG")
    logits, _, quick = asked(stubs, "mobilenet_v2", file, quick_decode=True)
    assert quick
    reference, whole = (expected("mobilenet_v2", each)[0] for each in (lossless.getvalue(), file))
    assert (logits - reference).norm() <= 1e-5 * reference.norm()
    assert (logits - whole).norm() > 1e-3 * whole.norm()
    assert np.isfinite(logits.numpy()).all()
