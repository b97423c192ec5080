"""Pictures as callers have them: open files, tensors of other libraries, layouts, alpha, batches."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gradserve
from gradserve import Client, Contrast, images
from gradserve.messages import inputs
from gradserve.messages.attack import attack_request
from gradserve.messages.differentiate import differentiate_request
from gradserve.messages.explain import explain_request
from gradserve.messages.influence import influence_request
from gradserve.messages.pictures import maximize_request
from gradserve.v1 import common_pb2

from .fake import FakeServer

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")
HWC = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def seen(image: Any, **options: Any) -> np.ndarray:
    """The pixels that a server sees."""
    return np.asarray(images.opened(inputs.message(image, **options)))


class Foreign:
    """An array of some other library."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


def tensor(values: np.ndarray) -> Any:
    """A tensor of torch, where it is installed."""
    return torch.from_numpy(np.ascontiguousarray(values)) if torch else Foreign(values)


@pytest.mark.parametrize("kind", [tensor, Foreign, np.asfortranarray])
def test_whatever_numpy_reads_is_an_image(kind: Any) -> None:
    assert np.array_equal(seen(kind(HWC)), HWC)


@needs_torch
def test_a_tensor_of_torch_leaves_its_graph() -> None:
    leaf = torch.from_numpy(HWC / np.float32(255)).requires_grad_()
    message = inputs.message(leaf * 1)
    assert message.tensor.dtype == common_pb2.DTYPE_FLOAT32
    assert np.allclose(images.array(message.tensor), HWC / 255, atol=1e-7)
    half = inputs.message(leaf.bfloat16()).tensor
    assert np.allclose(images.array(half), HWC / 255, atol=2**-8)


def test_the_client_reads_tensors_without_importing_torch() -> None:
    code = "import sys, gradserve.messages.inputs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_first_is_the_same_picture(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    first = np.moveaxis(pixels, -1, 0)
    assert inputs.message(first, layout="CHW") == inputs.message(pixels)
    assert inputs.message(tensor(first), "CHW") == inputs.message(pixels)


def test_layout_is_for_arrays_alone(photo: Image.Image) -> None:
    assert inputs.message(photo, layout="CHW") == inputs.message(photo)
    assert inputs.message(HWC[..., 0], layout="CHW") == inputs.message(HWC[..., 0])


def test_alpha_is_laid_over_white() -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    alpha = rgba[..., 3:].astype(np.float64) / 255
    want = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(seen(rgba) - want).max() <= 1
    assert np.array_equal(seen(rgba), seen(Image.fromarray(rgba)))
    tensor = inputs.message(rgba / 255.0).tensor
    assert list(tensor.shape) == [6, 8, 3]
    assert np.allclose(images.array(tensor), want / 255, atol=1e-6)
    clear = np.concatenate([HWC, np.zeros_like(HWC[..., :1])], -1)
    assert (seen(clear) == 255).all()


def test_open_files_are_read_from_their_beginning(photo_path: Path) -> None:
    data = photo_path.read_bytes()
    buffer = io.BytesIO()
    buffer.write(data)
    for _ in range(2):
        assert inputs.message(buffer).encoded == data
    with photo_path.open("rb") as file:
        for _ in range(2):
            assert inputs.message(file).encoded == data


def test_a_file_that_cannot_be_wound_back_is_read_on() -> None:
    class Pipe:
        def read(self) -> bytes:
            return b"abc"

    assert inputs.message(Pipe()).encoded == b"abc"


def closed(file: Any) -> Any:
    file.close()
    return file


@pytest.mark.parametrize(
    ("image", "layout", "error", "says"),
    [
        (HWC, "CHW", ValueError, r"\[4, H, W\], not \[6, 8, 3\]; with channels last leave layout=\"CHW\" out"),
        (np.moveaxis(HWC, -1, 0), "HWC", ValueError, r"not \[3, 6, 8\]; with channels first pass layout=\"CHW\""),
        (HWC[None], "HWC", ValueError, r"not \[1, 6, 8, 3\]; this is a batch"),
        (HWC[..., :2], "HWC", ValueError, r"\[H, W, 1\], \[H, W, 3\], \[H, W, 4\], not \[6, 8, 2\]"),
        (HWC, "NCHW", ValueError, "layout must be one of HWC, CHW; not 'NCHW'"),
        (HWC / 100, "HWC", ValueError, r"must lie in \[0, 1\]; this one spans .*: divide it by 255"),
        (np.full((3, 4, 4), -1.0), "CHW", ValueError, r"\[0, 1\]; this one spans -1 to -1: bring"),
        (tensor(np.zeros((4, 4), np.int32)), "HWC", ValueError, "uint8, or float in .*, not int32"),
        (closed(io.BytesIO(b"x")), "HWC", ValueError, "the file of an image is closed; open it again"),
        (io.StringIO("x"), "HWC", TypeError, "open for text; open it with mode 'rb'"),
        (io.BytesIO(), "HWC", ValueError, "the file of an image is empty"),
        (object(), "HWC", ValueError, "an image is a path, bytes, an open file, a PIL image or an array, not object"),
    ],
)
def test_what_is_no_image(image: Any, layout: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inputs.message(image, layout)


@needs_torch
def test_a_tensor_without_numbers() -> None:
    with pytest.raises(ValueError, match="an image of type Tensor gives no array: "):
        inputs.message(torch.zeros(4, 4, device="meta"))


def test_a_closed_file_on_disk(photo_path: Path) -> None:
    with pytest.raises(ValueError, match="the file of an image is closed"):
        inputs.message(closed(photo_path.open("rb")))


# Through the client


def test_every_call_takes_the_layout(client: Client, server: FakeServer) -> None:
    first = tensor(np.moveaxis(HWC, -1, 0))
    client.predict(first, layout="CHW")
    client.explain(first, "gradient", layout="CHW")
    client.attack(first, "fgsm", layout="CHW")
    client.influence(first, layout="CHW")
    client.embed(first, layout="CHW")
    client.maximize(0, image=first, layout="CHW")
    client.stylize(first, [(first, 2.0)], layout="CHW")
    client.differentiate([first, first], layout="CHW")
    client.explain(HWC, "gradient", target=gradserve.Similarity(first, layout="CHW"))
    want = inputs.message(HWC)
    pictures = []
    for request in server.requests:
        fields = request.DESCRIPTOR.fields_by_name
        pictures += [request.image] if "image" in fields else []
        pictures += [request.content, request.styles[0].image] if "content" in fields else []
        pictures += list(request.images) if "images" in fields else []
        pictures += [each.similarity.image for each in request.targets] if "targets" in fields else []
    assert len(pictures) == 5 + 1 + 2 + 2 + 2
    assert all(picture == want for picture in pictures)


@pytest.mark.parametrize("kind", [np.asarray, tensor])
def test_batches_are_many_pictures(client: Client, server: FakeServer, kind: Any) -> None:
    batch = np.stack([HWC, HWC[::-1], HWC[:, ::-1]])
    assert len(list(client.predict_many(kind(batch)))) == 3
    first = np.ascontiguousarray(np.moveaxis(batch, -1, 1))
    assert len(list(client.explain_many(kind(first), "gradient", layout="CHW"))) == 3
    assert len(list(client.attack_many(kind(first), "fgsm", layout="CHW"))) == 3
    assert len(client.differentiate(kind(first), layout="CHW")) == 3
    want = sorted(inputs.message(each).tensor.data for each in batch)
    for kept in (server.requests[:3], server.requests[3:6], server.requests[6:9]):
        assert sorted(request.image.tensor.data for request in kept) == want
    assert [each.tensor.data for each in server.requests[9].images] == [inputs.message(e).tensor.data for e in batch]


@pytest.mark.parametrize(
    ("many", "says"),
    [
        (HWC, r"four axes, \[N, H, W, 3\], not \[6, 8, 3\]; a single picture goes in a list"),
        (tensor(np.zeros((6, 8))), r"not \[6, 8\]; a single"),
        ("photo.jpg", "images are a list, an iterator or an array of pictures, not str"),
        (b"JPEG", "not bytes"),
        (io.BytesIO(b"JPEG"), "not BytesIO"),
        (Image.new("L", (2, 2)), "not Image"),
        (7, "not int"),
    ],
)
def test_one_picture_is_not_many(client: Client, many: Any, says: str) -> None:
    for call in (client.predict_many, lambda each: client.explain_many(each, "gradient"), client.attack_many):
        with pytest.raises(ValueError, match=says):
            call(many)


def test_pictures_of_targets_and_masks_have_the_calls_layout() -> None:
    first, pixels = np.moveaxis(HWC, -1, 0), inputs.message(HWC)
    like, mask = gradserve.Similarity(first), first[:1]
    explained = explain_request(first, "gradient", target=[like, Contrast(like, 3)], region=mask, layout="CHW")
    alone, contrast = explained.targets
    attacked = attack_request(first, maps="gradient", maps_target=like, region=mask, mask=mask, layout="CHW")
    goals = [*differentiate_request([first], [like], layout="CHW").goals, *maximize_request(like, layout="CHW").goals]
    influenced = influence_request(first, label=like, layout="CHW")
    for target in (alone, contrast.contrast.terms[0].target, attacked.maps_target, influenced.label):
        assert target.similarity.image == pixels
    assert [goal.summands[0].target.similarity.image for goal in goals] == [pixels, pixels]
    assert alone.region.mask == attacked.score_region.mask == attacked.mask.picture == inputs.message(HWC[..., :1])
    own = explain_request(first, "gradient", target=gradserve.Similarity(HWC, layout="HWC"), layout="CHW")
    assert own.targets[0].similarity.image == pixels
