"""Running a method as a worker does: through an engine, with its parameters bound."""

from collections.abc import Sequence

from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.explain import METHODS, Call, ExplainArguments, Explained, Target, explain
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

TOP = Target(rank=1)


def call(model: Prepared, method: str, target: Target = TOP, **parameters: object) -> Call:
    """A call with every parameter resolved."""
    bound = bind(METHODS[method].function, parameters)
    if "layer" in bound:
        bound["layer"] = bound["layer"] or model.card.grad_cam_layer
    return Call(method, bound, target)


def job_of(image: Tensor, calls: Sequence[Call], seed: int = 0, chunk: int = 32) -> Job:
    """An Explain job on one image [1, 3, H, W]."""
    arguments = ExplainArguments(tuple(calls))
    return Job("job", "model", lambda job: explain(job, image, arguments), seed=seed, chunk=chunk)


def answers(model: Prepared, image: Tensor, calls: Sequence[Call], **facts: int) -> list[Explained]:
    """Runs the calls in one job; raises what ended it."""
    engine = Engine({"model": model})
    engine.submit(job_of(image, calls, **facts))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return ended.result


def answer(
    model: Prepared, image: Tensor, method: str, target: Target = TOP, seed: int = 0, **parameters: object
) -> Explained:
    """Runs one method for one target."""
    return answers(model, image, [call(model, method, target, **parameters)], seed=seed)[0]
