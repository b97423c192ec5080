"""The standard ensemble through a real server: its stages, its limits in company, and what its certificate warns of."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from serving import PATIENCE, Server, Stubs, picture, tensor

from gradserve import Client
from gradserve.v1 import attack_pb2
from gradserve.v1 import common_pb2 as pb

SIDE = 24
CONFIG = "[models.digits]\n" + "".join(
    f"""
[models.{name}]
builder = "odd_networks:{name}"
precisions = ["exact"]
height = {SIDE}
width = {SIDE}
resize = {SIDE}
mean = [0, 0, 0]
std = [1, 1, 1]
"""
    for name in ("restless", "constant")
)
METHODS = {
    "apgd_targeted": {"steps": 10, "classes": 3},
    "fab_targeted": {"steps": 8, "classes": 3},
    "ensemble": {"steps": 8, "classes": 3, "queries": 60},
    "malt": {"steps": 10, "classes": 3, "candidates": 5},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(CONFIG, "--workers", "1") as server:
        yield server


@pytest.fixture(scope="module")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)


def asked(method: str, seed: int = 0, **fields: object) -> attack_pb2.AttackRequest:
    facts = {"model": "digits", "preprocess": pb.PREPROCESS_AS_IS, "options": {"seed": seed}}
    own = {"image": picture(seed, 8, 8), "method": {method: METHODS[method]}}
    return attack_pb2.AttackRequest(**{**facts, **own, **fields})


def pixels_of(image: pb.Image) -> np.ndarray:
    return np.frombuffer(image.tensor.data, np.uint8).reshape(tuple(image.tensor.shape))


def attack(stubs: Stubs, method: str, **fields: object) -> attack_pb2.AttackResponse:
    return stubs.gradients.Attack(asked(method, **fields), timeout=PATIENCE)


@pytest.mark.parametrize("norm", [attack_pb2.NORM_LINF, attack_pb2.NORM_L2])
def test_stages_are_told_and_add_up(stubs: Stubs, norm: attack_pb2.Norm) -> None:
    stood = attack(stubs, "ensemble", eps=1e-3, norm=norm)
    assert [stage.method for stage in stood.stages] == ["apgd", "apgd_targeted", "fab_targeted", "square"]
    assert not any(stage.reached for stage in stood.stages)
    assert stood.certificate.verdict == attack_pb2.VERDICT_NOT_FOUND
    for reply in (stood, attack(stubs, "ensemble", eps=0.9, norm=norm)):
        assert sum(stage.queries for stage in reply.stages) == reply.certificate.queries
        assert sum(stage.gradients for stage in reply.stages) == reply.certificate.gradients
    assert [stage.reached for stage in reply.stages] == [*[False] * (len(reply.stages) - 1), True]
    assert reply.certificate.verdict == attack_pb2.VERDICT_FOUND
    assert reply.certificate.within_budget
    assert not attack(stubs, "malt", eps=0.1).stages


def test_an_ensemble_is_begun_though_all_of_its_stages_would_take_too_long(stubs: Stubs) -> None:
    attack(stubs, "ensemble", eps=1e-3)  # Now the server knows how long passes take.
    facts = {"eps": 0.9, "first_success": False, "options": {"time_budget": Duration(seconds=4)}}
    request = asked("ensemble", **facts)
    request.method.ensemble.queries = 100_000
    reply = stubs.gradients.Attack(request, timeout=PATIENCE)
    assert reply.certificate.verdict == attack_pb2.VERDICT_FOUND
    assert len(reply.stages) == 1, "it ends with the stage that succeeds, which is soon over"


def test_the_client_has_the_stages(server: Server) -> None:
    with Client(server.address, timeout=PATIENCE) as client:
        facts = {"model": "digits", "preprocess": "as_is", "eps": 1e-3, **METHODS["ensemble"]}
        found = client.attack(pixels_of(picture(0, 8, 8)), "ensemble", **facts)
    assert [stage.method for stage in found.stages] == ["apgd", "apgd_targeted", "fab_targeted", "square"]
    assert found.loss == "margin", "so that robustness checks do not try it again with the margin"
    assert found.to_dict()["stages"][3] == {"method": "square", "reached": False, "queries": 60, "gradients": 0}


def test_all_are_the_same_in_company(stubs: Stubs) -> None:
    requests = [asked(method, seed, eps=0.03) for seed in range(4) for method in METHODS]
    alone = [stubs.gradients.Attack(each, timeout=PATIENCE) for each in requests]
    with ThreadPoolExecutor(16) as pool:
        company = list(pool.map(lambda each: stubs.gradients.Attack(each, timeout=PATIENCE), requests))
    for one, other in zip(alone, company, strict=True):
        assert one.certificate.verdict == other.certificate.verdict
        assert one.certificate.queries == other.certificate.queries
        assert list(one.stages) == list(other.stages)
        assert one.certificate.after.margin == pytest.approx(other.certificate.after.margin, rel=1e-3, abs=1e-3)


def test_warnings_of_a_network_that_is_random_and_of_one_that_is_constant(stubs: Stubs) -> None:
    def codes(model: str, side: int) -> set[str]:
        pixels = pixels_of(picture(0, side, side)).copy()
        pixels[0, 0, 0] = 128
        reply = attack(stubs, "ensemble", model=model, image=tensor(pixels), eps=1e-3)
        return {text.split(":")[0] for text in reply.certificate.warnings} - {"EPS_BELOW_ENCODING"}

    assert codes("restless", SIDE) == {"RANDOMISED"}
    assert codes("constant", SIDE) == {"ZERO_GRADIENT", "FLAT_LOSS"}
    assert not codes("digits", 8)
