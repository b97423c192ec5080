"""When methods of Explain that draw samples may stop."""

from collections.abc import Sequence

from gradserve.v1 import explain_pb2

from ...methods.explain import METHODS, Call
from ..errors import Violations


def until_stable_of(request: explain_pb2.ExplainRequest, calls: Sequence[Call], violations: Violations) -> float | None:
    """The relative standard error at which no more samples are drawn; None where all are."""
    if not request.HasField("until_stable"):
        return None
    if not 0 < request.until_stable <= 1:
        text = f"must be a number above 0 to 1, was {request.until_stable:g}"
        violations.add("until_stable", text, for_every_model=True)
    elif calls and not any(METHODS[call.method].draws_samples for call in calls):
        sampled = ", ".join(name for name, method in METHODS.items() if method.draws_samples)
        violations.add("until_stable", f"needs a method that draws samples: {sampled}", for_every_model=True)
    return request.until_stable
