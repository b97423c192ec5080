"""What the engine's loop costs on top of torch, without a network: the same requests by jobs and by plain loops.

`python -m tests.bench.loop --help`
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Query
from gradserve_server.engine.take import Key
from gradserve_server.methods.explain import Call, ExplainArguments, Target, explain
from gradserve_server.methods.predict import predict
from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import report
from .peer import ALPHA, EPS, NOISE, SAMPLES, STEPS
from .report import Spread, shown

MODELS = ("resnet18", "cifar10")
MIX = {"gradient": 5, "smooth_grad": 2, "ascent": 2, "predict": 1}
GRADIENT = {"gradient": 1}
SERVED_MIX = {"gradient": 5, "smooth_grad": 2, "attack": 2, "predict": 1}
IN_FLIGHT = 16


@dataclass(frozen=True)
class Loop:
    """CPU seconds of the same requests by the engine and by plain loops; `fill` is the mean share of full batches."""

    model: str
    mix: str
    precision: str
    rows_per_pass: int
    requests: int
    raw_ms_per_request: Spread
    engine_ms_per_request: Spread
    ratio: Spread
    fill_queued: float
    fill_16_in_flight: float


def main(
    model: Annotated[list[str], typer.Option(help="Repeat for several.")] = list(MODELS),  # noqa: B006  typer copies it
    precision: Annotated[str, typer.Option(help="exact, balanced or fast.")] = "fast",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of engine and raw loop in turn.")] = 5,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """The engine alone on gradients and on a mix of methods, against plain torch loops over full batches.

    The mix: 50 % gradient, 20 % SmoothGrad of 16, 20 % ten steps of sign ascent, 10 % Predict. Both sides have the
    same network, precision and batch, one thread, and do the methods' own arithmetic.
    """
    torch.set_num_threads(1)
    found = []
    for name in model:
        prepared = prepare(EMBEDDED.get(name) or ModelSpec(name=name, weights="random"), torch.device("cpu"))
        for mix in (GRADIENT, MIX):
            found.append(measure(prepared, mix, precision, rounds))  # type: ignore[arg-type]
    report.deliver({"loop": [asdict(each) for each in found]}, [table(found)], as_json, out)


def measure(model: Prepared, mix: dict[str, int], precision: Precision, rounds: int) -> Loop:
    """All requests at once, in turn with the raw loops; then once with 16 in flight for the fill."""
    card = model.card
    cap = Engine({card.name: model}).limit(Key(card.name, precision, card.height, card.width, "image"))
    requests = [method for method, share in mix.items() for _ in range(share * cap)]
    np.random.default_rng(0).shuffle(requests)
    images = torch.rand(len(requests), 3, card.height, card.width, generator=torch.Generator().manual_seed(0))
    ours, theirs, fills = [], [], []
    for i in track(range(-1, rounds), f"{card.name} {precision}", console=report.console, transient=True):
        begin = time.thread_time()
        fill = by_engine(model, requests, images, precision, len(requests))
        middle = time.thread_time()
        raw(model, precision, requests, images, cap)
        end = time.thread_time()
        if i >= 0:  # The first round only warms up.
            ours.append(1000 * (middle - begin) / len(requests))
            theirs.append(1000 * (end - middle) / len(requests))
            fills.append(fill / cap)
    few = by_engine(model, requests, images, precision, IN_FLIGHT)
    return Loop(
        model=card.name,
        mix=" ".join(f"{method}:{share}" for method, share in mix.items()),
        precision=precision,
        rows_per_pass=cap,
        requests=len(requests),
        raw_ms_per_request=Spread.of(theirs),
        engine_ms_per_request=Spread.of(ours),
        ratio=Spread.of([b / a for a, b in zip(ours, theirs, strict=True)]),
        fill_queued=float(np.median(fills)),
        fill_16_in_flight=few / cap,
    )


def by_engine(model: Prepared, requests: Sequence[str], images: Tensor, precision: Precision, in_flight: int) -> float:
    """Runs one job for each request, so many at a time; the mean rows of its passes with a backward."""
    name = model.card.name
    engine = Engine({name: model})
    waiting = [
        job(i, method, image, name, precision) for i, (method, image) in enumerate(zip(requests, images, strict=True))
    ]
    waiting.reverse()
    answered = 0
    while answered < len(requests):
        while waiting and engine.jobs < in_flight:
            engine.submit(waiting.pop())
        for event in engine.step():
            if isinstance(event, Ended):
                assert event.error is None, event.error
                answered += 1
    backward = [step.rows for step in engine.passes if step.gflop > 1.5 * step.rows * model.card.gflop]
    return float(np.mean(backward))


def job(i: int, method: str, image: Tensor, name: str, precision: Precision) -> Job:
    """A job as the worker begins it."""
    label, x = i % 10, image[None]

    def begin(job: Job) -> Steps:
        if method == "predict":
            return predict(job, x)
        if method == "ascent":
            return ascent(x, label)
        parameters = {"samples": SAMPLES, "noise": NOISE} if method == "smooth_grad" else {}
        return explain(job, x, ExplainArguments((Call(method, parameters, Target(label=label)),)))

    return Job(str(i), name, begin, precision)


def ascent(x: Tensor, label: int) -> Steps:
    """Ten steps away from a class, as FGSM repeated; [1, 3, H, W] -> the same."""
    low, high = (x - EPS).clamp_min(0), (x + EPS).clamp_max(1)
    at = x
    for _ in range(STEPS):
        grad = (yield Query(at, logit(label), "image")).image_grad
        at = (at - ALPHA * grad.sign()).clamp(low, high)
    return at.numpy()


def raw(model: Prepared, precision: Precision, requests: Sequence[str], images: Tensor, cap: int) -> None:
    """The same requests, batched by hand: each method's rows in full batches, nothing between them."""
    by_method: dict[str, list[int]] = {}
    for i, method in enumerate(requests):
        by_method.setdefault(method, []).append(i)
    loops: dict[str, Callable[[Prepared, Tensor, Tensor], None]] = {
        "gradient": raw_gradient,
        "smooth_grad": raw_smooth_grad,
        "ascent": raw_ascent,
        "attack": partial(raw_attack, exact=model),
        "predict": raw_predict,
    }
    for method, rows in by_method.items():
        for part in batches(rows, 1 if method == "smooth_grad" else cap):
            loops[method](model.at(precision), images[part], torch.tensor([i % 10 for i in part]))


def batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """In parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def gradient(model: Prepared, x: Tensor, labels: Tensor) -> Tensor:
    """Of each row's class by its pixels."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    return torch.autograd.grad(model(x).gather(1, labels[:, None]).sum(), x)[0]


def raw_gradient(model: Prepared, x: Tensor, labels: Tensor) -> None:
    """Maps [n, H, W]."""
    gradient(model, x, labels).abs().sum(1).numpy()


def raw_smooth_grad(model: Prepared, x: Tensor, labels: Tensor) -> None:
    """One image's map: the value on the clean image, then the noisy copies in full batches."""
    with torch.no_grad():
        float(model(x.contiguous(memory_format=torch.channels_last))[0, labels[0]])
    spread, total = NOISE * (x.max() - x.min()), torch.zeros_like(x[0])
    cap = cap_of(model)
    for part in batches(range(SAMPLES), cap):
        noisy = torch.stack([x[0] + spread * torch.randn(x.shape[1:]) for _ in part])
        total += gradient(model, noisy, labels.expand(len(part))).sum(0)
    (total / SAMPLES).abs().sum(0).numpy()


def raw_ascent(model: Prepared, x: Tensor, labels: Tensor) -> None:
    """All rows together, step by step."""
    low, high = (x - EPS).clamp_min(0), (x + EPS).clamp_max(1)
    at = x
    for _ in range(STEPS):
        at = (at - ALPHA * gradient(model, at, labels).sign()).clamp(low, high)
    at.numpy()


def raw_attack(model: Prepared, x: Tensor, labels: Tensor, exact: Prepared) -> None:
    """The same with what Attack adds: a look before and one after, and the certificate's, which are alone and exact."""
    raw_ascent(model, x, labels)
    for _ in range(2):
        raw_predict(model, x, labels)
        for row in x.split(1):
            raw_predict(exact, row, labels)


def raw_predict(model: Prepared, x: Tensor, labels: Tensor) -> None:
    """Logits."""
    with torch.no_grad():
        model(x.contiguous(memory_format=torch.channels_last)).numpy()


def cap_of(model: Prepared) -> int:
    """The engine's own."""
    return Engine({"m": model}).limit(Key("m", model.precision, model.card.height, model.card.width, "image"))


def table(found: Sequence[Loop]) -> Table:
    """Medians, with the range of the rounds in brackets."""
    columns = ["rows", "requests", "raw CPU ms", "engine CPU ms", "raw / engine", "fill", "fill, 16 in flight"]
    made = report.table(
        "The engine alone against plain loops; CPU of one thread, by request", ["model", "mix"], columns
    )
    for each in found:
        times = [f"{spread.median:.1f}" for spread in (each.raw_ms_per_request, each.engine_ms_per_request)]
        fills = [f"{each.fill_queued:.2f}", f"{each.fill_16_in_flight:.2f}"]
        made.add_row(
            f"{each.model} {each.precision}",
            each.mix,
            str(each.rows_per_pass),
            str(each.requests),
            *times,
            shown(each.ratio, 3),
            *fills,
        )
    return made


if __name__ == "__main__":
    typer.run(main)
