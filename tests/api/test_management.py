"""Models are loaded, replaced and unloaded over real connections, while others call them and processes die."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import networks
import numpy as np
import psutil
import pytest
import torch
from lengths import length
from PIL import Image
from serving import PATIENCE, Server, Stubs, picture, refused

from gradserve import Client, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable
from gradserve.results.models import ChangeProgress
from gradserve.results.pictures import Progress
from gradserve.v1 import attack_pb2, explain_pb2, management_pb2, management_pb2_grpc, predict_pb2
from gradserve_server.offline.index import index as build_index

REPLACEMENTS = length(3, 20)
CALLERS = 4
PICTURE = picture(0, 8, 12)
PIXELS = np.zeros((8, 12, 3), np.uint8)
SWITCH = "[server]\nmodel_management = true\n"
STEP = attack_pb2.AttackMethod(pgd={"steps": 40})


def table(name: str, seed: int = 0, more: str = "") -> str:
    """A table of a linear model, whose weights depend on the seed."""
    entry = f'[models.{name}]\nbuilder = "networks:linear"\nweights = "random"\nseed = {seed}\n'
    return f'{entry}precisions = ["exact"]\nheight = 8\nwidth = 12\nresize = 8\n{more}'


def own(builder: str) -> str:
    return table("linear").replace("networks:linear", builder)


class Managed:
    """A server whose configuration file changes."""

    def __init__(self, server: Server, head: str) -> None:
        self.server, self._head = server, head
        self.client = Client(server.address, timeout=PATIENCE, retries=0)

    def write(self, *tables: str) -> None:
        (self.server.folder / "server.toml").write_text(self._head + "".join(tables))

    @property
    def digests(self) -> dict[str, str]:
        return {card.name: card.weights_digest for card in self.client.models()}

    def workers(self) -> set[int]:
        """The processes of its two workers, once those that were replaced have ended."""
        end = time.monotonic() + PATIENCE
        while len(pids := {worker.pid for worker in self.server.workers}) != 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        return pids

    def reset(self) -> None:
        """Serves `linear` and `other` as at the start."""
        self.write(table("linear"), table("other"))
        if missing := [name for name in ("linear", "other") if name not in self.digests]:
            self.client.load_model(*missing)
        if extra := [name for name in self.digests if name not in ("linear", "other")]:
            self.client.unload_model(*extra)


@contextmanager
def managed(head: str = SWITCH, workers: int = 2, *flags: str) -> Iterator[Managed]:
    with Server(head + table("linear") + table("other"), "--workers", str(workers), *flags) as server:
        assert server.address
        one = Managed(server, head)
        with one.client:
            yield one


@pytest.fixture(scope="module")
def running() -> Iterator[Managed]:
    with managed(SWITCH, 2, "--front-ends", "2") as one:
        yield one


@pytest.fixture
def serving(running: Managed) -> Managed:
    running.reset()
    return running


def logits(reply: predict_pb2.PredictResponse) -> np.ndarray:
    return np.array([score.logit for score in sorted(reply.top, key=lambda each: each.class_index)])


class Load:
    """Callers that ask for a model all the time, without retries, and keep what they were answered."""

    def __init__(self, server: Server, model: str) -> None:
        self.predictions: list[tuple[str, np.ndarray]] = []  # Digests with logits.
        self.attacks: list[attack_pb2.AttackResponse] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._predict = predict_pb2.PredictRequest(image=PICTURE, model=model, top_k=5)
        maps = explain_pb2.ExplainMethod(gradient={})
        self._attack = attack_pb2.AttackRequest(image=PICTURE, model=model, method=STEP, eps=0.1, maps=maps)
        self._threads = ThreadPoolExecutor(CALLERS)
        self._calls = [self._threads.submit(self._call, server, index % 2 == 1) for index in range(CALLERS)]

    def _call(self, server: Server, attacks: bool) -> None:
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            gradients = Stubs.of(channel).gradients
            while not self._stop.is_set():
                try:
                    if attacks:
                        self.attacks.append(gradients.Attack(self._attack, timeout=PATIENCE))
                    else:
                        reply = gradients.Predict(self._predict, timeout=PATIENCE)
                        self.predictions.append((reply.provenance.weights_digest, logits(reply)))
                except grpc.RpcError as error:
                    self.failures.append(f"{refused(error).code}: {refused(error).text}")
                time.sleep(0.01)  # The machine has other things to do.

    def end(self) -> None:
        self._stop.set()
        for call in self._calls:
            call.result(PATIENCE)
        self._threads.shutdown()


@contextmanager
def counts_one(server: Server, action: str, result: str) -> Iterator[None]:
    """One more change with that end is counted by the end of the `with`."""
    labels = {"action": action, "result": result}
    before = server.metric("gradserve_model_changes_total", **labels)
    yield
    assert server.metric("gradserve_model_changes_total", **labels) == before + 1


@contextmanager
def load(server: Server, model: str) -> Iterator[Load]:
    callers = Load(server, model)
    try:
        yield callers
    finally:
        callers.end()


def test_a_new_table_is_loaded_and_taken_away_again(serving: Managed) -> None:
    before = serving.digests
    serving.write(table("linear", seed=7), table("other"), table("third", seed=3))
    told: list[ChangeProgress] = []
    with counts_one(serving.server, "load", "done"):
        changed = serving.client.load_model("third", on_progress=told.append)
    assert [card.name for card in changed.models] == ["third"]
    assert changed.served == ("linear", "other", "third")
    assert serving.digests == before | {"third": changed.models[0].weights_digest}, "the others are as they were"
    assert serving.client.predict(PIXELS, model="third").provenance.weights_digest == changed.models[0].weights_digest
    assert told[0].state == "reading"
    for worker in (1, 2):
        mine = [(each.state, each.model) for each in told if each.worker == worker]
        assert ("loading", "third") in mine
        assert ("warming_up", "third") in mine
        assert mine[-1] == ("ready", "")
    assert {each.workers for each in told if each.worker} == {2}
    assert serving.client.unload_model("third").served == ("linear", "other")
    assert serving.digests == before
    with pytest.raises(NotFound, match="there is no model 'third'; nearest: other"):
        serving.client.predict(PIXELS, model="third")


def test_a_model_is_replaced_under_load_and_no_request_fails(serving: Managed) -> None:
    request = predict_pb2.PredictRequest(image=PICTURE, model="linear", top_k=5)

    def replaced(number: int) -> tuple[str, np.ndarray]:
        """Digest and logits after a replacement, of the first weights or of the second."""
        serving.write(table("linear", seed=1 + number % 2), table("other"))
        digest = serving.client.reload_model("linear").models[0].weights_digest
        with grpc.insecure_channel(serving.server.address) as channel:
            reply = Stubs.of(channel).gradients.Predict(request, timeout=PATIENCE)
        assert reply.provenance.weights_digest == digest, "from the end of the call on"
        return digest, logits(reply)

    expected = dict(replaced(number) for number in range(2))
    with load(serving.server, "linear") as callers:
        for number in range(REPLACEMENTS):
            replaced(number)
    print(f"{REPLACEMENTS} replacements, {len(callers.predictions)} predictions, {len(callers.attacks)} attacks")
    assert callers.failures == []
    assert len(expected) == 2
    assert {digest for digest, _ in callers.predictions} == expected.keys()
    for digest, found in callers.predictions:
        np.testing.assert_allclose(found, expected[digest], rtol=1e-4, atol=1e-5)
    assert {attack.provenance.weights_digest for attack in callers.attacks} == expected.keys()
    for attack in callers.attacks:
        before = attack.certificate.before.predicted
        of_digest = expected[attack.provenance.weights_digest]
        np.testing.assert_allclose(before.logit, of_digest[before.class_index], rtol=1e-4, atol=1e-5)
        assert not [each for each in attack.certificate.warnings if each.startswith("RANDOMISED")], "of one network"


def test_an_unloaded_model_is_not_found_and_nobody_waits(serving: Managed) -> None:
    with load(serving.server, "other") as callers:
        time.sleep(0.5)
        serving.client.unload_model("other")
        time.sleep(0.5)
    assert callers.predictions
    assert set(callers.failures) == {"NOT_FOUND: there is no model 'other'; there are: linear"}


@pytest.mark.parametrize("call", ["load_model", "reload_model"])
def test_a_name_that_the_catalogue_has_not(serving: Managed, call: str) -> None:
    with pytest.raises(NotFound, match="the catalogue has no model 'resnet50'; there are: linear, other"):
        getattr(serving.client, call)("resnet50")


def test_what_does_not_fit_what_is_served(serving: Managed) -> None:
    serving.write(table("linear"), table("other"), table("third"))
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: serving.client.load_model("linear"), FailedPrecondition, "linear is loaded already; reload it"),
        (lambda: serving.client.reload_model("third"), FailedPrecondition, "third is not loaded; load it"),
        (lambda: serving.client.unload_model("third"), NotFound, "serves no model 'third'; there are: linear, other"),
        (lambda: serving.client.unload_model("linear", "other"), FailedPrecondition, "no model would be left"),
        (lambda: serving.client.reload_model(), InvalidArgument, "names: must have"),
        (lambda: serving.client.load_model("third", ""), InvalidArgument, "names: must each have 1 to 64 characters"),
        (
            lambda: serving.client.load_model(*map(str, range(257))),
            InvalidArgument,
            "names of 1 to 256 models, were 257",
        ),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("[models.linear\n", r"the catalogue cannot be read: .*server\.toml: "),
        (table("linear", more="colour = 1\n"), "unknown key colour"),
        (table("linear", more='labels = "gone.txt"\n'), "model linear: no file of labels"),
        (own("networks:not_a_network"), "model linear: "),
        (own("own_networks:kills_its_process"), "died while loading model linear"),
    ],
    ids=["syntax", "key", "file", "builder", "dies"],
)
def test_what_cannot_be_loaded_changes_nothing(serving: Managed, entry: str, says: str) -> None:
    before, workers = serving.digests, serving.workers()
    serving.write(entry, table("other"))
    with counts_one(serving.server, "reload", "refused"), pytest.raises(FailedPrecondition, match=says):
        serving.client.reload_model("linear")
    assert serving.digests == before
    assert serving.client.predict(PIXELS, model="linear").provenance.weights_digest == before["linear"]
    assert serving.workers() == workers


def test_files_that_have_changed_are_reloaded_together(serving: Managed, tmp_path: Path) -> None:
    tables = []
    for name in ("first", "second"):
        torch.save(networks.linear().state_dict(), tmp_path / f"{name}.pt")
        tables.append(table(name).replace('"random"', f'"{tmp_path}/{name}.pt"'))
    serving.write(table("linear"), table("other"), *tables)
    cards = serving.client.load_model("first", "second").models
    for name in ("first", "second"):
        torch.save(networks.linear().state_dict(), tmp_path / f"{name}.pt")
    with pytest.raises(FailedPrecondition, match=r"model second: .* reload it by the same call"):
        serving.client.reload_model("first")
    assert [serving.digests[card.name] for card in cards] == [card.weights_digest for card in cards]
    changed = serving.client.reload_model("first", "second").models
    assert {card.weights_digest for card in changed}.isdisjoint(card.weights_digest for card in cards)


def examples(folder: Path, name: str, count: int) -> Path:
    """A training set of five classes, with so many pictures of each, called by that name and a number."""
    draw = np.random.default_rng(0)
    for label in range(5):
        (folder / f"c{label}").mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 255, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"c{label}" / f"{name}{i}.png")
    return folder


def test_a_model_and_its_index_are_replaced_together(serving: Managed, tmp_path: Path) -> None:
    """The new ones lie where the old ones did. Until they are loaded, the old ones answer."""
    weights, index, config = tmp_path / "w.pt", tmp_path / "index", tmp_path / "models.toml"
    entry = table("traced").replace('"random"', f'"{weights}"')
    config.write_text(entry)

    def build(name: str, count: int) -> None:
        torch.save(networks.linear().state_dict(), weights)
        data = examples(tmp_path / name, name, count)
        build_index("traced", index, data, config, weight_decay=1e-2)

    def answers() -> tuple[set[str], int, int]:
        suspects = serving.client.suspects(model="traced", top=3)
        influence = serving.client.influence(PIXELS, model="traced", top=2, method="last_layer")
        names = {Path(each.name).name[:3] for each in [*suspects.examples, *influence.helpful, *influence.harmful]}
        return names, suspects.total, influence.examples

    build("old", 6)
    serving.write(table("linear"), table("other"), f'{entry}index = "{index}"\n')
    serving.client.load_model("traced")
    build("new", 9)
    assert answers() == ({"old"}, 30, 30)
    serving.client.reload_model("traced")
    assert answers() == ({"new"}, 45, 45)


def test_changes_at_one_time_are_made_one_after_the_other(serving: Managed) -> None:
    serving.write(table("linear", seed=5), table("other", seed=6))
    told: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(serving.client.reload_model, name, on_progress=lambda each: told.append(each.state))
            for name in ("linear", "other")
        ]
        cards = [call.result(PATIENCE).models[0] for call in calls]
    assert "waiting" in told
    assert serving.digests == {card.name: card.weights_digest for card in cards}


def test_a_long_request_ends_on_the_workers_that_it_began_with() -> None:
    """The next change waits for it, and no longer."""
    slow = own("networks:slow").replace("linear]", "slow]") + "arguments = { seconds = 0.01 }\n"
    with Server(SWITCH + table("linear") + slow, "--workers", "1") as server:
        one = Managed(server, SWITCH)
        stream = one.client.maximize_stream(0, model="slow", preset="plain", steps=2000, timeout=PATIENCE)
        next(stream)
        (old,) = server.workers
        one.write(table("linear", seed=1), slow)
        digest = one.client.reload_model("linear").models[0].weights_digest
        assert one.client.predict(PIXELS, model="linear").provenance.weights_digest == digest
        assert isinstance(next(stream), Progress), "the request goes on"
        told: SimpleQueue[str] = SimpleQueue()
        one.write(table("linear", seed=2), slow)
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(one.client.reload_model, "linear", on_progress=lambda each: told.put(each.state))
            assert told.get(timeout=PATIENCE) == "waiting"
            assert old.is_running()
            stream.close()
            assert told.get(timeout=PATIENCE) == "reading"
            assert call.result(PATIENCE).models[0].weights_digest != digest
        assert not old.is_running()


def test_a_worker_that_is_killed_in_a_change(serving: Managed) -> None:
    """One that serves is replaced by one of its kind; one that loads ends the change. All is served on."""
    serving.write(table("linear", seed=8), table("other"))
    old = serving.workers()

    def kill_old(progress: ChangeProgress) -> None:
        if progress.state == "loading" and old:
            os.kill(old.pop(), signal.SIGKILL)

    digest = serving.client.reload_model("linear", on_progress=kill_old).models[0].weights_digest
    assert serving.digests["linear"] == digest
    old = serving.workers()

    def kill_new(progress: ChangeProgress) -> None:
        if progress.state == "loading":
            for worker in serving.server.workers:
                if worker.pid not in old:
                    os.kill(worker.pid, signal.SIGKILL)

    serving.write(table("linear", seed=9), table("other"))
    with pytest.raises(FailedPrecondition, match="a new worker died"):
        serving.client.reload_model("linear", on_progress=kill_new)
    assert serving.client.predict(PIXELS, model="linear").provenance.weights_digest == digest


def test_a_front_end_that_is_killed_in_a_change_loses_its_own_calls_alone(serving: Managed) -> None:
    serving.write(table("linear", seed=11), table("other"))
    before = serving.digests["linear"]

    def kill(progress: ChangeProgress) -> None:
        if progress.state == "loading":
            for front_end in serving.server.front_ends:
                front_end.kill()

    with pytest.raises(Unavailable):
        serving.client.reload_model("linear", on_progress=kill)
    with Client(serving.server.address) as client:
        client.wait_until_ready(PATIENCE)
        end = time.monotonic() + PATIENCE
        while client.model("linear").weights_digest == before:  # The change goes on.
            assert time.monotonic() < end
            time.sleep(0.1)


def test_nothing_is_left_of_a_keeper_that_is_killed_in_a_change() -> None:
    with managed(workers=1) as one:
        family: list[psutil.Process] = []

        def kill(progress: ChangeProgress) -> None:
            if progress.state == "loading":
                family.extend(one.server.process.children(recursive=True))
                one.server.process.kill()

        one.write(table("linear", seed=1), table("other"))
        with pytest.raises(Unavailable):
            one.client.reload_model("linear", on_progress=kill)
        assert psutil.wait_procs(family, PATIENCE)[1] == []


def test_a_server_stops_in_a_change() -> None:
    with managed(workers=1) as one:
        one.write(table("linear", seed=1), table("other"))

        def stop(progress: ChangeProgress) -> None:
            if progress.state == "loading":
                one.server.process.send_signal(signal.SIGTERM)

        with pytest.raises(Unavailable, match="the server is stopping"):
            one.client.reload_model("linear", on_progress=stop)
        assert one.server.process.wait(PATIENCE) == 0


def test_a_table_may_wait_until_it_is_loaded() -> None:
    waiting = table("later", more="load = false\n")
    with Server(SWITCH + waiting + table("linear"), "--workers", "1") as server, Client(server.address) as client:
        assert [card.name for card in client.models()] == ["linear"]
        assert client.default_model() == "linear"
        assert client.load_model("later").served == ("later", "linear")
        assert client.default_model() == "linear"
    with Server(waiting) as server:
        assert server.process.wait(PATIENCE) == 2
        assert "no model would be loaded: all have load = false" in server.log()


def test_a_call_that_is_left_while_it_waits_changes_nothing(serving: Managed) -> None:
    serving.write(table("linear", seed=14), table("other", seed=15))
    before = serving.digests
    with grpc.insecure_channel(serving.server.address) as channel, counts_one(serving.server, "reload", "withdrawn"):
        stub = management_pb2_grpc.ModelManagementServiceStub(channel)
        first = stub.ReloadModel(management_pb2.ReloadModelRequest(names=["linear"]), timeout=PATIENCE)
        assert next(first).progress.state == management_pb2.MODEL_CHANGE_STATE_READING
        second = stub.ReloadModel(management_pb2.ReloadModelRequest(names=["other"]), timeout=PATIENCE)
        assert next(second).progress.state == management_pb2.MODEL_CHANGE_STATE_WAITING
        second.cancel()
        list(first)
    after = serving.digests
    assert after["linear"] != before["linear"]
    assert after["other"] == before["other"]


def test_calls_with_one_request_id_hear_of_their_own_changes(serving: Managed) -> None:
    """Callers choose the ids of their requests."""
    serving.write(table("linear", seed=12), table("other", seed=13))
    with grpc.insecure_channel(serving.server.address) as channel:
        stub = management_pb2_grpc.ModelManagementServiceStub(channel)
        calls = [
            stub.ReloadModel(
                management_pb2.ReloadModelRequest(names=[name]), metadata=[("x-request-id", "mine")], timeout=PATIENCE
            )
            for name in ("linear", "other")
        ]
        results = [list(call)[-1].result for call in calls]
    assert [[card.name for card in result.models] for result in results] == [["linear"], ["other"]]


def test_it_is_off_unless_allowed() -> None:
    with managed("", 1) as one:
        for call in (one.client.load_model, one.client.unload_model, one.client.reload_model):
            with pytest.raises(PermissionDenied, match=r"set model_management = true in \[server\]"):
                call("linear")


def token_table(name: str, rights: str = "") -> str:
    return f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{rights}\n'


def test_with_tokens_only_those_that_name_the_call(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    rights = 'rpcs = ["ReloadModel"]\nmodels = ["linear"]'
    tokens.write_text(token_table("all", "reflection = true") + token_table("deploy", rights))
    with managed(f'[server]\nmodel_management = true\ntoken_file = "{tokens}"\n', 1) as one:
        one.write(table("linear", seed=1), table("other", seed=1))
        with Client(one.server.address, token="all") as client:
            with pytest.raises(PermissionDenied, match=r"all may not call ReloadModel: .* must name it in rpcs"):
                client.reload_model("linear")
            before = client.model("linear").weights_digest
        with Client(one.server.address, token="deploy") as client:
            told: list[ChangeProgress] = []
            changed = client.reload_model("linear", on_progress=told.append)
            assert changed.models[0].weights_digest != before
            assert changed.served == ("linear",), "others are not its business"
            assert {each.model for each in told} == {"", "linear"}
            with pytest.raises(PermissionDenied, match="deploy may not change 'other'; its models are: linear"):
                client.reload_model("other")
            with pytest.raises(PermissionDenied, match="deploy may not call UnloadModel"):
                client.unload_model("linear")
        with Client(one.server.address, token="all") as client:
            assert client.predict(PIXELS, model="linear").provenance.weights_digest != before
