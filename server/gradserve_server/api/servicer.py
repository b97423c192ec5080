"""The services: each RPC binds its request in a thread, runs its task in the pool, and encodes its reply."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message_factory import GetMessageClass

from gradserve.v1 import attack_pb2, dense_pb2, service_pb2, service_pb2_grpc

from ..config import LimitSettings
from ..metrics import Metrics
from ..models.served import ServedModels
from ..pool.pool import Pool
from ..pool.wire import Failure, Outcome, Preview, Task
from .admission.admission import CODEC_THREADS, Admission
from .admission.callers import Caller, Callers
from .admission.expectations import Expectations
from .admission.fair_threads import FairThreads
from .directions import DirectionStore
from .errors import RequestError, clipped, failure, hints, late, unavailable
from .pictures.decode_limits import counted_pixels
from .progress import with_progress
from .reply import is_partial
from .request import Bound, CallContext, least_prospect, time_budget
from .rpcs import RpcModule, attack, dense, explain, module_of
from .rpcs.certificate import attack_task, certificate_task, encode_picture, map_task
from .rpcs.explain_stream import stream_progress
from .telemetry.request_log import RequestLog, request_log
from .telemetry.spans import TaskSpans, span

MAX_LOGGED_NAME_BYTES = 100  # The most bytes of a request's model name that the log repeats.
# A partial answer may come this many seconds after its deadline, since a pass cannot be interrupted.
PARTIAL_GRACE_SECONDS = 1.0
RPCS = service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods
LOOKED_UP = {"Suspects", "Exemplars"}  # Those whose answers are read from an index.
T = TypeVar("T")
Report = Callable[[Preview], Awaitable[None]]


async def ignore_progress(preview: Preview) -> None:
    """Default progress callback: does nothing."""


class GradientService(service_pb2_grpc.GradientServiceServicer):
    """Answers every RPC by its module of `rpcs`; Attack and Dense have methods of their own here."""

    def __init__(
        self,
        pool: Pool,
        limits: LimitSettings,
        metrics: Metrics,
        admission: Admission,
        callers: Callers,
        directions: DirectionStore | None = None,
    ) -> None:
        """`directions`: None keeps none."""
        self._pool, self._limits, self._metrics, self._admission = pool, limits, metrics, admission
        self._callers, self._directions = callers, directions or DirectionStore(None, limits)
        self._decoders = FairThreads(CODEC_THREADS, "decoder")
        # Threads of their own, so that answers do not wait until the pictures of other requests are decoded.
        self._encoders = ThreadPoolExecutor(CODEC_THREADS, "encoder")
        self._expected = Expectations()
        for rpc in [each for each in RPCS if each.name not in vars(GradientService)]:
            answer = partial(self._stream, GetMessageClass(rpc.output_type)) if rpc.server_streaming else self._answer
            handler = self._look_up if rpc.name in LOOKED_UP else answer
            setattr(self, rpc.name, partial(handler, module_of(rpc.name)))

    async def _answer(self, rpc: RpcModule, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Answers an RPC that is one task by its reply."""
        async with self._accepted(rpc, request, context) as bound:
            return await self._answered(rpc, request, bound)

    async def _answered(self, rpc: RpcModule, request: Any, bound: Bound) -> Any:
        """The reply of a request that is one task."""
        outcome = await self.outcome(bound.task)
        self.count(bound, outcome)
        with span("encode"):
            return await self._reply(rpc, request, bound, outcome)

    async def _reply(self, rpc: RpcModule, request: Any, bound: Bound, outcome: Outcome) -> Any:
        """The reply: made here if it is small, in the threads that callers share if it is much work, else in others."""
        if bound.small_reply:
            return rpc.reply(request, bound, outcome)
        if bound.reply_gflop:
            return await self._decoders.run(request_log.get().caller, rpc.reply, request, bound, outcome)
        return await self.in_thread(rpc.reply, request, bound, outcome)

    async def _stream(self, event: type[Any], rpc: RpcModule, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Answers an RPC that is one task by a stream of events: its progress, then its reply."""

        async def report(preview: Preview) -> None:
            await context.write(event(progress=await self.in_thread(stream_progress, request, bound, preview)))

        async with self._accepted(rpc, request, context) as bound:
            outcome = await self.outcome(with_progress(bound.task), report)
            self.count(bound, outcome)
            with span("encode"):
                reply = event(result=await self._reply(rpc, request, bound, outcome))
        with span("encode"):
            await context.write(reply)

    async def Attack(
        self, request: attack_pb2.AttackRequest, context: grpc.aio.ServicerContext
    ) -> attack_pb2.AttackResponse:
        """An adversarial picture; the certificate, and the maps, are tasks of their own after it."""
        with self._pool.using() as models:  # All of its tasks run on workers that have the same weights.
            return await self._attack(await self.bind(attack.bind, request, context, models), request)

    async def _attack(self, bound: Bound, request: attack_pb2.AttackRequest) -> attack_pb2.AttackResponse:
        with span("attack"):
            attacked = await self.outcome(attack_task(self._expected.priced(bound.task)))
        if attacked.result.partial:
            self._metrics.partial.inc()
        with span("certificate"):
            with span("encode"):
                picture = await self.in_thread(encode_picture, attacked.result)
            certified = await self.outcome(certificate_task(bound.task, attacked.result, picture.pixels))
        self._expected.learn(bound.task, attacked, certified)
        pictures = {"before": bound.task.image, "after": picture.pixels} if bound.maps else {}
        tasks = [map_task(bound, pixels, which) for which, pixels in pictures.items()]
        self._charge(request_log.get().caller, sum(task.cost for task in tasks))
        maps = list[Outcome]()
        for task in tasks:
            with span("map"):
                maps.append(await self.outcome(task))
        for method in bound.methods:
            self._metrics.rows.labels(method).inc(attacked.rows + certified.rows)
        with span("encode"):
            reply = await self.in_thread(attack.reply, request, bound, attacked, picture, certified, maps)
        self._metrics.verdict.labels(attack_pb2.Verdict.Name(reply.certificate.verdict)[8:].lower()).inc()
        return reply

    async def Dense(
        self, request: dense_pb2.DenseRequest, context: grpc.aio.ServicerContext
    ) -> dense_pb2.DenseResponse:
        """Maps of named classes. The first request for a model has its head tried before it, as a task of its own."""
        with self._pool.using() as models:
            bound = await self.bind(dense.bind, request, context, models)
            if dense.is_trial(bound):
                with span("trial"):
                    models.dense_heads[bound.card.name] = (await self.outcome(bound.task)).result
                bound = await self.bind(dense.bind, request, context, models, again=True)
            reply: dense_pb2.DenseResponse = await self._answered(dense, request, bound)
            return reply

    async def _look_up(self, rpc: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Answers an RPC whose answer is in an index already, so that no worker is needed."""
        entry = self._log_model(request)
        checked = rpc.bind(request, self._callers.models(entry.caller, self._pool.cards, request.model))
        entry.model = checked.card.name
        with span("encode"):
            return await self.in_thread(rpc.reply, request, checked, entry.id)

    def count(self, bound: Bound, outcome: Outcome) -> None:
        """Counts the rows, for Explain by method, and the answers that have less than was asked for."""
        word = bound.task.rpc
        rows = explain.rows_by_method(bound, outcome) if word == "explain" else {word: outcome.rows}
        for label, count in rows.items():
            self._metrics.rows.labels(label).inc(count)
        if is_partial(outcome.result):
            self._metrics.partial.inc()

    async def bind(
        self,
        bind: Callable[[Any, CallContext], Bound],
        request: Any,
        context: grpc.aio.ServicerContext,
        served: ServedModels,
        *,
        again: bool = False,
    ) -> Bound:
        """The request with its picture decoded, in a thread. Raises RequestError, also where it would wait too long.

        `again`: whether it was let in already, so that what it has used by now does not speak against it.
        """
        entry = self._log_model(request)
        if not again:
            self._callers.check_rate(entry.caller)
        models = self._callers.models(entry.caller, served, request.model)
        left = time_budget(request.options, context.time_remaining())
        busy = self._admission.busy(left)
        if busy and left > 0 and not request.options.allow_partial:
            self._admission.check_least(least_prospect(request, served, entry.caller), left)
        directions = self._directions.of(self._callers.owner(entry.caller))
        when = entry.arrived, entry.deadline
        at = CallContext(entry.id, *when, models, self._limits, entry.caller, directions=directions)
        priced = self._price(bind, request, at) if busy else None
        if priced is not None:
            self._admission.check(priced)
        decoding = self._admission.decoding(entry.caller, type(request).__name__, request.model, priced)
        with span("decode"), decoding:
            bound, seconds = await self._decoders.run(entry.caller, _bound, bind, request, at)
        entry.model = bound.card.name
        entry.methods = ",".join(bound.methods)
        entry.size = "{1}x{0}".format(*bound.task.image.shape[-3:-1])
        self._admission.note(type(request).__name__, request.model, self._expected.priced(bound.task), seconds)
        if busy and priced is None:
            self._admission.check(self._expected.priced(bound.task))
        else:
            self._admission.check_alone(bound.task)
        self._charge(entry.caller, bound.task.cost + bound.reply_gflop)
        return bound

    @asynccontextmanager
    async def _accepted(self, rpc: RpcModule, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Bound]:
        """The bound request, with the trial of its methods where one is wanted and there is time to spare."""
        with self._pool.using() as models:
            bound = await self.bind(rpc.bind, request, context, models)
            with explain.with_trial(request, bound, self._admission.has_spare_time) as tried:
                if tried is not bound:
                    self._charge(request_log.get().caller, tried.task.cost - bound.task.cost)
                yield tried

    def _charge(self, caller: Caller, gflop: float) -> None:
        """Counts work that is accepted against the caller's rate."""
        self._callers.charge(caller, gflop)
        if self._callers.need_tokens:
            self._metrics.caller_cost.labels(caller.name).inc(gflop)

    def _price(self, bind: Callable[[Any, CallContext], Bound], request: Any, at: CallContext) -> Task | None:
        """The request's task without its pictures, or None where these are needed or something is wrong."""
        try:
            with hints(0):
                return self._expected.priced(bind(request, replace(at, decode=False)).task)
        except RequestError as error:
            if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return None  # Decoding the picture may find more to tell.

    def _log_model(self, request: Any) -> RequestLog:
        """The request's log entry, with the model's name as it was sent in case the request is refused."""
        if not self._pool.cards:
            raise unavailable("the server is starting")
        entry = request_log.get()
        entry.model = clipped(request.model, MAX_LOGGED_NAME_BYTES)
        name = request.model or self._pool.cards.default
        entry.served_model = name if name in self._pool.cards else ""
        return entry

    async def outcome(self, task: Task, report: Report = ignore_progress) -> Outcome:
        """The task's outcome, after its reports; raises RequestError for a failure, and when the time is up."""
        entry = request_log.get()
        with TaskSpans(task) as spans:
            outcome = spans.outcome = await self._end_of(spans.task, report)
        entry.queue_seconds = entry.queue_seconds or outcome.queue_seconds
        entry.rows, entry.pass_seconds = entry.rows + outcome.rows, entry.pass_seconds + outcome.compute_seconds
        self._metrics.queue.labels(task.model).observe(outcome.queue_seconds)
        if outcome.failure is not None:
            raise failure(outcome.failure, task)
        return outcome

    async def _end_of(self, task: Task, report: Report) -> Outcome:
        """The task's outcome, which may be a failure, after its reports; raises RequestError when the time is up."""
        time_limit = task.deadline + (PARTIAL_GRACE_SECONDS if task.allow_partial else 0.0)
        try:
            async with aclosing(self._pool.stream(task)) as stream:
                while True:
                    async with asyncio.timeout(None if time_limit == float("inf") else time_limit - time.monotonic()):
                        outcome = await anext(stream)
                    if isinstance(outcome, Outcome):
                        return outcome
                    await report(outcome)
        except TimeoutError as error:
            raise failure(Failure("deadline", ""), task) from error

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """What the function returns, in one of the threads that encode answers."""
        return await asyncio.get_running_loop().run_in_executor(self._encoders, function, *args)


def _bound(bind: Callable[[Any, CallContext], Bound], request: Any, at: CallContext) -> tuple[Bound, float]:
    """The request with its picture decoded, and the seconds that this took. Raises RequestError."""
    began = time.monotonic()
    if at.remaining is not None and began >= at.arrived + at.remaining:
        raise late()
    with hints(), counted_pixels():
        return bind(request, at), time.monotonic() - began
