"""What admission counts of calls with regions: the images that the network sees for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import CPU

from gradserve_server.methods.explain import Call, first_rows, rows_of
from gradserve_server.methods.regions import ScoredRegion, placed_as
from gradserve_server.methods.targets import AnyTarget, Contrast, Similarity, Target
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from .runs import answers, call

SIZE = (32, 48)
SPEC = ModelSpec(name="m", builder="position_networks:fine", height=32, width=48, precisions=("exact",))
TARGETS: dict[str, list[AnyTarget]] = {
    "classes": [Target(label=1), Target(label=2)],
    "ranks": [Target(rank=1), Target(rank=2)],
    "contrasts": [Contrast(((Target(rank=1), 1.0),), top=3), Contrast(((Target(rank=2), 1.0),), top=2)],
    "similarities": [Target(label=1), *[Similarity("body", np.zeros((*SIZE, 3), np.uint8))] * 2],
}


@pytest.fixture(scope="module")
def model() -> Prepared:
    return prepare(SPEC, CPU)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("methods", [["gradient"], ["gradient", "grad_cam"]], ids=len)
def test_the_passes_of_calls_with_regions_are_counted(model: Prepared, kind: str, methods: list[str]) -> None:
    region = ScoredRegion(np.ones(SIZE, np.float32))
    calls = list[Call]()
    for name in methods:
        for target in TARGETS[kind]:
            made = call(model, name)
            calls.append(replace(made, target=target, region=None if isinstance(target, Similarity) else region))
    seen = list[int]()

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    hook = model.network.get_submodule("stem").register_forward_pre_hook(count)
    try:
        answers(model, torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)), calls)
    finally:
        hook.remove()
    assert sum(seen) == first_rows(calls) + sum(rows_of(each, SIZE, model.card) for each in calls)


def test_a_region_of_several_calls_is_copied_to_the_device_once() -> None:
    one, other = (ScoredRegion(np.full(SIZE, value, np.float32)) for value in (0.5, 1))
    first, none, again, second = placed_as(torch.zeros(1, device="meta"), [one, None, one, other])
    assert first is not None
    assert second is not None
    assert first is again
    assert none is None
    assert first.weights.device.type == second.weights.device.type == "meta"
