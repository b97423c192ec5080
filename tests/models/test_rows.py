"""Rows of layers are those of the images, whatever a network does with its batch inside."""

from typing import Any

import pytest
import torch
from rare_kinds import queries, rows
from torch import Tensor, nn
from zoo import CPU

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Query, Tap
from gradserve_server.methods.influence.coverage import covered
from gradserve_server.models.behaviour import Unservable, examine, trial_images, varied
from gradserve_server.models.card import ModelCard
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.rows import LayerRows

MIXED = ("flipped", "sorted", "centred", "flipped in fours")
LAYERS = ("norm1", "norm2", "act:0", "act", "head")


def served(builder: str, fold: bool = True, **arguments: Any) -> Prepared:
    facts = {"height": 64, "width": 64, "mean": (0.0,) * 3, "std": (1.0,) * 3, "precisions": ("exact",)}
    spec = ModelSpec.model_validate({"name": "it", "builder": f"rare_kinds:{builder}", "arguments": arguments, **facts})
    return prepare(spec, CPU, fold=fold)


def in_company(model: Prepared, images: Tensor, layers: tuple[str, ...]) -> list[Any]:
    """What each of several callers is told of layers and gradients, every other one by the guided rule."""
    engine, told = Engine({"it": model}, rows=8), {}

    def asking(i: int) -> Any:
        def method(job: Job) -> Steps:
            rule = "guided" if i % 2 else "plain"
            query = Query(images[i : i + 1], logit(1), "image", tuple(map(Tap, layers)), rule=rule)  # type: ignore[arg-type]
            return (yield query)

        return method

    for i in range(len(images)):
        engine.submit(Job(str(i), "it", asking(i)))
    while not engine.idle:
        told |= {event.job.id: event for event in engine.step() if isinstance(event, Ended)}
    assert not any(event.error for event in told.values())
    return [told[str(i)].result for i in range(len(images))]


def in_plain_torch(network: nn.Module, image: Tensor, guided: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Layers of a lone image by name, and its gradient; guided by hooks of torch's own on what each ReLU gives."""
    kept: dict[str, Tensor] = {}
    calls: list[Tensor] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            kept[name] = out.detach().clone()
            if name == "act":
                calls.append(kept[name])
                if guided:
                    out.register_hook(lambda grad: grad.clamp_min(0))

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(keep(name))
    image = image.clone().requires_grad_()
    (grad,) = torch.autograd.grad(network(image)[0, 1], image)
    return {**kept, "act:0": calls[0], "act": calls[1]}, grad


@pytest.mark.parametrize("how", MIXED)
def test_where_rows_are_mixed_every_image_has_a_pass_of_its_own(how: str) -> None:
    model = served("rows", how=how)
    (note,) = [note for note in model.card.notes if "not batched" in note]
    assert "in a batch, what its layer " in note
    assert model.card.grad_cam_layer == "act"
    images = varied(64, 64, seed=3)
    for i, found in enumerate(in_company(model, images, LAYERS)):
        layers, grad = in_plain_torch(rows(how=how).requires_grad_(False), images[i : i + 1], guided=bool(i % 2))
        assert torch.allclose(found.image_grad, grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max())), i
        for name, act in zip(LAYERS, found.acts, strict=True):
            assert torch.allclose(act, layers[name], rtol=1e-4, atol=1e-5), (i, name)


def layouts(card: ModelCard) -> dict[str, str]:
    return {layer.name: layer.layout for layer in card.layers}


@pytest.mark.parametrize("how", ["repeated", "two crops"])
def test_layers_with_several_rows_for_each_image_are_not_read(how: str) -> None:
    card = served("rows", how=how).card
    assert not card.unbatched
    assert set(layouts(card).values()) == {"other"}
    assert not card.grad_cam_layer
    assert any("does not apply, since act gives 2 rows for each image, which are no map" in note for note in card.notes)
    assert "sees 4 rows where the batch has 2" in card.rules_refused
    assert covered(served("rows", fold=False, how=how))[0] == []


@pytest.mark.parametrize("count", [2, 5])
def test_as_many_rows_as_images_by_chance(count: int) -> None:
    """The probe sees two images, influence five."""
    card = served("queries", count=count).card
    assert layouts(card)["embed"] == "other"
    assert layouts(card)["head"] == "vector"
    names = [layer.name for layer in covered(served("queries", fold=False, count=count))[0]]
    assert names == ["first", "second", "head"]


def look(network: nn.Module, images: Tensor) -> LayerRows:
    found = LayerRows(network.eval())
    with torch.no_grad():
        for batch in ([0], [1], [2], [3], [0, 1, 2, 3], [2, 0, 3, 1, 1, 3, 0, 2]):
            with found.watching(batch):
                network(images[batch])
    return found


def test_rounding_and_constant_rows_are_nobodys() -> None:
    """Rows that are alike for all images, and numbers that differ in their last places."""

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + 1e-7 * len(x))

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x) * (1 + 1e-7 * len(x)) + 1e-9 * x

    network = nn.Sequential(Rounds(), Constant(), nn.ReLU())
    found = look(network, varied(8, 8))
    assert not found.mixed
    assert not found.apart
    assert found.first_mixed == ""


def test_what_is_found_by_name() -> None:
    found = look(rows(how="flipped"), varied(64, 64))
    assert found.first_mixed == "first"
    assert {name for name, _ in found.mixed} == {"first", "norm1", "act", "second", "norm2"}
    assert {name for name, _ in look(queries(count=4), varied(64, 64)).apart} == {"embed"}


def test_rounding_that_grows_is_told_from_mixed_images() -> None:
    """The logistic map doubles every error at each of its steps; torch adds up one row otherwise than many."""

    class Logistic(nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mix, self.head, self.steps = nn.Linear(3 * 16 * 16, 64), nn.Linear(64, 5), steps

        def forward(self, x: Tensor) -> Tensor:
            z = self.mix(x.flatten(1)).sigmoid()
            for _ in range(self.steps):
                z = 4 * z * (1 - z)
            return self.head(z)

    calm, wild = (examine(Logistic(steps).eval(), trial_images(16, 16)) for steps in (2, 20))
    assert not calm.unbatched
    assert "rounding grows" in wild.unbatched

    class Centred(Logistic):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(Unservable, match="depend on the other images"):
        examine(Centred(20).eval(), trial_images(16, 16))
