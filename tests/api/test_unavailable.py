"""A model that cannot be loaded is told and refused by its reason; the others are served."""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from serving import PATIENCE, Server, Stubs, picture, refused
from valid_requests import valid_requests

from gradserve import Client
from gradserve.cli import main as cli
from gradserve.v1 import attack_pb2, influence_pb2, models_pb2, predict_pb2, service_pb2
from gradserve_server.__main__ import main
from gradserve_server.models.served import without_folders

OWN = """
builder = "own_networks:{}"
height = 16
width = 16
precisions = ["exact"]
"""
BAD = f"""
[models.first]
{OWN.format("raises")}
[models.fileless]
builder = "own_networks:trunk"
weights = "nothing.bin"
"""
UNSEEDED = f"""
[models.deadly]
{OWN.format("kills_its_process")}
[models.draws_outside]
{OWN.format("draws_outside")}
[models.unseeded]
{OWN.format("unseeded")}
"""
GOOD = f"""
[models.good]
{OWN.format("trunk")}
[models.digits]
precisions = ["exact"]
"""
IMAGE = picture(0, 16, 16)
RPCS = service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods_by_name
REASONS = {"first": "LookupError: no such recipe: soup", "fileless": "no file of weights "}
REASONS |= {"draws_outside": "with the same weights but other answers"}
REASONS |= {
    "unseeded": "its weights are not those of the other processes",
    "deadly": "the worker died while loading it ",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(BAD + UNSEEDED + GOOD, "--workers", "2") as server:
        yield server


@pytest.fixture(scope="module")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)


def asked(stubs: Stubs, model: str) -> dict[str, Callable[[], Any]]:
    """Every RPC that names a model, with nothing else wrong."""

    def call(rpc: str, request: Any) -> Any:
        answer = getattr(stubs.models if rpc == "GetModel" else stubs.gradients, rpc)(request, timeout=PATIENCE)
        return list(answer) if rpc.startswith("Stream") else answer

    return {rpc: partial(call, rpc, request) for rpc, request in valid_requests(model, IMAGE).items()}


@pytest.mark.parametrize("model", ["", "first", "fileless", "unseeded", "deadly"])
def test_every_rpc_refuses_it_with_the_reason(stubs: Stubs, model: str) -> None:
    calls = asked(stubs, model)
    assert set(calls) == {*RPCS, "GetModel"}
    for name, call in calls.items():
        with pytest.raises(grpc.RpcError) as caught:
            call()
        refusal = refused(caught.value)
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "MODEL_UNAVAILABLE"), name
        assert REASONS[model or "first"] in refusal.text, name
        if not model:
            assert refusal.text.startswith(
                "the default model, first, could not be loaded: its builder own_networks:rai"
            )
            assert refusal.text.endswith("; name another with --model: good, digits")


TOLD = {
    "no file of weights /srv/models/w.pt; correct": "no file of weights w.pt; correct",
    "builder hf:/srv/nets/vit failed at /home/me/nets.py:12": "builder hf:vit failed at nets.py:12",
    "'/tmp/a-b/c.d/config.json' (line 3), in ~/nets/x": "'config.json' (line 3), in x",
    "see https://host/a/b, 4/255, owner/net and ./nets/x": "see https://host/a/b, 4/255, owner/net and ./nets/x",
}


@pytest.mark.parametrize("reason", TOLD)
def test_callers_are_told_no_folders_of_the_host(reason: str) -> None:
    assert without_folders(reason) == TOLD[reason]


def test_the_log_has_the_folders_that_callers_are_not_told(server: Server, stubs: Stubs) -> None:
    listed = stubs.models.ListModels(models_pb2.ListModelsRequest(), timeout=PATIENCE)
    (reason,) = [each.reason for each in listed.unavailable if each.name == "fileless"]
    assert reason.startswith("no file of weights nothing.bin; ")
    lines = [line for line in server.log().splitlines() if "model fileless is not served" in line]
    assert len(lines) == 1
    assert re.search(r"no file of weights /\S+/nothing\.bin; ", lines[0])


def test_a_name_that_is_near_one_that_could_not_be_loaded(stubs: Stubs) -> None:
    for name, near in (("fileles", "nearest: fileless (could not be loaded)"), ("goood", "nearest: good")):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.models.GetModel(models_pb2.GetModelRequest(name=name), timeout=PATIENCE)
        refusal = refused(caught.value)
        assert refusal.code == "NOT_FOUND"
        assert near in refusal.text


def test_as_a_surrogate_and_in_an_ensemble(stubs: Stubs) -> None:
    transfer = attack_pb2.AttackMethod(transfer=attack_pb2.Transfer(surrogate="fileless"))
    attack = attack_pb2.AttackRequest(model="good", image=IMAGE, method=transfer)
    influence = influence_pb2.InfluenceRequest(model="digits", image=IMAGE, ensemble=["first"])
    for call, request in ((stubs.gradients.Attack, attack), (stubs.gradients.Influence, influence)):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=PATIENCE)
        assert refused(caught.value).reason == "MODEL_UNAVAILABLE"


def test_the_list_tells_both(stubs: Stubs) -> None:
    reply = stubs.models.ListModels(models_pb2.ListModelsRequest(), timeout=PATIENCE)
    assert [model.name for model in reply.models] == ["good", "digits"]
    assert {each.name for each in reply.unavailable} == set(REASONS)
    assert all(REASONS[each.name] in each.reason for each in reply.unavailable)
    assert reply.default_model == "first"


def test_client_and_command_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(server.address) as client:
        assert [card.name for card in client.models()] == ["good", "digits"]
        assert REASONS["first"] in client.unavailable_models()["first"]
    with pytest.raises(SystemExit) as ended:
        cli(["models", "--server", server.address])
    assert ended.value.code == 0
    assert (
        "first (default) could not be loaded: its builder own_networks:raises failed at own_networks.py:"
        in " ".join(capsys.readouterr().out.split())
    )


def test_the_log_tells_the_reasons(server: Server) -> None:
    assert server.address
    log = server.log()
    for name, reason in REASONS.items():
        assert log.count(f"model {name} is not served: ") == 1
        assert reason in log
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in log.splitlines()), "also those of workers"
    assert "Traceback" not in log


def test_the_others_are_served_also_by_a_new_worker(server: Server, stubs: Stubs) -> None:
    """The last test of this server."""
    for worker in server.workers:
        worker.kill()
    end = time.monotonic() + 60
    while server.metric("gradserve_worker_restarts_total") < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    for model in ("good", "digits"):
        assert stubs.gradients.Predict(predict_pb2.PredictRequest(model=model, image=IMAGE), timeout=PATIENCE).top
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Predict(predict_pb2.PredictRequest(model="first", image=IMAGE), timeout=PATIENCE)
    assert refused(caught.value).reason == "MODEL_UNAVAILABLE"


def starting(folder: Path, config: str, *flags: str) -> int:
    (folder / "server.toml").write_text(config)
    common = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--workers", "1"]
    return main(["--config", str(folder / "server.toml"), *common, *flags])


FAILING = {
    "strict, before any worker": (BAD + GOOD, ["--strict"], 2, ["model fileless: no file of weights"]),
    "strict by the file": ("[server]\nstrict = true\n" + BAD + GOOD, [], 2, ["model fileless: no file of weights"]),
    "strict, in a worker": (BAD + GOOD, ["--strict", "--model", "good", "--model", "first"], 1, ["soup"]),
    "all, some before": (BAD, [], 1, ["model fileless: no file of weights", "soup"]),
    "all before": (BAD, ["--model", "fileless", "--model", "resnt18"], 2, ["no file of weights", "nearest: resnet18"]),
}


@pytest.mark.parametrize(("config", "flags", "code", "says"), FAILING.values(), ids=FAILING)
def test_a_start_that_fails(
    tmp_path: Path,
    config: str,
    flags: list[str],
    code: int,
    says: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert starting(tmp_path, config, *flags) == code
    err = capfd.readouterr().err
    for words in says:
        assert words in err
    assert "Traceback" not in err
