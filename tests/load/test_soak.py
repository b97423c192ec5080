"""A long mixed load with callers who leave and callers in a hurry: no process grows, and nothing is left behind."""

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
from lengths import length
from serving import PATIENCE, Server, picture
from valid_requests import valid_requests

from gradserve.v1 import models_pb2, service_pb2

IS_SHORT = bool(length(1, 0))
SECONDS = length(40, 900)
WARM_UP = length(40, 300)
REST = 15.0  # Seconds without requests, until what they left behind should be gone.
CALLERS = 6
MORE_THREADS = length(4, 0)  # gRPC starts some when they are first needed, which may be after a short warm-up.
# Anonymous memory of a process after the load beside before; a short warm-up leaves more to come.
MOST_GROWTH = 1 + length(15, 5) / 100
CONFIG = """
[server]
front_ends = 2
[pool]
workers = 2
[models.digits]
[models.small]
builder = "mobilenet_v2"
weights = "random"
height = 64
width = 64
resize = 64
"""
SERVICES = [service_pb2.DESCRIPTOR.services_by_name["GradientService"]]
SERVICES += [models_pb2.DESCRIPTOR.services_by_name["ModelService"]]
RPCS = {rpc.name: rpc for service in SERVICES for rpc in service.methods}
ALLOWED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "NOT_FOUND", "FAILED_PRECONDITION"}


class Held(NamedTuple):
    """What a process holds: bytes of anonymous memory, file descriptors, and threads by their names."""

    memory: int
    descriptors: int
    threads: Counter[str]


def test_nothing_grows_under_a_long_load_of_all_kinds() -> None:
    with Server(CONFIG) as server:
        codes = load(server, WARM_UP, seed=0)
        before = held(server)
        codes += load(server, SECONDS, seed=1)
        after = held(server)
        print(f"{codes.total()} requests: {dict(codes)}")
        growth = {name: after[name].memory / before[name].memory for name in before}
        for name, share in growth.items():
            memory, descriptors, threads = before[name]
            counts = f"{descriptors} and {threads.total()}, {after[name].descriptors} and {after[name].threads.total()}"
            print(f"{name}: {memory >> 20} MiB, {share:.3f} times; {counts}")
        assert after.keys() == before.keys(), "a process has ended"
        assert set(codes) <= ALLOWED
        assert {"OK", "CANCELLED", "DEADLINE_EXCEEDED"} <= set(codes)
        assert "Traceback" not in server.log()
        assert " ERROR " not in server.log()
        for name, own in after.items():
            kept = before_of_kind(name, before)
            assert own.descriptors <= max(each.descriptors for each in kept), name
            more = own.threads - before[name].threads
            threads = max(each.threads.total() for each in kept)
            assert own.threads.total() <= threads + MORE_THREADS, f"{name} has more: {more}"
        assert max(growth.values()) < MOST_GROWTH
        assert server.metric("gradserve_cost_outstanding") == 0


def before_of_kind(name: str, before: dict[str, Held]) -> list[Held]:
    """What the process held before.

    In the short form also what others of its kind held: by then not each of them was asked for everything.
    """
    kind = name.partition(" ")[0]
    return [each for other, each in before.items() if other == name or (IS_SHORT and other.startswith(kind))]


def load(server: Server, seconds: float, seed: int) -> Counter[str]:
    """Requests of several callers for so long; how each of them ended."""
    codes, end = Counter[str](), time.monotonic() + seconds

    def call(number: int) -> None:
        rng = random.Random(1000 * seed + number)
        # A connection of its own, so that both front-ends have callers.
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while time.monotonic() < end:
                codes[ask(channel, rng)] += 1

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return codes


def ask(channel: grpc.Channel, rng: random.Random) -> str:
    """Sends a request of any kind; the name of the code that it ended with."""
    name, model = rng.choice(list(RPCS)), rng.choice(["digits", "digits", "small"])
    side = rng.choice([8, 64, 200])
    request = valid_requests(model, picture(rng.randrange(99), side, side)).get(name, models_pb2.ListModelsRequest())
    rpc = RPCS[name]
    path = f"/{rpc.containing_service.full_name}/{name}"
    timeout = rng.choice([PATIENCE, PATIENCE, PATIENCE, rng.uniform(0.001, 0.1)])
    leaves = rng.random() < 0.2
    try:
        if rpc.server_streaming:
            call = channel.unary_stream(path, type(request).SerializeToString)(request, timeout=timeout)
            for count, _ in enumerate(call):
                if leaves and count:
                    call.cancel()
        else:
            call = channel.unary_unary(path, type(request).SerializeToString).future(request, timeout=timeout)
            if leaves:
                time.sleep(rng.uniform(0, 0.05))
                call.cancel()
            call.result()
    except grpc.FutureCancelledError:
        return "CANCELLED"
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def held(server: Server) -> dict[str, Held]:
    """What each process of the server holds, once nothing is asked of it any more."""
    time.sleep(REST)
    family = [psutil.Process(server.process.pid), *server.process.children(recursive=True)]
    kinds = {process.pid: "keeper" for process in family[:1]}
    kinds |= {process.pid: "front-end" for process in server.front_ends}
    kinds |= {process.pid: "worker" for process in server.workers}
    return {f"{kinds.get(process.pid, 'helper')} {process.pid}": holding(process) for process in family}


def holding(process: psutil.Process) -> Held:
    """As the system tells it."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    anonymous = next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    threads = Counter[str]()
    for file in Path(f"/proc/{process.pid}/task").glob("*/comm"):
        with suppress(OSError):  # The thread has ended meanwhile.
            threads[file.read_text().strip()] += 1
    return Held(anonymous << 10, process.num_fds(), threads)
