"""Every error that this package raises on purpose.

    GradserveError
    ├── RequestTooLarge (ValueError)     not sent: larger than a server takes
    ├── PictureError                     comes in the place of an answer where *_many return errors
    └── ServiceError                     the call ended with a status: .code, .reason, .details, .request_id
        ├── InvalidArgument              the request is wrong; .violations lists everything that is
        ├── NotFound                     no such model, or no direction of that name
        ├── FailedPrecondition           nothing is wrong, but the method does not apply to this model,
        │                                or the model could not be loaded (reason MODEL_UNAVAILABLE)
        ├── ResourceExhausted            the server is full; try again after .retry_after seconds
        ├── Unavailable                  no server there, or it is starting or stopping; retries are used up
        ├── DeadlineExceeded (TimeoutError)  out of time, and a partial answer was not allowed
        ├── Cancelled                    the call was cancelled
        ├── Unauthenticated              the server wants a token
        ├── PermissionDenied             the token does not allow this
        ├── Unimplemented                the server is older than this client
        └── InternalError                anything else: a fault of the server; please report it

Arguments that make no sense on this side, such as an unknown method's name, raise ValueError.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2


class Violation(NamedTuple):
    """One thing that is wrong with a request: the path of the field, and what is allowed there."""

    field: str
    description: str


class GradserveError(Exception):
    """The root of all errors of this package."""


class RequestTooLarge(GradserveError, ValueError):
    """The request is larger than a server takes; it was not sent."""


class PictureError(GradserveError):
    """The call about one of many pictures failed.

    index: the picture's place, from 0 on. picture: its path, or "" where it has none. error: what was raised.
    """

    def __init__(self, index: int, picture: str, error: Exception) -> None:
        super().__init__(index, picture, error)
        self.index, self.picture, self.error = index, picture, error
        self.__cause__ = error

    @property
    def name(self) -> str:
        """The picture, for people."""
        return f"picture {self.index}" + (f", {self.picture}" if self.picture else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.error}"


class ServiceError(GradserveError):
    """A call that ended with a status other than OK."""

    def __init__(
        self,
        details: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(details)
        self.details = details
        self.code = code
        self.reason = reason
        self.violations = list(violations)
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        repeated = bool(self.violations) and all(text in self.details for _, text in self.violations)
        lines = ["the request is invalid" if repeated else self.details or self.code.name]
        lines += [f"  {field}: {text}" if field else f"  {text}" for field, text in self.violations]
        if self.retry_after is not None:
            lines.append(f"  try again in {self.retry_after:g} s")
        return "\n".join(lines)


class InvalidArgument(ServiceError):
    """The request is wrong; `violations` lists everything that is."""


class NotFound(ServiceError):
    """There is no such model, or no direction of that name."""


class FailedPrecondition(ServiceError):
    """Nothing is wrong with the request, but the method does not apply to this model.

    Or the model could not be loaded (reason MODEL_UNAVAILABLE).
    """


class ResourceExhausted(ServiceError):
    """The server is full; `retry_after` says in how many seconds to try again, where it knows."""


class Unavailable(ServiceError):
    """There is no server, or it is starting or stopping; the retries are used up."""


class DeadlineExceeded(ServiceError, TimeoutError):
    """Time ran out, and a partial answer was not allowed or not possible."""


class Cancelled(ServiceError):
    """The call was cancelled."""


class Unauthenticated(ServiceError):
    """The server wants a token, or another one."""


class PermissionDenied(ServiceError):
    """The token does not allow this."""


class Unimplemented(ServiceError):
    """The server does not know this call, or a part of its target: it is older than this client."""


class InternalError(ServiceError):
    """A fault of the server: please report it."""


_BY_CODE: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


_UNREACHED_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def from_call(call: Any, proxy: str = "") -> ServiceError:
    """The exception for a failed call of grpc or grpc.aio; `proxy`: named where no answer came."""
    metadata = {key: value for key, value in call.trailing_metadata() or ()}  # noqa: C416  dict() takes aio's for a mapping
    code = call.code()
    facts = _details(metadata.get("grpc-status-details-bin", b""))
    kind = _BY_CODE.get(code, InternalError)
    answered = facts or "x-request-id" in metadata
    details = (call.details() or "") + (through(proxy) if code in _UNREACHED_CODES and not answered else "")
    return kind(details, code=code, request_id=str(metadata.get("x-request-id", "")), **facts)


def not_ready(target: str, timeout: float, state: str, proxy: str = "") -> DeadlineExceeded:
    """The error of a wait that ended before the server was ready."""
    text = f"{target} was not ready within {timeout:g} s: {state}{through(proxy)}"
    return DeadlineExceeded(text, code=grpc.StatusCode.DEADLINE_EXCEEDED)


def through(proxy: str) -> str:
    """What to add to the text of an error where a call goes through a proxy of the environment."""
    return f" (through the proxy of {proxy}; to go past it, name the host in no_proxy)" if proxy else ""


def _details(packed: bytes) -> dict[str, Any]:
    """The details of a google.rpc.Status as arguments of ServiceError; unreadable ones are left out."""
    facts: dict[str, Any] = {}
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    try:
        status.ParseFromString(packed)
        for detail in status.details:
            if detail.Unpack(bad):
                facts["violations"] = [Violation(v.field, v.description) for v in bad.field_violations]
            elif detail.Unpack(info):
                facts["reason"] = info.reason
            elif detail.Unpack(retry):
                facts["retry_after"] = retry.retry_delay.ToNanoseconds() / 1e9
    except DecodeError:
        pass
    return facts
