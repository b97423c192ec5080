"""Random calls of every RPC: valid ones, changed and damaged, some at once, some cancelled or with too little time.

Each ends with an answer or a clear error, and nothing of them is left behind. `make load` sends 20,000. A failure
prints the calls as small as they can be; `fuzzing.calls.send` repeats one.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import psutil
import pytest
from fuzzing.calls import RPCS, Call, Outcome, calls, reply_of, send, valid_calls
from google.protobuf.descriptor import Descriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import HealthCheck, Phase, configuration, given, seed, settings
from hypothesis import strategies as st
from lengths import length
from serving import CACHE, MODELS, PATIENCE, Server, refused

from .test_extremes import numbers

REQUESTS = length(2000, 20_000)
FIRST_SEED = length(0, int(time.time()))  # The short form always sends the same, the long one something else each time.
AT_ONCE = 4
EXAMPLES = 10  # Of a run with a seed. Later ones of a run would mostly repeat parts of these.
FAULTS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED", "ABORTED"}
# By how much a process may grow: bytes of memory, threads, descriptors. The first large array that is sent makes pyzmq
# start its garbage collector, three threads with ten descriptors, and codec threads start when they are needed.
GROWTH = {"memory": 250 << 20, "threads": 12, "descriptors": 16}

configuration.set_hypothesis_home_dir(CACHE.name)  # It keeps there which constants it found in the sources.


class Fuzzed(NamedTuple):
    """A server that has answered a call of each kind, and what became of these and of the random ones."""

    server: Server
    channel: grpc.Channel
    pool: ThreadPoolExecutor
    processes: list[psutil.Process]
    valid: list[tuple[Call, Outcome]]
    codes: defaultdict[str, Counter[str]]
    sizes: list[dict[str, int]]
    files: set[Path]

    def send_at_once(self, sent: Sequence[Call]) -> None:
        """Fails for a call that ends otherwise than it should, and for a fault in the log."""
        log = self.server.folder / "log.txt"
        logged = log.stat().st_size
        outcomes = list(self.pool.map(send, [self.channel] * len(sent), sent))
        for call, outcome in zip(sent, outcomes, strict=True):
            self.codes[call.rpc][outcome.code] += 1
            check(call, outcome)
        with log.open() as file:
            file.seek(logged)
            new = file.read()
        assert "Traceback" not in new, new
        assert " ERROR " not in new, new


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    config = f"[server]\ninference_protocol = true\n{MODELS}"
    with Server(config, "--workers", "1") as server, server.channel() as channel, ThreadPoolExecutor(AT_ONCE) as pool:
        assert server.address
        valid = [(call, send(channel, call)) for call in valid_calls()]
        processes = [server.process, *server.process.children(recursive=True)]
        before = sizes(processes), files(server)
        yield Fuzzed(server, channel, pool, processes, valid, defaultdict(Counter), *before)


def sizes(processes: list[psutil.Process]) -> list[dict[str, int]]:
    """Of each process."""
    return [
        {"memory": each.memory_info().rss, "threads": each.num_threads(), "descriptors": each.num_fds()}
        for each in processes
    ]


def files(server: Server) -> set[Path]:
    """What lies in its folder, which is also that of its temporary files."""
    return set(server.folder.rglob("*"))


def test_all_that_the_server_offers_is_called(fuzzed: Fuzzed) -> None:
    offered = set(ProtoReflectionDescriptorDatabase(fuzzed.channel).get_services())
    assert offered <= {rpc.containing_service.full_name for rpc in RPCS.values()}


def test_what_the_calls_begin_with_is_valid(fuzzed: Fuzzed) -> None:
    for call, outcome in fuzzed.valid:
        assert outcome.code == "OK" or refused(outcome.error).reason == "NOT_APPLICABLE", (call, outcome)


@pytest.mark.timeout(1200)  # To find the smallest calls that fail takes minutes.
@pytest.mark.parametrize("rpc", RPCS)
def test_every_call_ends_with_an_answer_or_a_clear_error(fuzzed: Fuzzed, rpc: str) -> None:
    some = settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    sent = st.tuples(calls([RPCS[rpc]]), *[calls([RPCS[rpc], *RPCS.values()])] * (AT_ONCE - 1))
    for number in range(REQUESTS // (EXAMPLES * AT_ONCE * len(RPCS)) + 1):
        seed(FIRST_SEED + number)(some(given(sent)(fuzzed.send_at_once)))()
    if any(call.rpc == rpc for call, _ in fuzzed.valid):
        assert fuzzed.codes[rpc]["OK"], fuzzed.codes[rpc]
        assert fuzzed.codes[rpc].keys() & {"INVALID_ARGUMENT", "NOT_FOUND"}, fuzzed.codes[rpc]


def check(call: Call, outcome: Outcome) -> None:
    """Fails for a fault of the server, an answer that is not finite and an error that names no field."""
    assert outcome.code not in FAULTS, (call, outcome.error)
    for reply in outcome.replies:
        assert np.isfinite(numbers(reply_of(call.rpc, reply))).all(), (call, reply_of(call.rpc, reply))
    if outcome.code == "INVALID_ARGUMENT":
        refusal = refused(outcome.error)
        assert refusal.violations or "is not a message of its type: " in refusal.text, (call, refusal)
        for field, text in refusal.violations.items():
            assert text, (call, refusal)
            assert is_field(RPCS[call.rpc].input_type, field), (call, refusal)


def is_field(message: Descriptor | None, path: str) -> bool:
    """Whether a message can have what a path such as goals[0].summands[1].weight names, or parameters.KEY of a map.

    A path may end in the name of a oneof: it is named where none of its fields is set.
    """
    *_, last = path.split(".")
    for name in path.split("."):
        if message is not None and message.GetOptions().map_entry:
            return True
        if message is not None and name is last and name in message.oneofs_by_name:
            return True
        if message is None or (field := message.fields_by_name.get(re.sub(r"\[\d+\]$", "", name))) is None:
            return path == ""  # This stands for those that are left out of a long list.
        message = field.message_type
    return True


def test_nothing_of_them_is_left(fuzzed: Fuzzed, capsys: pytest.CaptureFixture[str]) -> None:
    """The last test of this server."""
    end = time.monotonic() + PATIENCE
    while any(fuzzed.server.metric(f"gradserve_{name}") for name in ("jobs_in_flight", "cost_outstanding")):
        assert time.monotonic() < end, "work is left"
        time.sleep(0.1)
    after = sizes(fuzzed.processes)
    with capsys.disabled():
        print("", *(f"{rpc} {dict(codes.most_common())}" for rpc, codes in sorted(fuzzed.codes.items())), sep="\n")
        print(*(f"{a} -> {b}" for a, b in zip(fuzzed.sizes, after, strict=True)), sep="\n")
    for name in ("worker_restarts_total", "front_end_restarts_total", "heartbeats_late_total"):
        assert fuzzed.server.metric(f"gradserve_{name}") == 0
    for process, was, now in zip(fuzzed.processes, fuzzed.sizes, after, strict=True):
        assert all(now[size] <= was[size] + most for size, most in GROWTH.items()), (process, was, now)
    assert files(fuzzed.server) == fuzzed.files
    assert all(
        outcome.code == "OK" for outcome in (send(fuzzed.channel, call) for call, o in fuzzed.valid if o.code == "OK")
    )
