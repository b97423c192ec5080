"""What hostile callers cost others: Predict's latency and the front-end's memory while each of them is at it.

`python -m tests.bench.edges`: for every kind of hostile caller a calm caller asks before, while and after; the hostile
ones are processes of their own.
"""

import asyncio
import io
import multiprocessing
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import grpc
import numpy as np
import typer
from h2.exceptions import ProtocolError
from PIL import Image
from rich.progress import track

from gradserve.load.loops import OpenLoop
from gradserve.load.mix import MixEntry
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2

from .. import serving
from ..loads import loaded, pinned_apart
from ..raw_http2 import RawConnection, message
from . import report
from .faithfulness import DATA, Data, photo_names

SERVICE = "/gradserve.v1.GradientService"
TOKEN, STRANGER = "a-token-of-the-benchmark", "another-token-of-the-benchmark"
RATE = 10.0  # Requests a second of the calm caller.
HALF_SENT, EMPTY_FIELDS, UNKNOWN_NAMES, HALF_GETS = 24, (15 << 20) // 4, 1024, 780
CALLS_OF_CONNECTION, KEPT_CONNECTIONS, CALLS_GIVEN_UP = 64, 64, 20
KEPT_PICTURES = 16  # The photos that the calm caller asks about, in turn.
MAX_IMPORT_SECONDS = 120.0  # The most until the hostile caller's process has imported what it needs.
START_SECONDS = 4.0  # From then until the hostile caller is at it.
SIDE = 7000  # Of a picture of 49 megapixels.


class Target(NamedTuple):
    """A server as its callers see it."""

    address: str
    metrics: str  # HOST:PORT
    token: str


def half_sent(target: Target) -> None:
    """Messages of 31 MiB of which all but the end is sent, without a token, again and again."""
    head, part = b"\0" + (31 << 20).to_bytes(4, "big"), bytes(16 << 10)
    while True:
        with suppress(OSError, ProtocolError), RawConnection(target.address) as connection:
            streams = [connection.send(f"{SERVICE}/Predict", head, whole=False) for _ in range(HALF_SENT)]
            connection.socket.settimeout(0.5)
            for _ in range((30 << 20) // len(part)):
                for stream in streams:
                    while connection.http.local_flow_control_window(stream) < len(part):
                        connection.receive()
                    connection.http.send_data(stream, part)
                connection.socket.sendall(connection.http.data_to_send())
        time.sleep(0.05)


def sent(target: Target, rpc: str, body: bytes) -> None:
    """Sends the same bytes again and again, by a caller with a token of its own."""
    call = grpc.insecure_channel(target.address).unary_unary(f"{SERVICE}/{rpc}")
    while True:
        with suppress(grpc.RpcError):
            call(body, timeout=60, metadata=(("authorization", f"Bearer {target.token}"),))


def empty_submessages(target: Target) -> None:
    """A message of 15 MiB of nothing but empty parts."""
    sent(target, "Explain", b"\x22\x00" * EMPTY_FIELDS)


def deep_picture(target: Target) -> None:
    """A small PNG file of 49 megapixels of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(file, "PNG")
    sent(target, "Predict", predict_pb2.PredictRequest(image=pb.Image(encoded=file.getvalue())).SerializeToString())


def unknown_names(target: Target) -> None:
    """A request of so many classes that no model has."""
    targets = [pb.Target(class_name=f"no such class {i}") for i in range(UNKNOWN_NAMES)]
    methods = serving.methods(gradient={})
    sent(target, "Explain", explain_pb2.ExplainRequest(methods=methods, targets=targets).SerializeToString())


def explain_body() -> bytes:
    """A request of four maps of a small picture."""
    pixels = pb.Image(tensor=pb.Tensor(shape=(32, 32, 3), dtype=pb.DTYPE_UINT8, data=bytes(32 * 32 * 3)))
    return message(explain_pb2.ExplainRequest(image=pixels, methods=serving.methods(gradient={}) * 4))


def unread(target: Target) -> None:
    """Replies that are never taken, on ever more connections, of which the last are kept open."""
    body, kept = explain_body(), deque[RawConnection](maxlen=KEPT_CONNECTIONS)
    while True:
        with suppress(OSError, ProtocolError):
            connection = RawConnection(target.address, target.token, window=0)
            if len(kept) == KEPT_CONNECTIONS:
                kept[0].socket.close()
            kept.append(connection)
            for _ in range(CALLS_OF_CONNECTION):
                connection.send(f"{SERVICE}/Explain", body)
            while connection.answered < CALLS_OF_CONNECTION and connection.receive():
                pass


def given_up(target: Target) -> None:
    """Requests whose connection ends at once."""
    body = explain_body()
    while True:
        with suppress(OSError, ProtocolError), RawConnection(target.address, target.token) as connection:
            for _ in range(CALLS_GIVEN_UP):
                connection.send(f"{SERVICE}/Explain", body)


def half_gets(target: Target) -> None:
    """Requests to the port of metrics that never end."""
    host, port = target.metrics.rsplit(":", 1)
    while True:
        held = []
        with suppress(OSError):
            for _ in range(HALF_GETS):
                held.append(socket.create_connection((host, int(port)), timeout=5))
                held[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        time.sleep(2)
        for each in held:
            each.close()


HOSTILE: dict[str, Callable[[Target], None]] = {
    "half-sent messages": half_sent,
    "empty submessages": empty_submessages,
    "a deep picture": deep_picture,
    "unknown names": unknown_names,
    "replies unread": unread,
    "calls given up": given_up,
    "half-sent GETs": half_gets,
}


class Seen(NamedTuple):
    """Of a stretch: latencies of the calm caller in milliseconds, its failures, most memory of a front-end in MiB."""

    p50: float
    p95: float
    failed: int
    memory: float


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Of hostile callers; all if left out.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each stretch.")] = 20.0,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "cifar10",
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """The hostile caller has the processor of the front-ends, at the lowest priority, as the calm one has."""
    tokens = Path(serving.CACHE.name) / "tokens"
    tokens.write_text(f"{TOKEN} calm\n{STRANGER} stranger")
    config = f'[server]\ntoken_file = "{tokens}"\n[pool]\nworkers = 1\n[models.{model}]\n'
    photos = [(data / "images" / name).read_bytes() for name in photo_names(data)[:KEPT_PICTURES]]
    mix = [MixEntry("predict", model=model)]
    columns = ["hostile caller", "p95 before, ms", "meanwhile", "times", "failed", "memory before, MiB", "most"]
    rows, document = report.table("Predict beside hostile callers", columns[:1], columns[1:]), {}
    for kind in track(kinds or list(HOSTILE), console=report.console):
        with serving.Server(config, fresh=True) as server, pinned_apart(server):
            before, meanwhile = compared(server, HOSTILE[kind], mix, photos, seconds)
        document[kind] = {"before": before._asdict(), "meanwhile": meanwhile._asdict()}
        latencies = f"{before.p95:.1f}", f"{meanwhile.p95:.1f}", f"{meanwhile.p95 / before.p95:.2f}"
        rows.add_row(kind, *latencies, str(meanwhile.failed), f"{before.memory:.0f}", f"{meanwhile.memory:.0f}")
    report.deliver({"edges": document}, [rows], as_json, out)


def compared(
    server: serving.Server,
    hostile: Callable[[Target], None],
    mix: list[MixEntry],
    photos: list[bytes],
    seconds: float,
) -> tuple[Seen, Seen]:
    """The calm caller alone, and beside the hostile one, which is a process of its own."""
    target = Target(server.address, urlsplit(server.said("metrics")).netloc, STRANGER)
    stretch(server, mix, photos, seconds / 2)
    before = stretch(server, mix, photos, seconds)
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=at_low_priority, args=(hostile, target, begun), daemon=True)
    process.start()
    try:
        assert begun.wait(MAX_IMPORT_SECONDS)
        time.sleep(START_SECONDS)
        assert process.is_alive()
        return before, stretch(server, mix, photos, seconds)
    finally:
        process.kill()
        process.join()


def at_low_priority(hostile: Callable[[Target], None], target: Target, begun: Event) -> None:
    """The hostile caller's process, which never ends by itself; `begun` is set when it has imported what it needs."""
    begun.set()
    os.nice(19)
    hostile(target)


def stretch(server: serving.Server, mix: list[MixEntry], photos: list[bytes], seconds: float) -> Seen:
    """What the calm caller sees, who sends at a steady rate."""
    (front_end,) = server.front_ends
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            most[0] = max(most[0], front_end.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = asyncio.run(loaded(server.address, mix, photos, OpenLoop(RATE, seconds), token=TOKEN)).all
    finally:
        ended.set()
        watcher.join()
    assert found.ok is not None, found.codes
    failed = found.requests - found.codes.get("OK", 0)
    return Seen(1000 * found.ok.p50, 1000 * found.ok.p95, failed, most[0] / (1 << 20))


if __name__ == "__main__":
    typer.run(main)
