import grpc
import pytest

import gradserve
from gradserve import errors

from .fake import BAD_FIELDS


class Call:
    def __init__(self, code, details="", trailing=()):
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("missing", gradserve.NotFound, "no model 'missing'; nearest: tiny"),
        ("invalid", gradserve.InvalidArgument, "invalid request"),
        ("full", gradserve.ResourceExhausted, "try again in 2.5 s"),
        ("secret", gradserve.Unauthenticated, "a token is needed"),
        ("broken", gradserve.InternalError, "a fault"),
    ],
)
def test_a_status_becomes_an_exception(client, photo, model, kind, says):
    with pytest.raises(kind) as caught:
        client.predict(photo, model=model)
    assert says in str(caught.value)
    assert caught.value.request_id == "r-1"


def test_all_violations_are_told(client, photo):
    with pytest.raises(gradserve.InvalidArgument) as caught:
        client.predict(photo, model="invalid")
    assert caught.value.violations == BAD_FIELDS
    assert str(caught.value).splitlines() == [
        "invalid request",
        "  methods[0].smooth_grad.samples: 1 to 2000, not 0",
        "  preprocess: one of 1 to 3",
    ]


def test_violations_that_the_details_tell_too_are_not_told_twice():
    violations = [errors.Violation("model", "too long"), errors.Violation("top_k", "1 to 1000")]
    error = errors.InvalidArgument("model: too long; top_k: 1 to 1000", violations=violations)
    assert str(error) == "the request is invalid\n  model: too long\n  top_k: 1 to 1000"


def test_reason_code_and_delay(client, photo):
    with pytest.raises(gradserve.NotFound) as caught:
        client.predict(photo, model="missing")
    assert caught.value.reason == "UNKNOWN_MODEL"
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(gradserve.ResourceExhausted) as full:
        client.predict(photo, model="full")
    assert full.value.retry_after == 2.5


def test_the_precondition_of_a_method(client, photo):
    with pytest.raises(gradserve.FailedPrecondition, match="no ReLU"):
        client.explain(photo, "deconvnet")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_has_an_exception(code):
    error = errors.from_call(Call(code))
    assert isinstance(error, gradserve.ServiceError)
    assert error.code is code
    assert str(error) == code.name


def test_unreadable_details_do_no_harm():
    error = errors.from_call(Call(grpc.StatusCode.INTERNAL, "x", (("grpc-status-details-bin", b"\xff\xff"),)))
    assert str(error) == "x"


def test_deadlines_are_timeouts_and_large_requests_value_errors():
    assert issubclass(gradserve.DeadlineExceeded, TimeoutError)
    assert issubclass(gradserve.RequestTooLarge, ValueError)


def test_the_tree_in_the_docstring_is_the_tree():
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__:
            assert name in (errors.__doc__ or "")
            assert name in gradserve.__all__
