"""The errors that a request can get, and how each becomes a gRPC status."""

import difflib
import random
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ..pool.pool import NoWorker
from ..pool.wire import Failure, Task

DOMAIN = "gradserve"
# RPCs, and methods of Explain, that can answer with what is done when time runs out.
PARTIAL_ANSWERS = frozenset(
    {"attack", "maximize", "stylize", "smooth_grad", "rise", "lime", "kernel_shap", "gradient_shap"}
)
OTHER_HINTS = {
    "dense": ", or set a smaller size",
    "dense_head": "; the first request of Dense for a model takes longer, and the next one goes on where it ended",
}
# Trailers of more than 8 KiB are dropped by gRPC. An error's text travels in them twice, and encoded.
MAX_TEXT_BYTES, MAX_DETAILS_BYTES = 600, 3000
MAX_SHOWN_CHARACTERS = 80  # The most characters of a caller's value that an error text repeats.
MAX_NAMES_SHOWN = 12  # The most names that an error text lists in full.
MAX_NEAREST_NAMES, MAX_NEAREST_BYTES = 5, 300  # The most names, and bytes of them, in a hint at the nearest names.
MIN_CONTAINED_CHARACTERS = 2  # Names that contain the wrong one are looked for only if it is at least so long.
MAX_JITTER_SHARE = 0.5  # Random share that is added to a caller's delay, so that not all come back at once.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.05, 30.0
MAX_HINTS = 8  # The most searches for the nearest names in one request.
MAX_NAMES_AFTER_TEXT = 4  # The most names that follow a longer text.


class RequestError(Exception):
    """A request that gets an error: its code, a reason for machines, a text for people."""

    def __init__(self, code: grpc.StatusCode, reason: str, text: str) -> None:
        super().__init__(text)
        self.code, self.reason, self.text = code, reason, clipped(text, MAX_TEXT_BYTES)
        self.violations: list[tuple[str, str]] = []
        self.retry_after: float | None = None
        self.refused = ""  # The kind of refusal, for a request that was not begun for want of time or room.


class Full(RequestError):
    """RESOURCE_EXHAUSTED with a delay after which to try again; `kind` is the reason in `gradserve_rejected_total`."""

    def __init__(self, kind: str, text: str, seconds: float) -> None:
        delay = min(MAX_RETRY_SECONDS, max(MIN_RETRY_SECONDS, seconds)) * (1 + MAX_JITTER_SHARE * random.random())
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", f"{text}; try again in {delay:.1f} s")
        self.retry_after, self.refused = delay, kind


class Violations:
    """Collects everything that is wrong with a request, so that one error reports all of it.

    `no_model`: why the model that the request names is not there. Its other fields are then checked against another
    model's card, and only what is wrong for every model is reported with it.
    """

    def __init__(self, no_model: RequestError | None = None) -> None:
        self.invalid: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self._no_model, self._missing = no_model, list[tuple[str, RequestError]]()

    def add(self, field: str, text: str, *, for_every_model: bool = False) -> None:
        """Adds a violation: the field's path, and a text that says what was wrong and what is allowed."""
        if for_every_model or self._no_model is None:
            self.invalid.append((field, clipped(text, MAX_TEXT_BYTES)))

    def not_applicable(self, text: str) -> None:
        """Notes that something valid does not apply to this model. It is reported only where nothing is invalid."""
        self.refused.append(text)

    def not_found(self, field: str, error: RequestError) -> None:
        """Notes that what a field names is not there. The error is raised itself where nothing is invalid."""
        self._missing.append((field, error))

    def check(self) -> None:
        """Raises INVALID_ARGUMENT if anything was added, else NOT_FOUND for what is not there.

        Without either, raises FAILED_PRECONDITION if something does not apply.

        Where the model is missing, that is one of the violations, or, if there are no others, `no_model` is raised.
        """
        if self._no_model is not None:
            if not self.invalid:
                raise self._no_model
            self.invalid.insert(0, ("model", self._no_model.text))
        if self.invalid:
            self.invalid += [(field, error.text) for field, error in self._missing]
            raise invalid(list(dict.fromkeys(self.invalid)))
        if self._missing:
            raise self._missing[0][1]
        if self.refused:
            raise inapplicable("; ".join(dict.fromkeys(self.refused)))


def invalid(violations: list[tuple[str, str]]) -> RequestError:
    """INVALID_ARGUMENT with all violations."""
    text = "; ".join(f"{field}: {description}" for field, description in violations)
    error = RequestError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", text)
    room = MAX_DETAILS_BYTES
    for i, (field, description) in enumerate(violations):
        room -= len(field) + len(description.encode()) + 8
        if room < 0:
            error.violations.append(("", f"and {len(violations) - i} more"))
            break
        error.violations.append((field, description))
    return error


def unknown_model(name: str, known: Iterable[str], failed: Iterable[str] = ()) -> RequestError:
    """NOT_FOUND with the nearest names. `failed`: models of the configuration that could not be loaded."""
    failures = frozenset(failed)
    names = (*known, *sorted(failures))
    hint = near(name, names, failures)
    text = f"there is no model {shown(name)}; {hint}"
    return RequestError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", text)


def model_unavailable(name: str, reason: str, others: Iterable[str] = ()) -> RequestError:
    """FAILED_PRECONDITION: the model is in the server's configuration, but could not be loaded.

    `others`: the models to name instead, where the request named none.
    """
    names = list(others)
    which = f"the default model, {name}, could not be loaded" if names else f"model {name} could not be loaded"
    more = ", ..." if len(names) > MAX_NAMES_AFTER_TEXT else ""
    hint = f"; name another with --model: {', '.join(names[:MAX_NAMES_AFTER_TEXT])}{more}" if names else ""
    text = clipped(f"{which}: {reason}", MAX_TEXT_BYTES - len(hint.encode()))
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNAVAILABLE", text + hint)


def inapplicable(text: str) -> RequestError:
    """FAILED_PRECONDITION: nothing is invalid, but the method does not apply to this model or input."""
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_APPLICABLE", text)


def late(text: str = "the time budget ran out before the work began; allow more time") -> RequestError:
    """DEADLINE_EXCEEDED, for a request that was not begun."""
    error = RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_UP", text)
    error.refused = "late"
    return error


def unavailable(text: str) -> RequestError:
    """UNAVAILABLE: starting, draining or no worker alive."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, "NO_WORKER", text)


FAILURES = {
    "deadline": (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "TIME_UP",
        "the time budget ran out before the answer was complete; allow more time",
    ),
    "refused": (grpc.StatusCode.FAILED_PRECONDITION, "NOT_APPLICABLE", ""),
    "not_finite": (grpc.StatusCode.FAILED_PRECONDITION, "NOT_FINITE", ""),
    "model_failed": (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_FAILED", ""),
    "out_of_memory": (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OUT_OF_MEMORY",
        "one row does not fit the device's memory; send a smaller picture",
    ),
    # It is not UNAVAILABLE, which clients try again: the request may have been what killed the workers.
    "crashed": (grpc.StatusCode.INTERNAL, "WORKER_CRASHED", ""),
    "unread": (grpc.StatusCode.INTERNAL, "UNREAD", ""),
    "lost": (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST", ""),
    "internal": (grpc.StatusCode.INTERNAL, "INTERNAL", "a fault in the server; its log has the details"),
}


def failure(failed: Failure, task: Task | None = None) -> RequestError:
    """The error for a task that has no result. With `task` its text can end in a hint to allow_partial."""
    code, reason, text = FAILURES[failed.kind]
    hint = partial_hint(task) if failed.kind == "deadline" and task is not None else ""
    return RequestError(code, reason, (text or failed.text) + hint)


def partial_hint(task: Task) -> str:
    """The end of a text about time that ran out: what would help, such as allow_partial where that could.

    Empty where nothing would.
    """
    if task.rpc in OTHER_HINTS:
        return OTHER_HINTS[task.rpc]
    names = {call.method for call in task.arguments.calls} if task.rpc == "explain" else {task.rpc}
    return "" if task.allow_partial or names.isdisjoint(PARTIAL_ANSWERS) else ", or allow_partial"


def translated(error: Exception) -> RequestError | None:
    """The error of the request that an exception stands for, or None for an unexpected one, a fault of the server."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, NoWorker):
        return unavailable(str(error))
    return None


def clipped(text: str, max_bytes: int) -> str:
    """The text, cut where it has more than `max_bytes`."""
    data = text.encode()
    return text if len(data) <= max_bytes else data[: max_bytes - 3].decode(errors="ignore") + "…"


def shown(value: object) -> str:
    """A caller's value as an error text repeats it, cut where it is long."""
    return clipped(repr(value[:MAX_SHOWN_CHARACTERS] if isinstance(value, str) else value), 2 * MAX_SHOWN_CHARACTERS)


_hints_left: ContextVar[list[int] | None] = ContextVar("hints_left", default=None)  # None: without a limit.


@contextmanager
def hints(count: int = MAX_HINTS) -> Iterator[None]:
    """Inside the `with`, `near` looks for nearest names at most `count` times: among thousands it takes long."""
    token = _hints_left.set([count])
    try:
        yield
    finally:
        _hints_left.reset(token)


def near(name: str, known: Collection[str], failed: frozenset[str] = frozenset()) -> str:
    """A hint: the names that contain this one, else those spelt alike, else all names if they are few, or the first.

    Only how many there are, where `hints` allows no further search. `failed`: those of the names that are models which
    could not be loaded.
    """
    left = _hints_left.get()
    if left is not None:
        if not left[0]:
            return f"there are {len(known)}"
        left[0] -= 1
    return _near(name[:MAX_SHOWN_CHARACTERS], tuple(known), failed)


@lru_cache(256)
def _near(name: str, known: tuple[str, ...], failed: frozenset[str]) -> str:
    lower = {k.lower(): f"{k} (could not be loaded)" if k in failed else k for k in reversed(known)}
    close = _containing(name.lower(), reversed(lower)) or difflib.get_close_matches(name.lower(), lower, 3, 0.5)
    if close:
        return f"nearest: {clipped(', '.join(lower[k] for k in close[:MAX_NEAREST_NAMES]), MAX_NEAREST_BYTES)}"
    if len(known) <= MAX_NAMES_SHOWN:
        return f"there are: {', '.join(lower[k.lower()] for k in known)}"
    return f"there are {len(known)}: {', '.join(known[: MAX_NAMES_SHOWN // 2])}, ..."


def _containing(name: str, known: Iterable[str]) -> list[str]:
    """The known names that contain this one: first as a whole word, then at the beginning of a word, then anywhere."""
    if len(name.strip()) < MIN_CONTAINED_CHARACTERS:
        return []
    word = re.escape(name.strip())
    patterns = [rf"(?<![^\W_]){word}(?![^\W_])", rf"(?<![^\W_]){word}", word]
    places = {k: next((i for i, pattern in enumerate(patterns) if re.search(pattern, k)), None) for k in known}
    return sorted((k for k, place in places.items() if place is not None), key=lambda k: places[k] or 0)


def status(error: RequestError, request_id: str) -> status_pb2.Status:
    """google.rpc.Status with BadRequest, ErrorInfo and RetryInfo as they apply."""
    details = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation
        field_violations = [violation(field=field, description=text) for field, text in error.violations]
        details.append(error_details_pb2.BadRequest(field_violations=field_violations))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=getattr(code_pb2, error.code.name), message=error.text, details=packed)
