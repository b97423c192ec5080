"""OpenTelemetry: sends the spans of each sampled request to a collector. Imported only where `server.traces` is set.

The request's own span is opened here rather than by OpenTelemetry's interceptor for gRPC: that one does not see
`abort_with_status`, and takes the handlers of our streams, which are coroutines, for generators.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import __version__
from ..config import TRACES_BY_ENVIRONMENT, StartError
from .request_log import RequestLog
from .spans import RequestSpan, open_span

CLOSE_SECONDS = 1.0  # How long sending the last spans may take; the keeper waits three seconds after the requests.
SERVER_ERRORS = frozenset(  # Codes that are a server's fault, by OpenTelemetry's conventions for gRPC.
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Tracing:
    """Opens the spans of requests. Spans that have ended are sent by a thread of OpenTelemetry."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: where the collector takes OTLP over gRPC, or TRACES_BY_ENVIRONMENT. Raises StartError."""
        try:
            self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
            exporter = OTLPSpanExporter(None if endpoint == TRACES_BY_ENVIRONMENT else endpoint)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        except Exception as error:  # It raises exceptions of many kinds for variables of the environment.
            raise StartError(f"OpenTelemetry refuses its settings: {type(error).__name__}: {error}") from error
        self._tracer = self._provider.get_tracer("gradserve", __version__)
        self._headers = TraceContextTextMapPropagator()
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)  # It repeats callers' malformed headers.

    def begin(self, method: str, metadata: Mapping[str, Any], entry: RequestLog) -> "RequestTrace":
        """Opens a request's span, under the caller's if the metadata tell one; the log entry gets its trace id."""
        return RequestTrace(self._tracer, method.removeprefix("/"), self._headers.extract(metadata), entry)

    def close(self) -> None:
        """Sends what is left, for CLOSE_SECONDS at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class RequestTrace:
    """A request's span that is open, as it is sent and as the servicer adds parts to it."""

    def __init__(self, tracer: Tracer, name: str, caller: Any, entry: RequestLog) -> None:
        """`caller`: the context with the caller's span."""
        self._tracer, self._entry = tracer, entry
        self._epoch = time.time() - time.monotonic()  # What the monotonic clock's times are seconds after.
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, "gradserve.request_id": entry.id}
        begun = self._nanoseconds(entry.arrived)
        self._sent = tracer.start_span(name, caller, SpanKind.SERVER, attributes, start_time=begun)
        self._noted = RequestSpan(name, entry.arrived, 0.0)
        if (context := self._sent.get_span_context()).is_valid:
            entry.trace = format_trace_id(context.trace_id)
        if self._sent.is_recording():
            open_span.set(self._noted)

    def end(self, code: grpc.StatusCode) -> None:
        """Ends the request's span, and sends its parts."""
        if not self._sent.is_recording():
            return
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
        self._send(self._noted.parts, self._sent)
        self._sent.end(self._nanoseconds(ended))

    def _send(self, parts: Sequence[RequestSpan], outer: Span) -> None:
        """Opens and ends the spans of a span's parts, and of theirs."""
        context = set_span_in_context(outer)
        for each in parts:
            begun = self._nanoseconds(each.begun)
            sent = self._tracer.start_span(each.name, context, attributes=each.attributes, start_time=begun)
            self._send(each.parts, sent)
            sent.end(self._nanoseconds(each.ended))

    def _nanoseconds(self, when: float) -> int:
        """A time of the monotonic clock in nanoseconds since 1970."""
        return int((self._epoch + when) * 1e9)


def _resource() -> Resource:
    """What is said of this process; the variables of the environment come first."""
    found = Resource.create()
    named = not str(found.attributes["service.name"]).startswith("unknown_service")
    own = {"service.name": "gradserve", "service.version": __version__}
    return Resource(own).merge(found) if named else found.merge(Resource(own))
