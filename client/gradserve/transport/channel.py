"""How both clients reach a server: limits, retries, keepalive, TLS, token, health."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from gradserve.errors import RequestTooLarge, ServiceError, from_call
from gradserve.transport import address

SEND_LIMIT, RECEIVE_LIMIT = 32 << 20, 64 << 20  # The most bytes of a request and of a reply.
HEALTH = "/grpc.health.v1.Health/Check"
_HEALTH_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

Tls = bool | str | os.PathLike[str] | None


class Endpoint:
    """A server as a client sees it: its address, how to reach it, and what is sent beside every call.

    Raises ValueError.
    """

    def __init__(self, target: str, tls: Tls, token: str | None, retries: int, connections: int = 1) -> None:
        if connections < 1:
            raise ValueError(f"connections is at least 1, not {connections}")
        self.connections = connections
        self.target, asks_for_tls = address.split(target)
        self.metadata = metadata(token)
        self.proxy = address.proxy(self.target)
        self._secret = credentials(tls or asks_for_tls)
        self.tls = self._secret is not None
        self._options = options(retries, proxied=not address.is_local(self.target))

    def channels(self, library: Any) -> list[Any]:
        """New channels of `grpc` or of `grpc.aio`, each with a connection of its own."""
        # Channels of one process to the same address share a connection otherwise.
        own = [("grpc.use_local_subchannel_pool", 1)] if self.connections > 1 else []
        return [self._channel(library, own) for _ in range(self.connections)]

    def _channel(self, library: Any, others: Sequence[tuple[str, Any]]) -> Any:
        if self._secret is None:
            return library.insecure_channel(self.target, [*self._options, *others])
        return library.secure_channel(self.target, self._secret, [*self._options, *others])

    def error(self, failure: Any) -> ServiceError:
        """The exception for a failed call."""
        return from_call(failure, self.proxy)


def options(retries: int, *, proxied: bool) -> list[tuple[str, Any]]:
    """The channel's options. gRPC itself retries calls, and only when the server is UNAVAILABLE or stops.

    Calls go in turn to all servers that the target's name stands for.

    `proxied`: go through the proxy that the environment names, if it names one.
    """
    return [
        ("grpc.enable_http_proxy", int(proxied)),
        ("grpc.max_send_message_length", SEND_LIMIT),
        ("grpc.max_receive_message_length", RECEIVE_LIMIT),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        # A call can be retried only while its request is in this buffer.
        ("grpc.per_rpc_retry_buffer_size", SEND_LIMIT + (1 << 20)),
        ("grpc.service_config", _service_config(retries)),
    ]


def credentials(tls: Tls) -> grpc.ChannelCredentials | None:
    """None without TLS, the system's roots for True, else the certificate of an authority from a file."""
    if tls is None or tls is False:
        return None
    return grpc.ssl_channel_credentials(None if tls is True else Path(tls).read_bytes())


def metadata(token: str | None) -> list[tuple[str, str]]:
    """What is sent beside every call."""
    return [("authorization", f"Bearer {token}")] if token else []


def check_size(request: Message) -> None:
    """Refuse a request that the server would not take."""
    size = request.ByteSize()
    if size > SEND_LIMIT:
        raise RequestTooLarge(
            f"the request is {size / 2**20:.1f} MiB and a server takes {SEND_LIMIT >> 20} MiB; "
            "send a smaller picture, or a JPEG file instead of pixels"
        )


def health_request(service: str = "") -> bytes:
    """A HealthCheckRequest, written by hand: field 1 is the service's name, and empty means the whole server."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"a service's name has at most 127 bytes, not {len(name)}")
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def health_state(reply: bytes) -> str:
    """The state in a HealthCheckResponse, read by hand: field 1 is an enum, and absent means 0."""
    return _HEALTH_STATES.get(reply[1] if reply[:1] == b"\x08" and len(reply) > 1 else 0, "UNKNOWN")


def same(message: bytes) -> bytes:
    """The bytes as they are: health messages are made and read by hand."""
    return message


def _service_config(retries: int) -> str:
    if not 0 <= retries <= 4:
        raise ValueError(f"retries is 0 to 4 (gRPC makes five attempts at most), not {retries}")
    call: dict[str, Any] = {"name": [{}]}
    if retries:
        call["retryPolicy"] = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.2s",
            "maxBackoff": "5s",
            "backoffMultiplier": 3,
            # A gRPC server ends calls as CANCELLED that reach it while it stops (issue 41785 of github.com/grpc/grpc).
            # A call that its own caller cancels is not retried.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [call]})
