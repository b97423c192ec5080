"""Networks that give a score for each position: regions in Explain and Attack against autograd on the raw networks."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import position_networks
import pytest
import torch
from hub_pictures import encoded
from PIL import Image
from serving import PATIENCE, Server, Stubs, methods, picture, values
from torch import Tensor
from valid_requests import valid_requests

from gradserve.v1 import attack_pb2, explain_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import load

SIZE = "height = 32\nwidth = 48\nseed = 3\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n"
OWN = 'precisions = ["exact"]\nlabels = ["sky", "cat", "dog", "car"]\n'
CONFIG = "".join(f'[models.{name}]\nbuilder = "position_networks:{name}"\n{OWN}{SIZE}' for name in ("fine", "coarse"))
CONFIG += f'[models.lraspp]\nbuilder = "lraspp_mobilenet_v3_large"\nweights = "random"\nprecisions = ["exact"]\n{SIZE}'
CONFIG += '[models.plain]\nbuilder = "networks:linear"\nheight = 8\nwidth = 12\nprecisions = ["exact"]\n'
PHOTO = Image.fromarray(np.random.default_rng(7).integers(0, 256, (60, 70, 3), np.uint8))
IMAGE = picture(4, 32, 48)
BOX = pb.ScoreRegion(box=pb.Box(x0=5, y0=6, x1=20, y1=18))
NETWORKS: dict[str, Callable[[], Any]] = {
    "fine": position_networks.fine,
    "coarse": position_networks.coarse,
}


@pytest.fixture(scope="module")
def stubs() -> Iterator[Stubs]:
    with Server(CONFIG, "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


def raw(name: str) -> Callable[[Tensor], Tensor]:
    """The untouched network's scores [N, classes, h, w] of images in [0, 1]."""
    if name == "lraspp":
        network = load(
            ModelSpec(name="m", builder="lraspp_mobilenet_v3_large", weights="random", seed=3, height=32, width=48)
        ).network
    else:
        torch.manual_seed(3)
        network = NETWORKS[name]().eval()
    return lambda images: network((images - 0.5) / 0.25)["out"]


def pixels_of(image: pb.Image) -> Tensor:
    pixels = np.frombuffer(image.tensor.data, np.uint8).reshape(1, *image.tensor.shape) / np.float32(255)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def explain(stubs: Stubs, **fields: Any) -> Any:
    return stubs.gradients.Explain(explain_pb2.ExplainRequest(**fields), timeout=PATIENCE)


def box_weights() -> Tensor:
    """The weights of BOX at the input's pixels."""
    weights = torch.zeros(32, 48)
    weights[6:18, 5:20] = 1
    return weights


def at_positions(weights: Tensor, scores: Tensor) -> Tensor:
    """The share of each position of scores [h, w] that is inside, where a position is a square of pixels."""
    side = weights.shape[0] // scores.shape[0]
    return weights.reshape(scores.shape[0], side, scores.shape[1], side).mean((1, 3))


def gradient(name: str, images: Tensor, label: int, weights: Tensor) -> Tensor:
    """The gradient of a class's weighted scores by the pixels, by plain autograd."""
    images = images.clone().requires_grad_()
    scores = raw(name)(images)[0, label]
    (scores * at_positions(weights, scores)).sum().backward()
    assert images.grad is not None
    return images.grad[0].abs().sum(0)


@pytest.mark.parametrize("name", ["fine", "coarse", "lraspp"])
def test_the_gradient_of_a_box_is_autograds(stubs: Stubs, name: str) -> None:
    target = pb.Target(class_index=2, region=BOX)
    reply = explain(stubs, model=name, image=IMAGE, methods=methods(gradient={}), targets=[target])
    right = gradient(name, pixels_of(IMAGE), 2, box_weights())
    ours = torch.from_numpy(values(reply.explanations[0].raw))
    assert (ours - right).abs().max() < 1e-4 * right.max()
    assert reply.explanations[0].target == target
    assert right.max() > 0


def test_several_regions_and_ranks_share_passes_and_stay_apart(stubs: Stubs) -> None:
    whole = pb.ScoreRegion(box=pb.Box(x0=0, y0=0, x1=48, y1=32))
    targets = [pb.Target(rank=1, region=BOX), pb.Target(rank=1, region=whole), pb.Target(class_name="dog", region=BOX)]
    reply = explain(stubs, model="fine", image=IMAGE, methods=methods(gradient={}), targets=targets)
    scores = raw("fine")(pixels_of(IMAGE))[0].detach()
    for each, part in zip(reply.explanations, (scores[:, 6:18, 5:20], scores, scores[:, 6:18, 5:20]), strict=True):
        sums = part.sum((1, 2))
        wanted = 2 if each is reply.explanations[2] else int(sums.argmax())
        assert each.target.class_index == wanted
        assert each.target_value == pytest.approx(float(sums[wanted]), rel=1e-4)


def test_a_mask_of_the_picture_is_cropped_as_the_picture_is(stubs: Stubs) -> None:
    """The 70 x 60 photo becomes 48 x 41, of which the model sees 48 x 32; the mask has the photo's size."""
    inside = np.zeros((60, 70), np.uint8)
    inside[20:40, 10:50] = 255
    region = pb.ScoreRegion(mask=encoded(Image.fromarray(inside)))
    target = pb.Target(class_name="cat", region=region)
    reply = explain(stubs, model="fine", image=encoded(PHOTO), methods=methods(gradient={}), targets=[target])
    part = reply.region
    rows = np.floor(part.y + (np.arange(32) + 0.5) * part.height / 32).astype(int)
    columns = np.floor(part.x + (np.arange(48) + 0.5) * part.width / 48).astype(int)
    weights = torch.from_numpy((inside[np.ix_(rows, columns)] > 0).astype(np.float32))
    box = pb.ScoreRegion(box=pb.Box(x0=10, y0=20, x1=50, y1=40))
    by_box = explain(
        stubs,
        model="fine",
        image=encoded(PHOTO),
        methods=methods(gradient={}),
        targets=[pb.Target(class_name="cat", region=box)],
    )
    ours, boxed = (values(each.explanations[0].raw) for each in (reply, by_box))
    seen = np.asarray(PHOTO.resize((48, 41), Image.Resampling.BILINEAR))[round(4.5) : round(4.5) + 32]
    right = gradient("fine", torch.from_numpy(seen.copy()).permute(2, 0, 1)[None] / 255, 1, weights)
    assert np.abs(ours - right.numpy()).max() < 1e-4 * float(right.max())
    assert np.abs(boxed - ours).max() < 0.3 * ours.max()  # A mask's edge may fall on the pixel beside a box's.
    own_size = np.zeros((32, 48), np.uint8)
    own_size[:, :9] = 128
    target = pb.Target(class_name="cat", region=pb.ScoreRegion(mask=encoded(Image.fromarray(own_size))))
    reply = explain(stubs, model="fine", image=encoded(PHOTO), methods=methods(gradient={}), targets=[target])
    assert not values(reply.explanations[0].raw)[:, 30:].any()


def transparent(kind: str) -> Image.Image:
    """A mask of the rows 6 to 18 and columns 5 to 20, opaque white, that is transparent elsewhere."""
    mask = Image.new("RGBA", (48, 32), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (5, 6, 20, 18))
    if kind == "I;16":
        return Image.fromarray(np.where(np.asarray(mask)[..., 3], 65535, 65534).astype(np.uint16))
    return mask.convert(kind)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "I;16"])
def test_transparent_parts_of_a_mask_are_outside(stubs: Stubs, kind: str) -> None:
    file = io.BytesIO()
    transparent(kind).save(file, "PNG", **({"transparency": 65534} if kind == "I;16" else {}))
    mask = pb.ScoreRegion(mask=pb.Image(encoded=file.getvalue()))
    targets = [pb.Target(class_index=1, region=region) for region in (BOX, mask)]
    reply = explain(stubs, model="fine", image=IMAGE, methods=methods(gradient={}), targets=targets)
    assert reply.explanations[1].target_value == reply.explanations[0].target_value


@pytest.mark.parametrize("name", ["fine", "lraspp"])
def test_every_other_method_gives_a_map(stubs: Stubs, name: str) -> None:
    wanted = methods(
        gradient_x_input={},
        smooth_grad={"samples": 2},
        integrated_gradients={"steps": 32},
        grad_cam={},
        layer_cam={},
        occlusion={"patch": 0.3},
    )
    contrast = pb.Contrast(terms=[{"target": {"class_index": 1}}, {"target": {"class_index": 2}, "weight": -1}])
    targets = [pb.Target(class_index=1, region=BOX), pb.Target(contrast=contrast, region=BOX)]
    reply = explain(stubs, model=name, image=IMAGE, methods=wanted, targets=targets)
    for each in reply.explanations:
        assert each.high > each.low, each.method_name


def test_integrated_gradients_sum_to_the_difference_of_the_regions_scores(stubs: Stubs) -> None:
    wanted = methods(integrated_gradients={"steps": 500})
    reply = explain(stubs, model="fine", image=IMAGE, methods=wanted, targets=[pb.Target(class_index=1, region=BOX)])
    scores = [raw("fine")(images)[0, 1, 6:18, 5:20].sum() for images in (pixels_of(IMAGE), torch.zeros(1, 3, 32, 48))]
    total = values(reply.explanations[0].raw).sum()
    assert float(total) == pytest.approx(float(scores[0] - scores[1]), rel=0.02)


@pytest.mark.parametrize("name", ["fine", "coarse"])
def test_an_attack_on_a_region_is_certified_by_the_raw_network(stubs: Stubs, name: str) -> None:
    request = attack_pb2.AttackRequest(
        model=name,
        image=IMAGE,
        method={"pgd": {"steps": 20}},
        eps=32 / 255,
        score_region=BOX,
        maps=methods(gradient={})[0],
    )
    reply = stubs.gradients.Attack(request, timeout=PATIENCE)
    changed = np.asarray(Image.open(io.BytesIO(reply.adversarial)))
    for pixels, judged in (
        (pixels_of(IMAGE), reply.certificate.before),
        (torch.from_numpy(changed.copy()).permute(2, 0, 1)[None] / 255, reply.certificate.after),
    ):
        scores = raw(name)(pixels)[0]
        weights = at_positions(box_weights(), scores[0])
        means = (scores * weights).sum((1, 2)) / weights.sum()
        assert judged.predicted.class_index == int(means.argmax())
        assert judged.predicted.logit == pytest.approx(float(means.max()), abs=1e-4)
    assert reply.certificate.verdict == attack_pb2.VERDICT_FOUND
    assert reply.certificate.linf <= 32 / 255 + 1e-6
    assert reply.map_before.target.region == BOX


OTHERS = {
    name: request
    for name, request in valid_requests("fine", IMAGE).items()
    if name not in ("Explain", "Attack", "Inspect", "GetModel") and not name.startswith("Stream")
}


@pytest.mark.parametrize("rpc", OTHERS)
def test_other_calls_do_not_apply(stubs: Stubs, rpc: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stubs.gradients, rpc)(OTHERS[rpc], timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "fine gives a score for each position, and this call is for networks" in caught.value.details()


def test_relevance_does_not_apply(stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError, match="relevance is not propagated through sums over positions"):
        explain(stubs, model="fine", image=IMAGE, methods=methods(lrp={}), targets=[pb.Target(rank=1, region=BOX)])


def target(**fields: Any) -> dict[str, Any]:
    return {"targets": [pb.Target(**{"class_index": 1, "region": BOX, **fields})]}


def box(*edges: float) -> pb.ScoreRegion:
    return pb.ScoreRegion(box=pb.Box(**dict(zip(("x0", "y0", "x1", "y1"), edges, strict=True))))


EMPTY = pb.ScoreRegion(mask=encoded(Image.new("L", (48, 32))))
SMALL = pb.ScoreRegion(mask=encoded(Image.new("L", (40, 30), 255)))
INVALID = "INVALID_ARGUMENT"
WRONG = [
    ("fine", {}, INVALID, "targets must name a class and its region, since fine gives a score for each position"),
    ("fine", {"targets": [pb.Target(rank=1)]}, INVALID, "targets[0].region must be set for fine, which gives a score"),
    ("fine", target(region=pb.ScoreRegion()), INVALID, "targets[0].region must be set for fine"),
    ("fine", target(region=box(5, 5, 5, 9)), INVALID, "targets[0].region.box x0 must be less than x1"),
    ("fine", target(region=box(float("nan"), 5, 9, 9)), INVALID, "targets[0].region.box x0 must be less than x1"),
    (
        "fine",
        target(region=box(60, 5, 70, 9)),
        INVALID,
        "the model has none there; it sees x from 0 to 48 and y from 0 to 32",
    ),
    ("fine", target(region=EMPTY), INVALID, "targets[0].region.mask has nothing that is at least half white"),
    (
        "fine",
        target(region=SMALL),
        INVALID,
        "must have the size of the picture, 48x32, or of the model's input, 48x32; was 40x30",
    ),
    (
        "fine",
        target(region=pb.ScoreRegion(mask=pb.Image(encoded=b"x"))),
        INVALID,
        "targets[0].region.mask not a picture",
    ),
    (
        "fine",
        {"targets": [pb.Target(unit=pb.Unit(layer="stem", channel=1), region=BOX)]},
        INVALID,
        "is for classes, ranks",
    ),
    ("plain", target(), "FAILED_PRECONDITION", "targets[0].region does not apply, since plain gives one score"),
]


@pytest.mark.parametrize(("model", "fields", "code", "text"), WRONG, ids=[text[:60] for *_, text in WRONG])
def test_wrong_regions(stubs: Stubs, model: str, fields: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        explain(stubs, model=model, image=IMAGE, methods=methods(gradient={}), **fields)
    assert caught.value.code().name == code
    assert text.replace("targets[0].region.box ", "") in caught.value.details().replace(": ", " ")


def test_attacks_that_do_not_apply(stubs: Stubs) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "fine"}, INVALID, "score_region: must be set for fine"),
        ({"model": "plain", "score_region": BOX}, "FAILED_PRECONDITION", "score_region does not apply, since plain"),
        (
            {"model": "fine", "score_region": BOX, "method": {"transfer": {"surrogate": "plain"}}},
            INVALID,
            "must tell the same classes apart",
        ),
    ]
    for facts, code, text in cases:
        request = attack_pb2.AttackRequest(**{"image": IMAGE, "method": {"pgd": {}}, **facts})
        with pytest.raises(grpc.RpcError) as caught:
            stubs.gradients.Attack(request, timeout=PATIENCE)
        assert caught.value.code().name == code
        assert text in caught.value.details()
