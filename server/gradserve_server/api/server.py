"""The gRPC server: services, health, reflection, TLS."""

import asyncio
import resource
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gradserve.v1 import (
    concepts_pb2,
    concepts_pb2_grpc,
    management_pb2,
    management_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    service_pb2,
    service_pb2_grpc,
)

from ..config import LimitSettings, ServerSettings, StartError
from ..metrics import Metrics
from ..pool.pool import Pool
from . import reflection
from .admission.admission import Admission
from .admission.callers import Callers
from .admission.tokens import TokenFile
from .directions import DirectionStore
from .inference import service as inference
from .inference.v2 import inference_pb2_grpc
from .management import KeeperChanges, ModelManagementService
from .servicer import GradientService
from .small_services import DirectionService, ModelService
from .telemetry import log_filters
from .transport.address import check_unused
from .transport.certificates import Certificates
from .transport.interceptor import RequestInterceptor
from .transport.unread import UnreadReplies

if TYPE_CHECKING:
    from .telemetry.tracing import Tracing

MIB = 1 << 20
FLUSH_SECONDS = 1.0  # Seconds in which the last replies, and the health's last state, are sent.
MAX_REPLY_BYTES = 64 * MIB
PING_SECONDS = 60  # A connection without data for so long is asked whether the other side is still there.
PONG_SECONDS = 20  # It is closed where no answer comes in this time.
OTHER_DESCRIPTORS = 200  # File descriptors for all but the connections of callers, with some to spare.
SERVICES = (
    service_pb2.DESCRIPTOR.services_by_name["GradientService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    management_pb2.DESCRIPTOR.services_by_name["ModelManagementService"].full_name,
    concepts_pb2.DESCRIPTOR.services_by_name["DirectionService"].full_name,
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's own health service, with the call List, which that in Python lacks."""

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._names = ("", *services)  # The state of the empty name is the server's.

    async def set_all(self, status: Any) -> None:
        """Sets the state of the server and of each service."""
        for name in self._names:
            await self.set(name, status)

    async def List(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """The states of the server and of each service."""
        states = [await self.Check(health_pb2.HealthCheckRequest(service=name), context) for name in self._names]
        return health_pb2.HealthListResponse(statuses=dict(zip(self._names, states, strict=True)))


class ApiServer:
    """The server of one front-end: it listens once it is started, and `say` sets the health that it reports."""

    def __init__(
        self,
        settings: ServerSettings,
        limits: LimitSettings,
        pool: Pool,
        metrics: Metrics,
        weights: Mapping[str, float] = MappingProxyType({}),
        *,
        changes: KeeperChanges,
        directions: DirectionStore | None = None,
    ) -> None:
        """`weights`: callers' shares by name. `changes`: how models are changed. `directions`: None keeps none.

        Raises OSError, StartError for the file of tokens or traces.
        """
        log_filters.install()
        self._certificates = Certificates(settings) if settings.tls_certificate else None
        self.admission = Admission(pool, limits, metrics)
        tokens = TokenFile(settings.token_file, weights) if settings.token_file else None
        callers = Callers(tokens, weights, settings.front_ends)
        unread = UnreadReplies(settings.unread_seconds, limits.max_unread_bytes)
        self._tracing = _tracing(settings.traces) if settings.traces else None
        self._interceptor = RequestInterceptor(metrics, callers, self.admission, unread, self._tracing)
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=_options(settings, limits),
        )
        directions = directions or DirectionStore(None, limits)
        gradients = GradientService(pool, limits, metrics, self.admission, callers, directions)
        kept = DirectionService(callers, directions)
        concepts_pb2_grpc.add_DirectionServiceServicer_to_server(kept, self._server)
        service_pb2_grpc.add_GradientServiceServicer_to_server(gradients, self._server)
        models = ModelService(pool, callers)
        models_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        management = ModelManagementService(pool, callers, changes, without_tokens=settings.model_management)
        management_pb2_grpc.add_ModelManagementServiceServicer_to_server(management, self._server)
        services: tuple[str, ...] = SERVICES
        if settings.inference_protocol:
            infers = inference.InferenceService(gradients, models, pool, callers)
            inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(infers, self._server)
            self._server.add_generic_rpc_handlers((inference.not_served(),))
            services += (inference.SERVICE,)
        self._health = Health(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.add((*services, health.SERVICE_NAME), self._server)
        self._settings = settings

    async def start(self) -> str:
        """Listens, NOT_SERVING; returns the address that clients take. Raises OSError."""
        address = self._settings.address(self._settings.port)
        check_unused(self._settings)
        try:
            if self._certificates:
                port = self._server.add_secure_port(address, self._certificates.credentials())
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self.say(serving=False)
        await self._server.start()
        return self._settings.address(port)

    async def say(self, *, serving: bool) -> None:
        """Sets the health of the server and of each service."""
        await self._health.set_all(SERVING if serving else NOT_SERVING)

    async def stop(self) -> bool:
        """Closes the port, sends clients elsewhere and lets the running requests end, for as long as the settings say.

        Returns whether all requests ended by themselves.
        """
        await self.say(serving=False)
        # Every connection gets a GOAWAY first: a client that stayed would be refused again and again.
        closing = asyncio.create_task(self._server.stop(self._settings.drain_seconds + FLUSH_SECONDS))
        complete = await self._interceptor.drain(self._settings.drain_seconds)
        await self._server.stop(FLUSH_SECONDS)  # Health watchers never end by themselves.
        await closing
        if self._tracing:
            self._tracing.close()
        return complete

    def cut_off(self) -> None:
        """Ends the running requests at once, as UNAVAILABLE, so that `stop` returns."""
        self._interceptor.cut_off()


def _connections(settings: ServerSettings) -> int:
    """How many connections may be open: some file descriptors are left for workers, files and threads."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(settings.max_connections, most - OTHER_DESCRIPTORS))


def _tracing(endpoint: str) -> "Tracing":
    """Opens tracing to that collector. Raises StartError where OpenTelemetry is missing or refuses its settings."""
    try:
        from .telemetry.tracing import Tracing  # Imported here, since OpenTelemetry is an extra.
    except ImportError as error:
        text = "server.traces needs OpenTelemetry, which is not installed: pip install 'gradserve[otel]'"
        raise StartError(f"{text} ({error})") from error
    return Tracing(endpoint)


def _options(settings: ServerSettings, limits: LimitSettings) -> list[tuple[str, int]]:
    """gRPC's own settings; its times are in milliseconds."""
    return [
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.max_send_message_length", MAX_REPLY_BYTES),
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_grace * 1000)),
        ("grpc.max_allowed_incoming_connections", _connections(settings)),
        ("grpc.max_connection_idle_ms", int(settings.max_connection_idle * 1000)),
        ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", PONG_SECONDS * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Without need, a second server on the port would silently get half of the calls.
        ("grpc.so_reuseport", int(settings.front_ends > 1)),
    ]
