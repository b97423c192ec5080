"""The keeper of a server: it owns the port, the signals and all processes, and no request passes through it."""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Mapping, Sequence
from importlib.metadata import version
from math import ceil
from pathlib import Path
from platform import python_version
from typing import Any

from .. import __version__
from ..api.admission.tokens import TokenFile
from ..api.transport.address import ReservedAddress, check_certificates
from ..config import FrontEndSettings, ServerSettings, Settings
from ..logs import current
from ..metrics import Metrics
from ..pool.hub import Hub
from ..pool.keys import new_keys
from ..pool.wire import CUT_OFF, ChangeModels, DropChange, WorkerSettings
from .changes import Changes, ReadCatalogue
from .folder import endpoint
from .front_ends import FrontEnds, place_of
from .metrics_port import MetricsPort
from .processes import FrontEndProcess, Process, WorkerProcess
from .ray_workers import RayCluster
from .workers import Workers

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")
GIVEN_UP = "no worker has become ready for a long time; the server ends"


async def run(
    settings: Settings, faults: Mapping[str, str], devices: Sequence[str], folder: Path, read: ReadCatalogue
) -> int:
    """Starts everything, serves until SIGTERM or SIGINT, drains, and returns the exit code. Raises StartError, OSError.

    `faults`: why models cannot be loaded, by name, as far as it is known. `devices`: one for each worker. `folder`: for
    this server's sockets and counters. `read`: reads the catalogue again, for changes of the models. A second signal
    ends the running requests at once. The code is CUT_OFF where requests were ended before their time, and 1 where no
    worker has been ready for too long.
    """
    keeper = Keeper(settings, faults, devices, folder, read)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            keeper.cut_off()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    given_up, complete = False, True
    try:
        print(f"gradserve loads {', '.join(spec.name for spec in settings.first_models)}", flush=True)
        await first(keeper.start(), stop.wait())
        if not stop.is_set():
            print(f"gradserve ready on {keeper.address.text}", flush=True)
            await first(stop.wait(), keeper.workers.given_up.wait())
        given_up = keeper.workers.given_up.is_set()
    finally:
        complete = await keeper.stop(GIVEN_UP if given_up else "")
    return 1 if given_up else (0 if complete else CUT_OFF)


class Keeper:
    """The front-ends and workers of one server, and what they have in common."""

    def __init__(
        self,
        settings: Settings,
        faults: Mapping[str, str],
        devices: Sequence[str],
        folder: Path,
        read: ReadCatalogue,
    ) -> None:
        """Raises OSError and StartError where the address, the certificate or the file of tokens cannot be used."""
        self._metrics_port = MetricsPort(settings.server, folder, self.fault)
        self.address = ReservedAddress(settings.server, shared=settings.server.front_ends > 1)
        check_certificates(settings.server)
        if settings.server.token_file:
            TokenFile(settings.server.token_file, settings.callers)
        if warning := open_to_all(settings.server):
            log.warning("%s", warning)
        self._settings, self._folder, self._stopping = settings, folder, False
        metrics = Metrics()
        metrics.build.labels(__version__, version("torch"), python_version()).set(1)
        self._keys = new_keys() if settings.pool.listen else None
        self._hub = Hub(self._endpoints(0), self._on_message, self._on_lost, self._keys)
        self._cluster = RayCluster(settings.pool, self._keys) if settings.pool.engine == "ray" else None
        pool, strict = settings.pool, settings.server.strict
        models = tuple(spec for spec in settings.first_models if spec.name not in faults)
        weights_folder = str(folder) if pool.engine == "local" and len(devices) > 1 else ""
        self.workers = Workers(
            [
                WorkerSettings(
                    models, device, pool.threads, pool.rows, strict, current(), weights_folder, logs_models=i == 0
                )
                for i, device in enumerate(devices)
            ],
            self._start_worker,
            self._hub.send,
            metrics,
            unavailable=faults,
            give_up_seconds=pool.give_up_seconds,
        )
        self._front_ends = FrontEnds(settings.server.front_ends, self._start_front_end, self._hub.send, metrics)
        self._changes = Changes(self.workers, self._front_ends, self._hub.send, read, metrics, pool.give_up_seconds)

    async def start(self) -> None:
        """Returns when all front-ends serve. Raises StartError."""
        await self._metrics_port.open()
        self._front_ends.start()
        await first(self._start_workers(), self._front_ends.wait())  # A front-end that fails ends the start at once.

    async def _start_workers(self) -> None:
        await self._front_ends.serve(await self.workers.start())

    async def stop(self, reason: str) -> bool:
        """Ends everything, and returns whether all requests ended by themselves.

        If there is a `reason`, requests fail with it instead of going on.
        """
        self._stopping = True
        await self._changes.stop()
        complete = await self._front_ends.drain(reason, self._settings.server.drain_seconds)
        await self.workers.stop()
        if self._cluster:
            self._cluster.close()
        self._hub.close()
        self.address.release()
        self._metrics_port.close()
        return complete

    def fault(self) -> str:
        """Why requests are not served now, in a sentence, or nothing where they are."""
        if self._stopping:
            return "the server is stopping"
        if self.workers.served is None:
            return "the server loads its models"
        if not self._front_ends.serving:
            return "no front-end serves"
        return "" if self.workers.ready else "no worker is ready"

    def cut_off(self) -> None:
        """Ends the running requests at once."""
        self._front_ends.cut_off()
        self.workers.kill()

    def _endpoints(self, place: int) -> list[str]:
        """Where the keeper (0) and the front-ends (1 and more) are reached: on this machine, and on others last."""
        listen = self._settings.pool.listen
        host, _, port = (listen or "").rpartition(":")
        return [endpoint(self._folder, place), *([f"tcp://{host}:{int(port) + place}"] if listen else [])]

    async def _start_worker(self, settings: WorkerSettings, name: bytes) -> Process:
        """Starts a worker that connects to the keeper and to all front-ends, by TCP if the settings say `listen`."""
        start = self._cluster.start if self._cluster else WorkerProcess.start
        return await start(
            settings, name, [self._endpoints(i)[-1] for i in range(self._settings.server.front_ends + 1)]
        )

    async def _start_front_end(self, index: int, name: bytes) -> Process:
        settings = self._settings
        in_flight = ceil(settings.limits.max_in_flight / settings.server.front_ends)
        arguments = FrontEndSettings(
            name=name.decode(),
            place=place_of(index),
            keeper=self._endpoints(0)[0],
            directions=self._folder / "directions",
            endpoints=tuple(self._endpoints(index + 1)),
            keys=self._keys,
            default=settings.first_models[0].name,
            queue_seconds=settings.pool.queue_seconds,
            server=settings.server.model_copy(update={"port": self.address.port}),
            limits=settings.limits.model_copy(update={"max_in_flight": in_flight}),
            callers=settings.callers,
            log=current(),
        )
        return await FrontEndProcess.start(arguments)

    def _on_message(self, name: bytes, message: object) -> None:
        self.workers.on_message(name, message)
        self._front_ends.on_message(name, message)
        if isinstance(message, ChangeModels):
            self._changes.take(name, message)
        elif isinstance(message, DropChange):
            self._changes.drop(message.id)

    def _on_lost(self, name: bytes) -> None:
        self.workers.on_lost(name)
        self._front_ends.on_lost(name)
        self._changes.on_lost(name)


def open_to_all(settings: ServerSettings) -> str:
    """A warning where callers beyond this machine need no token or no TLS to call the service; empty elsewhere."""
    if settings.socket is not None or settings.host.strip("[]") in LOOPBACK:
        return ""
    missing = [
        *(["without a token (server.token_file)"] if settings.token_file is None else []),
        *(["without TLS (server.tls_certificate and server.tls_key)"] if settings.tls_certificate is None else []),
    ]
    return f"whoever reaches {settings.host} can call the service {' and '.join(missing)}" if missing else ""


async def first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Returns when the first of these is done, and raises what it raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done: set[asyncio.Task[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # What the others raise now is the same once more.
    for task in done:
        task.result()
