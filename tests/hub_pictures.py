"""Photos through the server's own decoding and preprocessing, for the tests of networks of hubs."""

import io

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import _geometry

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.errors import Violations
from gradserve_server.api.pictures.images import model_input
from gradserve_server.config import LimitSettings
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.preprocess import to_batch

COUNT = 10
SIZES = [
    (375, 500),
    (333, 500),
    (500, 334),
    (75, 56),
    (600, 601),
    (257, 999),
    (224, 224),
    (64, 64),
    (1001, 640),
    (90, 64),
]


def _photos() -> list[Image.Image]:
    """Real photos, or pictures of many sizes where these are missing."""
    files = sorted((DATA / "images").glob("*.JPEG"))[:COUNT]
    if files:
        return [Image.open(path).convert("RGB") for path in files]
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


PHOTOS = _photos()


@pytest.fixture
def eight_bit_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torchvision resize in 8 bits on processors without AVX2 too, where it computes in floats by itself."""
    monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda _: True)


def encoded(photo: Image.Image) -> pb.Image:
    """The photo as a PNG file in a request."""
    file = io.BytesIO()
    photo.save(file, "PNG")
    return pb.Image(encoded=file.getvalue())


def logits_of_photo(model: Prepared, photo: Image.Image) -> Tensor:
    """The served logits [classes] of a photo that is sent as a file and preprocessed as the model's card says."""
    violations = Violations()
    seen = model_input(encoded(photo), model.card, pb.PREPROCESS_MODEL_DEFAULT, LimitSettings(), violations)
    assert seen is not None
    with torch.no_grad():
        return model(to_batch(np.array(seen.pixels)[None], model.device, model.dtype))[0]
