"""Workers that Ray places on the nodes of a cluster. Ray starts and names them, and tells when one has ended.

It never carries a task: workers connect to keeper and front-ends as those of one machine do, over TCP with keys.
"""

import asyncio
import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..config import PoolSettings, StartError
from ..pool import forking
from ..pool.keys import Keys
from ..pool.wire import WorkerSettings

NAMESPACE = "gradserve"
PLACING_SECONDS = 180.0  # Longest wait for a node with room for a worker, and for its process.
NO_CLUSTER = "pool.engine is ray, but there is no cluster: start one with `ray start --head`, or set RAY_ADDRESS"
NOT_PLACED = (
    f"Ray did not start it within {PLACING_SECONDS:.0f} s: no node has room (`ray status` shows what is free), or the "
    "node is too busy"
)


class RayWorker:
    """A worker somewhere in a cluster."""

    def __init__(self, ray: Any, actor: Any, pid: int) -> None:
        self.pid = pid
        self._ray, self._actor = ray, actor
        self._running: Any = None

    def serve(self, *arguments: object) -> None:
        """Begins to run it."""
        self._running = self._actor.serve.remote(*arguments)

    async def wait(self) -> int:
        """Returns 0 when it has stopped, and 1 when it has died, or its node has."""
        try:
            await self._running
        except self._ray.exceptions.RayError:
            return 1
        return 0

    def kill(self) -> None:
        """Ends it at once; it may have ended already."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)

    @property
    def stopped(self) -> bool:
        """Always False: whether a process on another host is suspended is not known."""
        return False


class RayCluster:
    """A cluster that is there already, as its driver uses it. It listens only to who has its token."""

    def __init__(self, pool: PoolSettings, keys: Keys | None) -> None:
        """Raises StartError where there is no cluster, or ray is not installed."""
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] != "token":
            raise StartError("pool.engine is ray, but RAY_AUTH_MODE is not token: whoever reached Ray could run code")
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise StartError("pool.engine is ray, which is not installed: pip install 'gradserve[ray]'") from None
        self._ray, self._keys = ray, keys
        try:
            ray.init(os.environ.get("RAY_ADDRESS", "auto"), namespace=NAMESPACE, configure_logging=False)
        except Exception as error:
            raise StartError(f"{NO_CLUSTER} ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error
        needs = {"num_gpus": 1 / pool.workers_per_gpu} if pool.device == "cuda" else {"num_cpus": pool.threads}
        environment = {"env_vars": forking.WORKERS_ENVIRONMENT}
        spread = {"scheduling_strategy": "SPREAD", "runtime_env": environment, "max_restarts": 0}
        self._actor_class, self._options = ray.remote(WorkerActor), {**needs, **spread}

    async def start(self, settings: WorkerSettings, name: bytes, endpoints: Sequence[str]) -> RayWorker:
        """Starts a worker on the node that Ray chooses. Raises OSError where it does not begin in time."""
        actor = self._actor_class.options(name=name.decode(), **self._options).remote()
        try:
            async with asyncio.timeout(PLACING_SECONDS):
                pid = await actor.pid.remote()
        except TimeoutError:
            self._ray.kill(actor)
            raise OSError(NOT_PLACED) from None
        worker = RayWorker(self._ray, actor, pid)
        worker.serve(settings, name, endpoints, self._keys)
        return worker

    def close(self) -> None:
        """Leaves the cluster; workers that still run are ended with it."""
        self._ray.shutdown()


class WorkerActor:
    """What Ray runs on a node."""

    def pid(self) -> int:
        """The number of its process, once it is there."""
        return os.getpid()

    def serve(self, settings: WorkerSettings, name: bytes, endpoints: Sequence[str], keys: Keys | None) -> None:
        """Runs the worker until it is told to stop."""
        from ..pool.worker import main  # Imported here, since the keeper needs no torch.

        main(settings, name, endpoints, keys)
