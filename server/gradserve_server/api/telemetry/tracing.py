"""OpenTelemetry: sends the spans of each sampled request to a collector. Imported only where `server.traces` is set.

The request's own span is opened here rather than by OpenTelemetry's interceptor for gRPC: that one does not see
`abort_with_status`, and takes the handlers of our streams, which are coroutines, for generators.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ... import __version__
from ...config import TRACES_BY_ENVIRONMENT, StartError
from .request_log import RequestLog
from .spans import RequestSpan, open_span

CLOSE_SECONDS = 1.0  # How long sending the last spans may take; the keeper waits three seconds after the requests.
SERVER_ERRORS = frozenset(  # Codes that are a server's fault, by OpenTelemetry's conventions for gRPC.
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

log = logging.getLogger(__name__)


class Tracing:
    """Opens the spans of requests. Spans that have ended are sent by a thread of OpenTelemetry."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: where the collector takes OTLP over gRPC, or TRACES_BY_ENVIRONMENT. Raises StartError."""
        try:
            self._provider = TracerProvider(resource=resource_attributes(), shutdown_on_exit=False)
            exporter = OTLPSpanExporter(None if endpoint == TRACES_BY_ENVIRONMENT else endpoint)
            self._processor = BatchSpanProcessor(exporter)
            self._provider.add_span_processor(self._processor)
        except Exception as error:  # It raises exceptions of many kinds for variables of the environment.
            raise StartError(f"OpenTelemetry refuses its settings: {type(error).__name__}: {error}") from error
        self._scope = InstrumentationScope("gradserve", __version__)
        self.start_span = self._provider.get_tracer(self._scope.name, self._scope.version).start_span
        self._told = False  # Whether a fault was logged.
        self._headers = TraceContextTextMapPropagator()
        for name in ("span", "propagation.tracecontext"):  # They repeat callers' malformed headers.
            logging.getLogger(f"opentelemetry.trace.{name}").setLevel(logging.ERROR)

    def begin(self, method: str, metadata: Mapping[str, Any], entry: RequestLog) -> "RequestTrace | None":
        """Opens a request's span, under the caller's if the metadata tell one; the log entry gets its trace id.

        A fault, such as one of a sampler that the environment names, is logged; then there is no trace.
        """
        try:
            return RequestTrace(self, method.removeprefix("/"), self._headers.extract(metadata), entry)
        except Exception:
            self.tell_fault()
            return None

    def tell_fault(self) -> None:
        """Logs the exception that is being handled, the first time."""
        if not self._told:
            log.exception("requests cannot be traced; this is logged once")
        self._told = True

    def send(self, span: RequestSpan, outer: SpanContext, epoch: float) -> None:
        """Sends a span that has ended, and its parts; its times are seconds after `epoch`.

        It is made in the form that the SDK gives to a span that has ended: opening and ending one for each part would
        take ten times as long.
        """
        span_id = self._provider.id_generator.generate_span_id()
        context = SpanContext(outer.trace_id, span_id, False, outer.trace_flags, outer.trace_state)
        for part in span.parts:
            self.send(part, context, epoch)
        ended = ReadableSpan(
            span.name,
            context,
            outer,
            self._provider.resource,
            span.attributes,
            start_time=nanoseconds(epoch + span.begun),
            end_time=nanoseconds(epoch + span.ended),
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(ended)

    def close(self) -> None:
        """Sends what is left, for CLOSE_SECONDS at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class RequestTrace:
    """A request's span that is open, as it is sent and as the servicer adds parts to it."""

    def __init__(self, tracing: Tracing, name: str, caller: Any, entry: RequestLog) -> None:
        """`caller`: the context with the caller's span."""
        self._tracing, self._entry = tracing, entry
        self._epoch = time.time() - time.monotonic()  # The Unix time at which the monotonic clock was 0.
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, "gradserve.request_id": entry.id}
        begun = nanoseconds(self._epoch + entry.arrived)
        self._sent = tracing.start_span(name, caller, SpanKind.SERVER, attributes, start_time=begun)
        self._noted = RequestSpan(name, entry.arrived, 0.0)
        if (context := self._sent.get_span_context()).is_valid:
            entry.trace = format_trace_id(context.trace_id)
        if self._sent.is_recording():
            open_span.set(self._noted)

    def end(self, code: grpc.StatusCode) -> None:
        """Ends the request's span, and sends its parts. A fault is logged, as it is none of the request."""
        try:
            if self._sent.is_recording():
                self._end(code)
        except Exception:
            self._tracing.tell_fault()

    def _end(self, code: grpc.StatusCode) -> None:
        ended, entry = time.monotonic(), self._entry
        self._sent.set_attributes(
            {
                "rpc.response.status_code": code.name,
                "gradserve.caller": entry.caller.name,
                "gradserve.model": entry.model,
                "gradserve.methods": entry.methods,
                "gradserve.rows": entry.rows,
            }
        )
        if code.name in SERVER_ERRORS:
            self._sent.set_attribute("error.type", code.name)
            self._sent.set_status(StatusCode.ERROR)
        for part in self._noted.parts:
            self._tracing.send(part, self._sent.get_span_context(), self._epoch)
        self._sent.end(nanoseconds(self._epoch + ended))


def nanoseconds(seconds: float) -> int:
    """A time in the unit of OpenTelemetry."""
    return int(seconds * 1e9)


def resource_attributes() -> Resource:
    """The attributes of this process, of which those come first that the environment gives."""
    own = Resource({"service.name": "gradserve", "service.version": __version__})
    return Resource.create().merge(own).merge(OTELResourceDetector().detect())
