"""The services: each RPC binds its request in a thread, runs its task in the pool, encodes its reply in a thread."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc

from gradserve.v1 import (
    attack_pb2,
    explain_pb2,
    influence_pb2,
    maximize_pb2,
    models_pb2,
    models_pb2_grpc,
    predict_pb2,
    service_pb2_grpc,
    stylize_pb2,
)

from ..config import LimitSettings, cores
from ..metrics import Metrics
from ..pool.pool import Full, Pool
from ..pool.wire import Outcome, Preview, Task
from .errors import RequestError, clipped, failure, unavailable
from .expectations import Expectations
from .interceptor import RequestLog, request_facts
from .progress import progress, with_progress
from .reply import explain_reply, model_reply, predict_reply
from .request import Bound, CallContext, bind_explain, bind_predict, model_card
from .rpcs.attack import attack_task, bind_attack, certificate_task, map_task
from .rpcs.certificate import attack_reply, encode_picture
from .rpcs.influence import bind_embed, bind_influence, bind_suspects
from .rpcs.influence_reply import embed_reply, influence_reply, suspects_reply
from .rpcs.maximize import bind_maximize, maximize_reply
from .rpcs.stylize import bind_stylize, stylize_reply

MAX_LOGGED_NAME_BYTES = 100  # bytes of a model's name as it was sent
PARTIAL_GRACE_SECONDS = (
    1.0  # seconds beyond its time that a partial answer is waited for, since passes cannot be interrupted
)
T = TypeVar("T")
Report = Callable[[Preview], Awaitable[None]]


async def ignore_progress(told: Preview) -> None:
    """Default progress callback: does nothing."""


class GradientService(service_pb2_grpc.GradientServiceServicer):
    """Predict, Explain, Attack, Maximize, Stylize, Influence, Suspects, Embed."""

    def __init__(self, pool: Pool, limits: LimitSettings, metrics: Metrics) -> None:
        self._pool, self._limits, self._metrics = pool, limits, metrics
        self._threads = ThreadPoolExecutor(max(2, cores()), "codec")
        self._expected = Expectations()
        self._in_flight = 0

    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """The most probable classes."""
        with self._admitted("predict"):
            bound = await self._bind(bind_predict, request, context)
            outcome = await self._outcome(bound.task)
            self._metrics.rows.labels("predict").inc(outcome.rows)
            return await self._in_thread(predict_reply, bound, outcome)

    async def Explain(
        self, request: explain_pb2.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> explain_pb2.ExplainResponse:
        """Maps of several methods for several targets."""
        with self._admitted("explain"):
            bound = await self._bind(bind_explain, request, context)
            outcome = await self._outcome(bound.task)
            for call, answer in zip(bound.calls, outcome.result, strict=True):
                self._metrics.rows.labels(call.method).inc(answer.done)
            if any(answer.done < answer.asked for answer in outcome.result):
                self._metrics.partial.inc()
            return await self._in_thread(explain_reply, bound, outcome, request)

    async def Attack(
        self, request: attack_pb2.AttackRequest, context: grpc.aio.ServicerContext
    ) -> attack_pb2.AttackResponse:
        """An adversarial picture; the certificate, and the maps, are tasks of their own after it."""
        with self._admitted("attack"):
            bound = await self._bind(bind_attack, request, context)
            attack = await self._outcome(attack_task(self._expected.priced(bound.task)))
            if attack.result.partial:
                self._metrics.partial.inc()
            picture = await self._in_thread(encode_picture, attack.result)
            certificate = await self._outcome(certificate_task(bound.task, attack.result, picture.pixels))
            self._expected.learn(bound.task, attack, certificate)
            pictures = {"before": bound.task.image, "after": picture.pixels} if bound.calls else {}
            tasks = [map_task(bound.task, bound.calls, pixels, which) for which, pixels in pictures.items()]
            maps = [await self._outcome(task) for task in tasks]
            for method in bound.methods:
                self._metrics.rows.labels(method).inc(attack.rows + certificate.rows)
            reply = await self._in_thread(attack_reply, request, bound, attack, picture, certificate, maps)
            self._metrics.verdict.labels(attack_pb2.Verdict.Name(reply.certificate.verdict)[8:].lower()).inc()
            return reply

    async def Maximize(
        self, request: maximize_pb2.MaximizeRequest, context: grpc.aio.ServicerContext
    ) -> maximize_pb2.MaximizeResponse:
        """Pictures that goals are maximal on."""
        with self._admitted("maximize"):
            bound = await self._bind(bind_maximize, request, context)
            return await self._made("maximize", bound, bound.task, maximize_reply)

    async def StreamMaximize(self, request: maximize_pb2.MaximizeRequest, context: grpc.aio.ServicerContext) -> None:
        """The same with progress."""

        async def report(told: Preview) -> None:
            await context.write(maximize_pb2.MaximizeEvent(progress=await self._in_thread(progress, told)))

        with self._admitted("maximize"):
            bound = await self._bind(bind_maximize, request, context)
            reply = await self._made("maximize", bound, with_progress(bound.task), maximize_reply, report)
            await context.write(maximize_pb2.MaximizeEvent(result=reply))

    async def Stylize(
        self, request: stylize_pb2.StylizeRequest, context: grpc.aio.ServicerContext
    ) -> stylize_pb2.StylizeResponse:
        """A picture with the content of one and the style of others."""
        with self._admitted("stylize"):
            bound = await self._bind(bind_stylize, request, context)
            return await self._made("stylize", bound, bound.task, stylize_reply)

    async def StreamStylize(self, request: stylize_pb2.StylizeRequest, context: grpc.aio.ServicerContext) -> None:
        """The same with progress."""

        async def report(told: Preview) -> None:
            await context.write(stylize_pb2.StylizeEvent(progress=await self._in_thread(progress, told)))

        with self._admitted("stylize"):
            bound = await self._bind(bind_stylize, request, context)
            reply = await self._made("stylize", bound, with_progress(bound.task), stylize_reply, report)
            await context.write(stylize_pb2.StylizeEvent(result=reply))

    async def _made(
        self,
        rpc: str,
        bound: Bound,
        task: Task,
        encode: Callable[[Bound, Outcome], T],
        report: Report = ignore_progress,
    ) -> T:
        """The reply for pictures that take many steps."""
        outcome = await self._outcome(task, report)
        self._metrics.rows.labels(rpc).inc(outcome.rows)
        reply: Any = await self._in_thread(encode, bound, outcome)
        if reply.done < reply.asked:
            self._metrics.partial.inc()
        return reply  # type: ignore[no-any-return]

    async def Influence(
        self, request: influence_pb2.InfluenceRequest, context: grpc.aio.ServicerContext
    ) -> influence_pb2.InfluenceResponse:
        """The training examples behind a prediction."""
        with self._admitted("influence"):
            bound = await self._bind(bind_influence, request, context)
            outcome = await self._outcome(bound.task)
            self._metrics.rows.labels("influence").inc(outcome.rows)
            return await self._in_thread(influence_reply, request, bound, outcome)

    async def Suspects(
        self, request: influence_pb2.SuspectsRequest, context: grpc.aio.ServicerContext
    ) -> influence_pb2.SuspectsResponse:
        """The most suspicious labels; they are in the index already, so that no worker is needed."""
        with self._admitted("suspects"):
            facts = self._asked(request)
            card, index, order, top = bind_suspects(request, self._pool.cards)
            facts.model = card.name
            return await self._in_thread(suspects_reply, request, card, index, order, top, facts.id)

    async def Embed(
        self, request: influence_pb2.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> influence_pb2.EmbedResponse:
        """The features of a layer."""
        with self._admitted("embed"):
            bound = await self._bind(bind_embed, request, context)
            outcome = await self._outcome(bound.task)
            self._metrics.rows.labels("embed").inc(outcome.rows)
            return await self._in_thread(embed_reply, bound, outcome)

    @contextmanager
    def _admitted(self, method: str) -> Any:
        """Counts a request in and out; refuses it where too many are in."""
        if self._in_flight >= self._limits.max_in_flight:
            self._metrics.rejected.labels("in_flight").inc()
            raise Full(1.0)
        self._in_flight += 1
        try:
            with self._metrics.in_flight.labels(method).track_inprogress():
                yield
        finally:
            self._in_flight -= 1

    async def _bind(
        self, bind: Callable[[Any, CallContext], Bound], request: Any, context: grpc.aio.ServicerContext
    ) -> Bound:
        facts = self._asked(request)
        at = CallContext(facts.id, facts.arrived, context.time_remaining(), self._pool.cards, self._limits)
        bound = await self._in_thread(bind, request, at)
        facts.model = bound.card.name
        facts.methods = ",".join(bound.methods)
        return bound

    def _asked(self, request: Any) -> RequestLog:
        """The request's facts with the model as it was sent, which is what the log says if it is refused."""
        if not self._pool.cards:
            raise unavailable("the server is starting")
        facts = request_facts.get()
        facts.model = clipped(request.model, MAX_LOGGED_NAME_BYTES)
        return facts

    async def _outcome(self, task: Task, report: Report = ignore_progress) -> Outcome:
        """The task's outcome, after its reports; raises RequestError for a failure, and when the time is up."""
        facts = request_facts.get()
        late = task.deadline + (PARTIAL_GRACE_SECONDS if task.allow_partial else 0.0)
        try:
            async with aclosing(self._pool.stream(task)) as stream:
                while True:
                    async with asyncio.timeout(None if late == float("inf") else late - time.monotonic()):
                        outcome = await anext(stream)
                    if isinstance(outcome, Outcome):
                        break
                    await report(outcome)
        except TimeoutError as error:
            text = "the time budget ran out before the answer was complete; allow more time, or allow_partial"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_UP", text) from error
        except Full:
            self._metrics.rejected.labels("queue").inc()
            raise
        facts.rows += outcome.rows
        self._metrics.queue.observe(outcome.queue_seconds)
        if outcome.failure is not None:
            raise failure(outcome.failure)
        return outcome

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """ListModels and GetModel."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """All cards, without layers, and the models that could not be loaded."""
        if not self._pool.cards:
            raise unavailable("the server is starting")
        models = [model_reply(card, layers=False) for card in self._pool.cards.values()]
        reasons = self._pool.cards.unavailable.items()
        failed = [models_pb2.UnavailableModel(name=name, reason=reason) for name, reason in reasons]
        default = self._pool.cards.default
        return models_pb2.ListModelsResponse(models=models, unavailable=failed, default_model=default)

    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.Model:
        """One card with its layers."""
        if not self._pool.cards:
            raise unavailable("the server is starting")
        return model_reply(model_card(request.name, self._pool.cards), layers=True)
