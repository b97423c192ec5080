"""A collector of OpenTelemetry on 127.0.0.1, and the trees of the spans that it was sent."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(eq=False)
class Node:
    """A span with its children, in the order of their begins."""

    span: trace_pb2.Span
    resource: dict[str, Any]
    children: list["Node"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def facts(self) -> dict[str, Any]:
        return values(self.span.attributes)

    @property
    def seconds(self) -> float:
        return (self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e9

    @property
    def shape(self) -> Any:
        """Its name, or its name with the shapes of its children, of which equal ones are told once."""
        inner = [child.shape for child in self.children]
        return (self.name, *dict.fromkeys(inner)) if inner else self.name

    def all(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.all()


class Collector(service_grpc.TraceServiceServicer):
    """Keeps what is sent to `address`."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        service_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None)

    def Export(self, request: service.ExportTraceServiceRequest, context: Any) -> service.ExportTraceServiceResponse:
        for group in request.resource_spans:
            resource = values(group.resource.attributes)
            self._nodes += [Node(span, resource) for scope in group.scope_spans for span in scope.spans]
        return service.ExportTraceServiceResponse()

    def trees(self) -> list[Node]:
        """The spans whose parents were not sent here, each with all below it."""
        nodes = sorted(self._nodes, key=lambda node: node.span.start_time_unix_nano)
        by_id = {node.span.span_id: node for node in nodes}
        children = defaultdict(list)
        for node in nodes:
            children[node.span.parent_span_id].append(node)
        for node in nodes:
            node.children = children[node.span.span_id]
        return [node for node in nodes if node.span.parent_span_id not in by_id]


def values(attributes: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
