"""Health checks of strangers: what they send is bounded, and others are answered soon."""

from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.events import ResponseReceived, TrailersReceived
from raw_http2 import RawConnection
from serving import PATIENCE, Server

from gradserve_server.api.transport.probes import MAX_BYTES, MAX_OF_ADDRESS

CHECK = "/grpc.health.v1.Health/Check"
HALF = b"\0" + (28 << 20).to_bytes(4, "big") + bytes(1000)  # The beginning of a message of 28 MiB.
LATE, INVALID = (str(code.value[0]) for code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT))


@pytest.fixture
def health(server: Server) -> Iterator[health_pb2_grpc.HealthStub]:
    with server.channel() as channel:
        yield health_pb2_grpc.HealthStub(channel)


def statuses(connection: RawConnection) -> Counter[str]:
    """The codes of all calls that have ended, as gRPC numbers them."""
    ends = [event for event in connection.events if isinstance(event, ResponseReceived | TrailersReceived)]
    fields = [(bytes(name).decode(), bytes(value).decode()) for event in ends for name, value in event.headers or []]
    return Counter(value for name, value in fields if name == "grpc-status")


def test_half_sent_health_checks_end_and_leave_room_for_others(
    server: Server, health: health_pb2_grpc.HealthStub
) -> None:
    with RawConnection(server.address) as connection:
        for _ in range(3 * MAX_OF_ADDRESS):
            connection.send(CHECK, HALF, whole=False)
        while statuses(connection).total() < 2 * MAX_OF_ADDRESS:
            assert connection.receive()
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING, (
            "it is not kept out by those that are on their way"
        )
        while statuses(connection).total() < 3 * MAX_OF_ADDRESS:
            assert connection.receive()
        assert statuses(connection) == {LATE: 3 * MAX_OF_ADDRESS}


def test_a_health_check_is_small(health: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="x" * MAX_BYTES), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"at most {MAX_BYTES} bytes" in caught.value.details()


def test_a_health_check_without_a_request(server: Server) -> None:
    with RawConnection(server.address) as connection:
        connection.send(CHECK, b"")
        while not statuses(connection):
            assert connection.receive()
        assert statuses(connection) == {INVALID: 1}
