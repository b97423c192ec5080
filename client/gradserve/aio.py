"""The client for asyncio: `gradserve.Client`, awaited."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack, overload

import grpc
import grpc.aio

from gradserve import attack_messages, channel, errors, influence_messages, messages
from gradserve.arguments import (
    AttackTargetLike,
    ImageLike,
    MethodLike,
    Options,
    ParameterValue,
    TargetLike,
)
from gradserve.attacks import Attack
from gradserve.cards import ModelCard
from gradserve.influence_messages import EmbedArguments, InfluenceArguments, SuspectsArguments
from gradserve.influences import Features, Influence, Suspects
from gradserve.makers import AsyncMakers
from gradserve.many import in_order_async
from gradserve.results import Explanation, Explanations, Prediction
from gradserve.v1 import models_pb2, models_pb2_grpc, service_pb2_grpc


class AsyncClient(AsyncMakers):
    """A connection to a gradserve server for asyncio; arguments and results are those of `Client`."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        tls: channel.Tls = None,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._metadata = channel.metadata(token)
        secret, options = channel.credentials(tls), channel.options(retries)
        self._channel = (
            grpc.aio.secure_channel(target, secret, options) if secret else grpc.aio.insecure_channel(target, options)
        )
        self._gradients = service_pb2_grpc.GradientServiceStub(self._channel)
        self._models = models_pb2_grpc.ModelServiceStub(self._channel)
        self._health = self._channel.unary_unary(channel.HEALTH, channel.same, channel.same)

    async def predict(
        self,
        image: ImageLike,
        *,
        model: str = "",
        top_k: int = 5,
        preprocess: str = "model_default",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Prediction:
        """The most probable classes of a picture."""
        request = await asyncio.to_thread(
            messages.predict_request, image, model=model, top_k=top_k, preprocess=preprocess, **options
        )
        return messages.prediction(await self._call(self._gradients.Predict, request, timeout))

    @overload
    async def explain(
        self, image: ImageLike, methods: MethodLike, *, target: TargetLike | None = ..., **others: Any
    ) -> Explanation: ...
    @overload
    async def explain(
        self, image: ImageLike, methods: MethodLike, *, target: list[Any], **others: Any
    ) -> Explanations: ...
    @overload
    async def explain(
        self, image: ImageLike, methods: list[Any], *, target: TargetLike | list[Any] | None = ..., **others: Any
    ) -> Explanations: ...
    async def explain(
        self,
        image: ImageLike,
        methods: MethodLike | list[Any],
        *,
        target: TargetLike | list[Any] | None = None,
        model: str = "",
        preprocess: str = "model_default",
        format: str = "float32",
        overlay: bool = False,
        priority: str = "interactive",
        precision: str = "auto",
        seed: int | None = None,
        time_budget: float | None = None,
        allow_partial: bool = False,
        alone: bool = False,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Explanation | Explanations:
        """The map of a method for a target, or with a list of methods or of targets all their maps; see `Client`."""
        request = await asyncio.to_thread(
            messages.explain_request,
            image,
            methods,
            target=target,
            model=model,
            preprocess=preprocess,
            format=format,
            overlay=overlay,
            shorthand=parameters,
            options=Options(
                priority=priority,
                precision=precision,
                seed=seed,
                time_budget=time_budget,
                allow_partial=allow_partial,
                alone=alone,
            ),
        )
        found = messages.explanations(request, await self._call(self._gradients.Explain, request, timeout))
        return found if isinstance(methods, list) or isinstance(target, list) else found[0]

    async def attack(
        self,
        image: ImageLike | None,
        method: MethodLike = "pgd",
        *,
        label: int | str | None = None,
        target: AttackTargetLike | None = None,
        eps: float | str | None = None,
        norm: str = "linf",
        loss: str | None = None,
        defence: MethodLike | None = None,
        adaptive: bool = False,
        eot: Mapping[str, ParameterValue] | bool = False,
        first_success: bool | None = None,
        trajectory: bool = False,
        perturbation: bool = False,
        maps: MethodLike | None = None,
        model: str = "",
        preprocess: str = "model_default",
        priority: str = "interactive",
        precision: str = "auto",
        seed: int | None = None,
        time_budget: float | None = None,
        allow_partial: bool = False,
        alone: bool = False,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Attack:
        """A picture changed a little so that the model errs, with its certificate; see `Client`."""
        request = await asyncio.to_thread(
            attack_messages.attack_request,
            image,
            method,
            label=label,
            target=target,
            eps=eps,
            norm=norm,
            loss=loss,
            defence=defence,
            adaptive=adaptive,
            eot=eot,
            first_success=first_success,
            trajectory=trajectory,
            perturbation=perturbation,
            maps=maps,
            model=model,
            preprocess=preprocess,
            shorthand=parameters,
            options=Options(
                priority=priority,
                precision=precision,
                seed=seed,
                time_budget=time_budget,
                allow_partial=allow_partial,
                alone=alone,
            ),
        )
        return attack_messages.attack_result(request, await self._call(self._gradients.Attack, request, timeout))

    async def influence(
        self,
        image: ImageLike,
        method: MethodLike | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[InfluenceArguments],
    ) -> Influence:
        """The training examples that most helped and most harmed a prediction; see `Client`."""
        request = await asyncio.to_thread(influence_messages.influence_request, image, method, **arguments)
        return influence_messages.influence_result(await self._call(self._gradients.Influence, request, timeout))

    async def suspects(self, *, timeout: float | None = None, **arguments: Unpack[SuspectsArguments]) -> Suspects:
        """Training examples whose labels are suspicious, most first.

        `order` is "rank_sum", "self_influence", "loss" or "disagreement".
        """
        request = influence_messages.suspects_request(**arguments)
        return influence_messages.suspects_result(await self._call(self._gradients.Suspects, request, timeout))

    async def embed(
        self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]
    ) -> Features:
        """The features of a layer; see `Client`."""
        request = await asyncio.to_thread(influence_messages.embed_request, image, **arguments)
        return influence_messages.embed_result(await self._call(self._gradients.Embed, request, timeout))

    def predict_many(
        self, images: Iterable[ImageLike], *, concurrency: int = 8, **arguments: Any
    ) -> AsyncIterator[Prediction]:
        """Predictions of many pictures in their order, with `predict`'s arguments; the first failure is raised."""
        return in_order_async(lambda image: self.predict(image, **arguments), images, concurrency)

    def explain_many(
        self, images: Iterable[ImageLike], methods: MethodLike | list[Any], *, concurrency: int = 8, **arguments: Any
    ) -> AsyncIterator[Any]:
        """Explanations of many pictures in their order, with `explain`'s arguments; the first failure is raised."""
        return in_order_async(lambda image: self.explain(image, methods, **arguments), images, concurrency)

    def attack_many(
        self, images: Iterable[ImageLike], method: MethodLike = "pgd", *, concurrency: int = 8, **arguments: Any
    ) -> AsyncIterator[Attack]:
        """Attacks on many pictures in their order, with `attack`'s arguments; the first failure is raised."""
        return in_order_async(lambda image: self.attack(image, method, **arguments), images, concurrency)

    async def models(self) -> list[ModelCard]:
        """The cards of all models that were loaded, without their layers; `model()` is the default one."""
        reply = await self._call(self._models.ListModels, models_pb2.ListModelsRequest(), None)
        return [messages.model_card(each) for each in reply.models]

    async def unavailable_models(self) -> dict[str, str]:
        """Why models of the server's configuration could not be loaded, by name."""
        reply = await self._call(self._models.ListModels, models_pb2.ListModelsRequest(), None)
        return {each.name: each.reason for each in reply.unavailable}

    async def default_model(self) -> str:
        """The name of the model that answers requests that name none, even if it could not be loaded."""
        reply = await self._call(self._models.ListModels, models_pb2.ListModelsRequest(), None)
        return str(reply.default_model)

    async def model(self, name: str = "") -> ModelCard:
        """One model's card with its layers; without a name that of the default model."""
        reply = await self._call(self._models.GetModel, models_pb2.GetModelRequest(name=name), None)
        return messages.model_card(reply)

    async def health(self, service: str = "") -> str:
        """The server's state: "SERVING" or "NOT_SERVING"."""
        try:
            return channel.health_state(await self._health(channel.health_request(service), timeout=self.timeout))
        except grpc.RpcError as failure:
            raise errors.from_call(failure) from None

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server is serving; DeadlineExceeded if it is not in time."""
        end = time.monotonic() + timeout
        state = "no answer"
        while (left := end - time.monotonic()) > 0:
            try:
                state = channel.health_state(await self._health(b"", timeout=left, wait_for_ready=True))
            except grpc.aio.AioRpcError as failure:
                state = str(failure.details())
            if state == "SERVING":
                return
            await asyncio.sleep(min(0.1, left))
        raise errors.not_ready(self.target, timeout, state)

    async def close(self) -> None:
        """Close the connection; calls that are still running are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        channel.check_size(request)
        try:
            return await method(request, timeout=self.timeout if timeout is None else timeout, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise errors.from_call(failure) from None
