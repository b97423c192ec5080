"""Real servers in processes of their own, for the tests that call them; and what is asked of them."""

import atexit
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, Self
from urllib.request import urlopen

import forkservers
import grpc
import numpy as np
import psutil
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, models_pb2_grpc, service_pb2_grpc
from gradserve_server.pool.forking import environment_without_workers

CACHE = tempfile.TemporaryDirectory()  # where servers keep the indexes that they build
PATIENCE = 240  # Seconds for a start or a call on a machine that has other things to do.
LINEAR = """
[models.linear]
builder = "networks:linear"
weights = "random"
precisions = ["exact"]
height = 8
width = 12
resize = 8
"""
MODELS = f"""
[models.digits]

[models.small]
builder = "mobilenet_v2"
weights = "random"
height = 64
width = 64
resize = 64
{LINEAR}"""


def new_process(flags: Sequence[str], environment: Mapping[str, str], out: IO[str], err: IO[str]) -> psutil.Process:
    """Starts `python -m gradserve_server FLAGS` with these files as its standard output and error."""
    command = [sys.executable, "-m", "gradserve_server", *flags]
    return psutil.Popen(command, env=dict(environment), stdout=out, stderr=err)


class Server:
    """`python -m gradserve_server` on free ports of 127.0.0.1, until `stop` or the end of the `with`."""

    def __init__(self, config: str = "", *more_flags: str, fresh: bool = False) -> None:
        """`fresh`: its workers come from a new interpreter, as in use, and not from a copy of one that has torch."""
        self._stack = ExitStack()
        self.folder = folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))  # Of its files.
        (folder / "server.toml").write_text(config)
        self._log = folder / "log.txt"
        flags = "--config", str(folder / "server.toml"), "--port", "0", "--metrics-port", "0", *more_flags
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**environment_without_workers(), "PYTHONPATH": os.pathsep.join(paths)}
        environment |= {} if "cuda" in flags else {"CUDA_VISIBLE_DEVICES": ""}
        environment |= {"XDG_CACHE_HOME": CACHE.name, "TMPDIR": str(folder)}  # A server that is killed leaves files.
        stdout, into_stdout = os.pipe()
        self._stdout = os.fdopen(stdout)
        with self._log.open("w") as log, os.fdopen(into_stdout, "w") as out:
            self.process = (new_process if fresh else forkservers.start)(flags, environment, out, log)
        self._said: dict[str, str] = {}
        self._heard = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _listen(self) -> None:
        with self._stdout:
            for line in self._stdout:
                what, _, where = line.strip().removeprefix("gradserve ").partition(" on ")
                with self._heard:
                    self._said[what] = where
                    self._heard.notify_all()
        with self._heard:
            self._said["ended"] = "ended"
            self._heard.notify_all()

    def said(self, what: str) -> str:
        """Waits for "gradserve WHAT on WHERE"; returns WHERE."""
        with self._heard:
            self._heard.wait_for(lambda: what in self._said or "ended" in self._said, PATIENCE)
            assert what in self._said, f"the server did not say {what!r}; its log:\n{self.log()}"
            return self._said[what]

    @property
    def address(self) -> str:
        """Host and port, as soon as it serves."""
        return self.said("ready")

    def log(self) -> str:
        """Everything on its stderr."""
        return self._log.read_text()

    def channel(self) -> grpc.Channel:
        """A channel that takes large replies. Channels of one process share a connection."""
        return grpc.insecure_channel(self.address, [("grpc.max_receive_message_length", 64 << 20)])

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        servers = [p for p in self.process.children() if any("forkserver" in word for word in command_of(p))]
        return [worker for server in servers for worker in server.children()]

    @property
    def front_ends(self) -> list[psutil.Process]:
        """Its front-end processes."""
        return [p for p in self.process.children() if "gradserve_server.keeper.front_end" in command_of(p)]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series with those labels."""
        return sum(
            sample.value
            for family in self.metrics()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def metrics(self) -> list[Any]:
        """All metric families."""
        with urlopen(self.said("metrics"), timeout=10) as reply:
            return list(text_string_to_metric_families(reply.read().decode()))

    def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(patience))

    def kill(self) -> None:
        """Ends it and its workers at once, if they still run; in order where coverage is measured, to save it."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.process.is_running():
            with suppress(psutil.TimeoutExpired):
                self.stop(20)
        if self.process.is_running():
            family = [self.process, *self.process.children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)
        self._stack.close()


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty where it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@cache
def shared() -> Server:
    """The server that most tests call, with two workers and room for a long queue; it runs until the tests end."""
    server = Server(f"[pool]\nqueue_seconds = {PATIENCE}\n{MODELS}", "--workers", "2")
    atexit.register(server.kill)
    return server


class Stubs(NamedTuple):
    """Both services over one channel."""

    gradients: Any
    models: Any

    @classmethod
    def of(cls, channel: grpc.Channel) -> Self:
        return cls(service_pb2_grpc.GradientServiceStub(channel), models_pb2_grpc.ModelServiceStub(channel))


class Refused(NamedTuple):
    """How a call failed."""

    code: str
    text: str
    violations: Mapping[str, str]
    reason: str
    retry_after: float | None


def refused(error: grpc.RpcError) -> Refused:
    """The status of a failed call with its details."""
    status = rpc_status.from_call(error)
    bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay = None
    for detail in status.details if status else ():
        detail.Unpack(bad)
        detail.Unpack(info)
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToNanoseconds() / 1e9
    violations: dict[str, str] = {}
    for v in bad.field_violations:
        violations[v.field] = f"{violations[v.field]}; {v.description}" if v.field in violations else v.description
    return Refused(error.code().name, error.details(), violations, info.reason, delay)


def picture(seed: int, height: int, width: int) -> pb.Image:
    """Smooth random colours as a uint8 tensor."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((4, 4, 3))
    y, x = np.linspace(0, 2.99, height), np.linspace(0, 2.99, width)
    rows = coarse[y.astype(int)] * (1 - y % 1)[:, None, None] + coarse[y.astype(int) + 1] * (y % 1)[:, None, None]
    across, left = x.astype(int), (x % 1)[None, :, None]
    pixels = (255 * (rows[:, across] * (1 - left) + rows[:, across + 1] * left)).astype(np.uint8)
    return tensor(pixels)


def tensor(pixels: np.ndarray) -> pb.Image:
    """An array as an Image message."""
    dtype = pb.DTYPE_UINT8 if pixels.dtype == np.uint8 else pb.DTYPE_FLOAT32
    return pb.Image(tensor=pb.Tensor(shape=pixels.shape, dtype=dtype, data=pixels.tobytes()))


def methods(**parameters: Mapping[str, Any]) -> list[explain_pb2.ExplainMethod]:
    """methods(gradient={}, smooth_grad={"samples": 3})."""
    return [explain_pb2.ExplainMethod(**{name: values}) for name, values in parameters.items()]


def values(message: pb.Tensor) -> np.ndarray:
    """A Tensor of a reply as an array."""
    dtype = {pb.DTYPE_FLOAT32: "<f4", pb.DTYPE_FLOAT16: "<f2"}[message.dtype]
    return np.frombuffer(message.data, dtype).reshape(tuple(message.shape)).astype(np.float32)
