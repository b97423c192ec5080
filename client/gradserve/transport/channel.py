"""How both clients reach a server: limits, retries, keepalive, TLS, token, health."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from gradserve.errors import RequestTooLarge, ServiceError, from_call
from gradserve.transport import address, environment
from gradserve.transport.secrets import PathLike, Tls, credentials

SEND_LIMIT, RECEIVE_LIMIT = 32 << 20, 64 << 20  # The most bytes of a request and of a reply.
HEALTH = "/grpc.health.v1.Health/Check"
_HEALTH_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

ChannelOptions = Mapping[str, Any] | Iterable[tuple[str, Any]]
Compression = Literal["gzip", "deflate"]
_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
DEFAULT_RETRIES = 3


class ChannelSettings(TypedDict, total=False):
    """How a client makes its channels; `Endpoint` has the defaults.

    target: the address, None for that in GRADSERVE_SERVER. tls, certificate, key: see secrets.py. retries: how often a
    call is made again when no server is available, 0 to 4. connections: how many there are. options: of the channel,
    as gRPC has them; they win over those of this package. interceptors: of `grpc` or of `grpc.aio`, the first sees a
    call first. compression: of requests.
    """

    target: str | None
    tls: Tls
    retries: int | None
    connections: int | None
    certificate: PathLike | None
    key: PathLike | None
    options: ChannelOptions
    interceptors: Sequence[Any]
    compression: Compression | None


class Endpoint:
    """A server as a client sees it: its address, how to reach it, and what is sent beside every call.

    What is not given comes from the variables of environment.py if `target` is None or the server that they name.
    Raises ValueError, TypeError and OSError.
    """

    owns_channels = True

    def __init__(
        self,
        target: str | None = None,
        tls: Tls = None,
        token: str | None = None,
        retries: int | None = None,
        connections: int | None = None,
        *,
        certificate: PathLike | None = None,
        key: PathLike | None = None,
        options: ChannelOptions = (),
        interceptors: Sequence[Any] = (),
        compression: Compression | None = None,
    ) -> None:
        self.connections = 1 if connections is None else connections
        if type(self.connections) is not int or self.connections < 1:
            raise ValueError(f"connections is a whole number from 1 on, not {connections!r}")
        self.target, asks_for_tls = address.split(environment.server(target))
        if environment.means(target):
            tls, token = environment.tls(tls), environment.token(token)
        self.metadata = metadata(token)
        self.proxy = address.proxy(self.target)
        self._secret = credentials(True if asks_for_tls and not tls else tls, certificate, key)
        self.tls = self._secret is not None
        retries = DEFAULT_RETRIES if retries is None else retries
        self._options = merged(channel_options(retries, proxied=not address.is_local(self.target)), options)
        if not isinstance(interceptors, Sequence):
            raise TypeError(f"interceptors is a list of gRPC's interceptors, not {interceptors!r}")
        self._interceptors = list(interceptors)
        self._compression = _compression(compression)

    def check(self, library: Any) -> None:
        """Raises TypeError for interceptors that are not those of `library`, which is `grpc` or `grpc.aio`."""
        kinds, name = _interceptor_kinds(library)
        for each in self._interceptors:
            if not isinstance(each, kinds):
                raise TypeError(f"interceptors: {each!r} is none of {name}, such as {name}.UnaryUnaryClientInterceptor")

    def channels(self, library: Any) -> list[Any]:
        """New channels of `grpc` or of `grpc.aio`, each with a connection of its own."""
        # Channels of one process to the same address share a connection otherwise.
        own = [("grpc.use_local_subchannel_pool", 1)] if self.connections > 1 else []
        return [self._channel(library, [*self._options, *own]) for _ in range(self.connections)]

    def _channel(self, library: Any, options: Sequence[tuple[str, Any]]) -> Any:
        arguments: dict[str, Any] = {"options": options, "compression": self._compression}
        if library is grpc.aio:
            arguments["interceptors"] = self._interceptors
        if self._secret is None:
            opened = library.insecure_channel(self.target, **arguments)
        else:
            opened = library.secure_channel(self.target, self._secret, **arguments)
        return grpc.intercept_channel(opened, *self._interceptors) if library is grpc else opened

    def error(self, failure: Any) -> ServiceError:
        """The exception for a failed call."""
        return from_call(failure, self.proxy)


class GivenChannel:
    """A channel that the caller has made, in the place of an Endpoint; whoever made it closes it."""

    owns_channels = False
    target, proxy = "the server of the given channel", ""

    def __init__(self, channel: Any, token: str | None) -> None:
        self.metadata = metadata(token)
        self._channel = channel

    def check(self, library: Any) -> None:
        """Raises TypeError if it is no channel of `library`, which is `grpc` or `grpc.aio`."""
        if not isinstance(self._channel, library.Channel):
            raise TypeError(f"channel is a {library.__name__}.Channel here, not {self._channel!r}")

    def channels(self, library: Any) -> list[Any]:
        """That channel alone."""
        return [self._channel]

    def error(self, failure: Any) -> ServiceError:
        """The exception for a failed call."""
        return from_call(failure)


def endpoint(channel: Any, token: str | None, **settings: Unpack[ChannelSettings]) -> Endpoint | GivenChannel:
    """A server by its settings, or by a channel. Raises ValueError for a channel beside settings."""
    if channel is None:
        return Endpoint(token=token, **settings)
    both = [name for name, value in settings.items() if value or type(value) is int]  # Zero retries are a setting too.
    if both:
        raise ValueError(f"{', '.join(both)}: a channel has its own; give `channel` or these, not both")
    return GivenChannel(channel, token)


def merged(ours: Mapping[str, Any], callers: ChannelOptions) -> list[tuple[str, Any]]:
    """The options of a channel, those of the caller in the place of ours. Raises TypeError."""
    theirs: dict[str, Any] | None
    try:
        theirs = dict(callers)
    except (TypeError, ValueError):
        theirs = None
    if theirs is None or not all(isinstance(name, str) for name in theirs):
        kinds = "(name, value) pairs, or a dictionary, as gRPC names them"
        raise TypeError(f"options are {kinds}, not {callers!r}")
    return list({**ours, **theirs}.items())


def _compression(name: Any) -> Any:
    if name is None or isinstance(name, grpc.Compression):
        return name
    if not isinstance(name, str) or name not in _COMPRESSIONS:
        raise ValueError(f"compression must be one of {', '.join(_COMPRESSIONS)}; not {name!r}")
    return _COMPRESSIONS[name]


def _interceptor_kinds(library: Any) -> tuple[Any, str]:
    """The classes of the library's interceptors of clients, and the library's name."""
    if library is grpc.aio:
        return grpc.aio.ClientInterceptor, "grpc.aio"
    kinds = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
    return tuple(getattr(grpc, f"{kind}ClientInterceptor") for kind in kinds), "grpc"


def channel_options(retries: int, *, proxied: bool) -> dict[str, Any]:
    """The channel's options. gRPC itself retries calls, and only when the server is UNAVAILABLE or stops.

    Calls go in turn to all servers that the target's name stands for.

    `proxied`: go through the proxy that the environment names, if it names one.
    """
    return {
        "grpc.enable_http_proxy": int(proxied),
        "grpc.max_send_message_length": SEND_LIMIT,
        "grpc.max_receive_message_length": RECEIVE_LIMIT,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 3_000,
        # A call can be retried only while its request is in this buffer.
        "grpc.per_rpc_retry_buffer_size": SEND_LIMIT + (1 << 20),
        "grpc.service_config": _service_config(retries),
    }


def metadata(token: str | None) -> list[tuple[str, str]]:
    """What is sent beside every call. Raises ValueError for a token that no header can hold, without showing it."""
    if token is not None and not isinstance(token, str):
        raise TypeError(f"token is a text, not {type(token).__name__}")
    if token and not (token.isascii() and token.isprintable()):
        flaw = "a line break, as at the end of a file" if set("\r\n") & set(token) else "another character"
        raise ValueError(f"token consists of printable ASCII characters, but this one has {flaw}")
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
    if type(retries) is not int or not 0 <= retries <= 4:
        raise ValueError(f"retries is 0 to 4 (gRPC makes five attempts at most), not {retries!r}")
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
