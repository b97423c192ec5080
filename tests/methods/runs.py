"""Running a method as a worker does: through an engine, with its parameters bound."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.query import Answer
from gradserve_server.methods.explain import METHODS, Call, ExplainArguments, Explained, Target, explain
from gradserve_server.methods.explain.maps import Map
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

TOP = Target(rank=1)
# Parameters with which a method takes few rows.
SEGMENTS: dict[str, object] = {"samples": 25, "segments": 10, "compactness": 1000.0}
SMALL: dict[str, dict[str, object]] = {
    "smooth_grad": {"samples": 6},
    "integrated_gradients": {"steps": 6},
    "occlusion": {"patch": 0.5},
    "rise": {"samples": 6},
    "lime": SEGMENTS,
    "kernel_shap": SEGMENTS,
    "gradient_shap": {"samples": 6},
}


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


def finished(steps: Steps, network: Callable[[Tensor], Tensor]) -> Map:
    """What a method gives on `network` [n, 3, H, W] -> [n], whose answers are plain torch's."""
    query = next(steps)
    while True:
        images = query.images.clone().requires_grad_()
        value = network(images)
        grad = torch.autograd.grad(value.sum(), images)[0]
        try:
            query = steps.send(Answer(value.detach()[:, None], value.detach(), grad, (), ()))
        except StopIteration as stop:
            return stop.value
