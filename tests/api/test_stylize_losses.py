"""The losses that Stylize returns, against their formulas on the PNG that it returns, for every setting."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from serving import PATIENCE, Server, Stubs, tensor
from torch import Tensor

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import progress_pb2, stylize_pb2
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.embedded.cifar10.network import cifar10, normalize

NETWORK = cifar10().eval().requires_grad_(False)
NETWORK.load_state_dict(load_file(str(EMBEDDED["cifar10"].weights)))
NETWORK.double()
ADAM, LBFGS = progress_pb2.OPTIMIZER_ADAM, progress_pb2.OPTIMIZER_LBFGS
NOISE = stylize_pb2.STYLIZE_START_NOISE
LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)


@pytest.fixture(scope="module")
def stubs() -> Iterator[Stubs]:
    with Server("[models.cifar10]\nprecisions = ['exact']", "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


def photo(seed: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Smooth blots of saturated colours, [H, W, 3] uint8."""
    blots = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC))


CONTENT, STYLES = photo(0, 32, 44), [photo(1, 28, 40), photo(2, 44, 34)]


def seen(pixels: np.ndarray[Any, Any], size: tuple[int, int] | None = None) -> Tensor:
    """A picture resized as files are, in [0, 1], [1, 3, H, W]."""
    picture = Image.fromarray(pixels)
    if size is not None and size != pixels.shape[:2]:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 255


def grey(image: Tensor) -> Tensor:
    return (image * LUMINANCE).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def matched(style: Tensor, content: Tensor) -> Tensor:
    """The style's luminance with the content's mean and standard deviation."""
    ours, theirs = grey(style), grey(content)
    return ((ours - ours.mean()) * theirs.std(correction=0) / ours.std(correction=0) + theirs.mean()).clamp(0, 1)


def maps(image: Tensor, layers: Sequence[str], pad: float) -> list[Tensor]:
    """What the layers give for the padded picture; the picture itself for "pixels"."""
    kept: dict[str, Tensor] = {"pixels": image}
    side = round(pad * min(image.shape[2:]))
    handles = [
        NETWORK.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: kept.update({name: out}))
        for name in layers
        if name != "pixels"
    ]
    NETWORK(normalize(F.pad(image, (side,) * 4, mode="reflect") if side else image))
    for handle in handles:
        handle.remove()
    return [kept[name] for name in layers]


def gram(layer: str, values: Tensor) -> Tensor:
    vectors = values[0].flatten(1)
    if layer == "pixels":
        vectors = torch.cat([vectors, torch.ones_like(vectors[:1])])
    return vectors @ vectors.T / vectors.shape[1]


def relative(ours: Tensor, goal: Tensor) -> float:
    return float((ours - goal).square().sum() / goal.square().sum())


def weighted(layers: Sequence[stylize_pb2.LayerWeight], parts: Sequence[float]) -> float:
    weights = [each.weight if each.HasField("weight") else 1.0 for each in layers]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True)) / sum(weights)


def losses(
    image: Tensor, content: Tensor | None, styles: list[tuple[Tensor, float]], reply: stylize_pb2.StylizeResponse
) -> dict[str, float]:
    """The parts of the loss of a picture, as the contract describes them."""
    settings, found = reply.settings, {}
    if settings.keep_colours and content is not None:
        styles = [(matched(style, content), share) for style, share in styles]
        content = grey(content)
    if styles and settings.style_weight:
        names = [each.layer for each in reply.style_layers]
        ours = list(map(gram, names, maps(image, names, settings.pad)))
        found["style"] = 0.0
        for style, share in styles:
            goals = map(gram, names, maps(style, names, settings.pad))
            part = weighted(reply.style_layers, list(map(relative, ours, goals)))
            found["style"] += share / sum(each for _, each in styles) * part
    if content is not None and settings.content_weight:
        names = [each.layer for each in reply.content_layers]
        pairs = (maps(each, names, settings.pad) for each in (image, content))
        found["content"] = weighted(reply.content_layers, list(map(relative, *pairs)))
    if settings.total_variation:
        down, across = image[:, :, 1:] - image[:, :, :-1], image[..., 1:] - image[..., :-1]
        found["total_variation"] = float(down.square().mean() + across.square().mean())
    return found


def request(settings: dict[str, Any], shares: tuple[float, ...], content: bool, **facts: Any) -> Any:
    styles = [stylize_pb2.Style(image=tensor(s), weight=w) for s, w in zip(STYLES, shares, strict=False)]
    asked = stylize_pb2.StylizeRequest(
        styles=styles, settings={"steps": 4, **settings}, options={"precision": pb.PRECISION_EXACT, "seed": 3}, **facts
    )
    if content:
        asked.content.CopyFrom(tensor(CONTENT))
    return asked


LAYERS = {
    "style_layers": [{"layer": "layer1.0", "weight": 2.0}, {"layer": "pixels"}, {"layer": "layer2.1", "weight": 0.5}],
    "content_layers": [{"layer": "layer1.1", "weight": 3.0}, {"layer": "layer2.0"}],
}
CASES: dict[str, tuple[dict[str, Any], tuple[float, ...], bool, dict[str, Any]]] = {
    "defaults": ({}, (1.0,), True, {}),
    "from noise": ({"start": NOISE}, (1.0,), True, {}),
    "L-BFGS": ({"optimizer": LBFGS}, (1.0,), True, {}),
    "another rate": ({"optimizer": ADAM, "rate": 0.5}, (1.0,), True, {}),
    "half resolution first": ({"coarse_steps": 2}, (1.0,), True, {}),
    "no style weight": ({"style_weight": 0.0}, (1.0,), True, {}),
    "no style weight, from noise": ({"style_weight": 0.0, "start": NOISE}, (1.0,), True, {}),
    "a large style weight": ({"style_weight": 1e6}, (1.0,), True, {}),
    "the least style weight": ({"style_weight": 5e-324}, (1.0,), True, {}),
    "no content weight": ({"content_weight": 0.0}, (1.0,), True, {}),
    "the least content weight": ({"content_weight": 1e-300}, (1.0,), True, {}),
    "no variation": ({"total_variation": 0.0}, (1.0,), True, {}),
    "the least variation": ({"total_variation": 1e-320}, (1.0,), True, {}),
    "variation and no style weight": ({"total_variation": 9.0, "style_weight": 0.0}, (1.0,), True, {}),
    "no pad": ({"pad": 0.0}, (1.0,), True, {}),
    "a wide pad": ({"pad": 0.4}, (1.0,), True, {}),
    "colours kept": ({"keep_colours": True}, (1.0,), True, {}),
    "colours kept, half resolution first": ({"keep_colours": True, "coarse_steps": 2}, (1.0,), True, {}),
    "colours kept, from noise": ({"keep_colours": True, "start": NOISE}, (1.0, 2.0), True, {}),
    "colours kept, no style weight": ({"keep_colours": True, "style_weight": 0.0}, (1.0,), True, {}),
    "colours kept of no content": ({"keep_colours": True}, (1.0,), False, {}),
    "a texture": ({}, (1.0,), False, {}),
    "content alone": ({}, (), True, {}),
    "two styles": ({}, (1.0, 3.0), True, {}),
    "two styles, one of them faint": ({}, (1e9, 1e-300), True, {}),
    "named layers": ({}, (1.0,), True, LAYERS),
    "pixels alone": ({}, (1.0,), True, {"style_layers": [{"layer": "pixels"}]}),
    "a smaller size": ({}, (1.0,), True, {"size": {"longer": 30}}),
    "another shape": ({"keep_colours": True}, (1.0,), True, {"size": {"width": 36, "height": 42}}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_those_of_the_returned_png(stubs: Stubs, case: str) -> None:
    settings, shares, with_content, facts = CASES[case]
    asked = request(settings, shares, with_content, snapshots=[0], **facts)
    reply = stubs.gradients.Stylize(asked, timeout=PATIENCE)
    pixels = np.asarray(Image.open(io.BytesIO(reply.png)))
    size = pixels.shape[:2]
    content = seen(CONTENT, size) if with_content else None
    styles = []
    for style, share in zip(STYLES, shares, strict=False):
        factor = max(size) / max(style.shape[:2])
        styles.append((seen(style, (round(style.shape[0] * factor), round(style.shape[1] * factor))), share))
    expected = losses(seen(pixels), content, styles, reply)
    found = {part.name: part.value for part in reply.losses}
    assert not reply.warnings
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert list(found) == [curve.name for curve in reply.curves] == [part.name for part in reply.initial_losses]
    begun = losses(seen(np.asarray(Image.open(io.BytesIO(reply.snapshots[0].png))), size), content, styles, reply)
    if "coarse_steps" not in settings:
        initial = {part.name: part.value for part in reply.initial_losses}
        assert initial == pytest.approx(begun, rel=0.02, abs=1e-4)  # The snapshot is rounded to 8 bits.


def test_every_setting_has_a_case() -> None:
    names = {name for settings, *_ in CASES.values() for name in settings} | {"steps"}
    assert names == set(stylize_pb2.StylizeSettings.DESCRIPTOR.fields_by_name)


def test_kept_colours_are_seen_in_snapshots_and_previews(stubs: Stubs) -> None:
    asked = request({"keep_colours": True, "steps": 24}, (1.0,), True, snapshots=[0, 12])
    events = list(stubs.gradients.StreamStylize(asked, timeout=PATIENCE))
    start, halfway = (seen(np.asarray(Image.open(io.BytesIO(s.png)))) for s in events[-1].result.snapshots)
    assert (start - seen(CONTENT)).abs().max() < 1.01 / 255
    assert (halfway - grey(halfway)).abs().mean() > 0.05
    for event in events[:-1]:
        preview = seen(np.asarray(Image.open(io.BytesIO(event.progress.previews[0]))))
        assert (preview - grey(preview)).abs().mean() > 0.05
