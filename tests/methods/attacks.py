"""Attacks as a worker runs them, and one at a time with everything that they ask in view."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, MethodContext
from gradserve_server.engine.query import Part, Query
from gradserve_server.methods.attack import METHODS, AttackArguments, Attacked, Ball, Goal, GoalSpec, attack
from gradserve_server.methods.attack.input_transform import InputTransform
from gradserve_server.methods.attack.oracle import Oracle
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

DEFAULT = Ball("linf", 8 / 255)


def whole(images: Tensor) -> Tensor:
    """The images in whole levels, as a request brings them."""
    return ((images * 255).round() / 255).contiguous()


def plan(model: Prepared, method: str, goal_spec: GoalSpec, ball: Ball, facts: dict[str, object]) -> AttackArguments:
    """A plan with every parameter resolved; `stop`, `adaptive` and `transform` are the plan's own."""
    own = {name: facts.pop(name) for name in ("stop", "adaptive", "transform") if name in facts}
    return replace(
        AttackArguments(method, bind(METHODS[method].function, facts), goal_spec, ball, model.card.std), **own
    )


def attacked(
    models: Prepared | dict[str, Prepared],
    images: Tensor,
    method: str,
    goal_spec: GoalSpec = GoalSpec(),  # noqa: B008
    ball: Ball = DEFAULT,
    seed: int = 0,
    **facts: object,
) -> list[Attacked]:
    """Attacks all images side by side in one engine; raises what ended one."""
    models = models if isinstance(models, dict) else {"model": models}
    engine, wanted = Engine(models), plan(models["model"], method, goal_spec, ball, facts)
    for i, image in enumerate(images.split(1)):
        engine.submit(Job(f"{i}", "model", lambda job, x=image: attack(job, x, wanted), seed=seed))
    ended = {}
    while not engine.idle:
        ended |= {event.job.id: event for event in engine.step() if isinstance(event, Ended)}
    for event in ended.values():
        if event.error is not None:
            raise event.error
    return [ended[f"{i}"].result for i in range(len(images))]


@dataclass(frozen=True)
class Course:
    """Everything that a method asked, and the oracle that it asked."""

    queries: list[Query]
    oracle: Oracle
    run: MethodContext


def course(
    model: Prepared, x: Tensor, method: str, goal: Goal, ball: Ball = DEFAULT, seed: int = 0, **facts: object
) -> Course:
    """Drives one method by hand: every query is a pass of its own."""
    own = {name: facts.pop(name) for name in ("stop", "transform") if name in facts}
    run = MethodContext(seed)
    oracle = Oracle(x, goal, ball, run, model.std, own.get("transform", InputTransform()), bool(own.get("stop", False)))
    steps = METHODS[method].function(x, oracle, ball, run, **bind(METHODS[method].function, facts))
    queries: list[Query] = []
    answer: object = None
    try:
        while True:
            request = steps.send(answer)
            together = [request] if isinstance(request, Query) else request
            queries += together
            answers = [differentiate(model, [Part(query, range(len(query.images)))])[0] for query in together]
            answer = answers[0] if isinstance(request, Query) else answers
    except StopIteration:
        return Course(queries, oracle, run)


def label_of(model: Prepared, x: Tensor) -> int:
    """The predicted class of one image."""
    with torch.no_grad():
        return int(model(x.contiguous(memory_format=torch.channels_last)).argmax())
