"""The client for asyncio: `gradserve.Client`, awaited."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Unpack, overload

from gradserve.arguments import (
    AttackTargetLike,
    ImageLike,
    MethodLike,
    Options,
    ParameterValue,
    TargetLike,
)
from gradserve.makers import AsyncMakers
from gradserve.messages import attack as attack_messages
from gradserve.messages import common
from gradserve.messages import influence as influence_messages
from gradserve.messages.influence import EmbedArguments, InfluenceArguments, SuspectsArguments
from gradserve.ordered import in_order_async
from gradserve.results.attack import Attack
from gradserve.results.common import Explanation, Explanations, Prediction
from gradserve.results.influence import Features, Influence, Suspects
from gradserve.results.models import ModelCard
from gradserve.v1 import models_pb2


class AsyncClient(AsyncMakers):
    """A connection to a gradserve server for asyncio; arguments and results are those of `Client`.

    It may be made anywhere and used in several event loops: each has a channel of its own, from its first call on until
    `close` or the end of its `async with`.
    """

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
            common.predict_request, image, model=model, top_k=top_k, preprocess=preprocess, **options
        )
        return common.prediction(await self._call(self._line.gradients.Predict, request, timeout))

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
        quick_decode: bool = False,
        alone: bool = False,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Explanation | Explanations:
        """The map of a method for a target, or with a list of methods or of targets all their maps; see `Client`."""
        request = await asyncio.to_thread(
            common.explain_request,
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
                quick_decode=quick_decode,
                alone=alone,
            ),
        )
        found = common.explanations(request, await self._call(self._line.gradients.Explain, request, timeout))
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
        quick_decode: bool = False,
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
                quick_decode=quick_decode,
                alone=alone,
            ),
        )
        return attack_messages.attack_result(request, await self._call(self._line.gradients.Attack, request, timeout))

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
        return influence_messages.influence_result(await self._call(self._line.gradients.Influence, request, timeout))

    async def suspects(self, *, timeout: float | None = None, **arguments: Unpack[SuspectsArguments]) -> Suspects:
        """Training examples whose labels are suspicious, most first.

        `order` is "rank_sum", "self_influence", "loss" or "disagreement".
        """
        request = influence_messages.suspects_request(**arguments)
        return influence_messages.suspects_result(await self._call(self._line.gradients.Suspects, request, timeout))

    async def embed(
        self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]
    ) -> Features:
        """The features of a layer; see `Client`."""
        request = await asyncio.to_thread(influence_messages.embed_request, image, **arguments)
        return influence_messages.embed_result(await self._call(self._line.gradients.Embed, request, timeout))

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
        reply = await self._call(self._line.models.ListModels, models_pb2.ListModelsRequest(), None)
        return [common.model_card(each) for each in reply.models]

    async def unavailable_models(self) -> dict[str, str]:
        """Why models of the server's configuration could not be loaded, by name."""
        reply = await self._call(self._line.models.ListModels, models_pb2.ListModelsRequest(), None)
        return {each.name: each.reason for each in reply.unavailable}

    async def default_model(self) -> str:
        """The name of the model that answers requests that name none, even if it could not be loaded."""
        reply = await self._call(self._line.models.ListModels, models_pb2.ListModelsRequest(), None)
        return str(reply.default_model)

    async def model(self, name: str = "") -> ModelCard:
        """One model's card with its layers; without a name that of the default model."""
        reply = await self._call(self._line.models.GetModel, models_pb2.GetModelRequest(name=name), None)
        return common.model_card(reply)
