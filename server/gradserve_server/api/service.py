"""The whole service: pool, metrics and server, from start to drained."""

import asyncio
import logging
import signal
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from prometheus_client import start_http_server

from ..config import Settings, join_address
from ..metrics import Metrics
from ..pool.pool import Pool
from ..pool.wire import Tick, WorkerSettings
from .server import ApiServer

CUT_OFF = 3  # The exit code where a request was ended before its time.


async def run(settings: Settings, faults: Mapping[str, str], devices: Sequence[str]) -> int:
    """Starts everything, serves until SIGTERM or SIGINT, drains, and returns the exit code. Raises StartError.

    `faults`: why models cannot be loaded, by name, as far as it is known. `devices`: one for each worker.
    A second signal ends the running requests at once. The code is CUT_OFF where requests were ended before their time.
    """
    metrics = Metrics()
    serve_metrics(settings, metrics)
    pool = pool_of(settings, faults, devices, metrics)
    server = ApiServer(settings.server, settings.limits, pool, metrics, settings.callers)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            server.cut_off()
            pool.kill()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    code = 0
    try:
        print(f"gradserve loads {', '.join(spec.name for spec in settings.models)}", flush=True)
        await first(pool.start(), stop.wait())
        if not stop.is_set():
            address = await server.start()
            await server.say(serving=True)
            print(f"gradserve ready on {address}", flush=True)
            await first(stop.wait(), pool.given_up.wait(), tell_health(pool, server))
        code = int(pool.given_up.is_set())
    finally:
        complete = await server.stop()
        await pool.close()
    return code or (0 if complete else CUT_OFF)


async def tell_health(pool: Pool, server: ApiServer) -> None:
    """Says SERVING while a worker is ready, and NOT_SERVING while none is, until it is cancelled."""
    while True:
        pool.changed.clear()
        await server.say(serving=bool(pool.members))
        await pool.changed.wait()


def serve_metrics(settings: Settings, metrics: Metrics) -> None:
    """Answers Prometheus in a thread of its own. Raises OSError."""
    host = "127.0.0.1" if settings.server.socket is not None else settings.server.host.strip("[]")
    port = settings.server.metrics_port
    try:
        http, _ = start_http_server(port, host, metrics.registry)
    except OSError as error:
        hint = "; --metrics-port 0 takes a free port" if port else ""
        raise OSError(f"cannot listen for metrics on {join_address(host, port)}: {error}{hint}") from None
    print(f"gradserve metrics on http://{join_address(host, http.server_port)}/metrics", flush=True)


def pool_of(settings: Settings, faults: Mapping[str, str], devices: Sequence[str], metrics: Metrics) -> Pool:
    """The pool, which tells the metrics what its workers did."""

    def on_tick(tick: Tick) -> None:
        metrics.unanswered.inc(tick.cancelled_rows)
        for each in tick.passes:
            if each.retried:
                metrics.oom.inc()
                continue
            metrics.step.labels(each.model).observe(each.seconds)
            metrics.step_rows.labels(each.model).observe(each.rows)

    at, strict = settings.pool, settings.server.strict
    models = tuple(spec for spec in settings.models if spec.name not in faults)
    level = logging.getLogger().level
    workers = [WorkerSettings(models, device, at.threads, at.rows, strict, level) for device in devices]
    pool = Pool(
        workers,
        default=settings.models[0].name,
        unavailable=faults,
        queue_seconds=at.queue_seconds,
        on_tick=on_tick,
        on_restart=metrics.restarts.inc,
        on_silent=metrics.late.inc,
        give_up_seconds=at.give_up_seconds,
    )
    metrics.workers_ready.set_function(lambda: len(pool.members))
    metrics.cost.set_function(lambda: pool.outstanding)
    metrics.memory.set_function(lambda: pool.memory)
    return pool


async def first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Returns when the first of these is done, and raises what it raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    for task in done:
        task.result()
