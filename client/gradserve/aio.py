"""The client for asyncio; `gradserve.client` has the same for ordinary code."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Unpack, overload

from gradserve.arguments import (
    AttackTargetLike,
    BatchLike,
    ImageLike,
    MethodLike,
    Options,
    ParameterValue,
    RegionLike,
    TargetLike,
)
from gradserve.calls.aio_management import AsyncManagementCalls
from gradserve.calls.aio_pictures import AsyncPictureCalls
from gradserve.messages import attack, differentiate, explain, influence, predict
from gradserve.messages.common import options
from gradserve.messages.goals import GoalLike
from gradserve.messages.influence import EmbedArguments, InfluenceArguments, SuspectsArguments
from gradserve.results.attack import Attack
from gradserve.results.differentiate import Gradients
from gradserve.results.explain import Explanation, Explanations
from gradserve.results.influence import Features, Influence, Suspects
from gradserve.results.predict import Prediction
from gradserve.transport.ordered import in_order_async


class AsyncClient(AsyncPictureCalls, AsyncManagementCalls):
    """A connection to a gradserve server for asyncio.

    It may be made anywhere and used in several event loops: each has connections of its own, from its first
    call on until `close` or the end of its `async with`.

    target: HOST:PORT, [IPV6]:PORT or unix:PATH; addresses of this machine are never reached through a proxy. Calls go
    in turn to all addresses that a name stands for.
    tls: True for the system's certificates, or the path of a CA certificate.
    token: sent as "authorization: Bearer ...". timeout: seconds that a call may take.
    retries: how often a call is made again when no server is available, 0 to 4.
    connections: over which calls go in turn; several reach more of the servers behind one address.
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
            predict.predict_request, image, model=model, top_k=top_k, preprocess=preprocess, **options
        )
        return predict.prediction(await self._call(self._stubs.gradients.Predict, request, timeout))

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
        region: RegionLike | None = None,
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
        """The map of a method for a target, or with a list of methods or of targets all their maps.

        A method is a name, (name, parameters) or a Method; `explain(image, "smooth_grad", samples=25)` is short for
        one with parameters. A target is a class's index or name, a Rank or a Unit; None is the predicted class.
        `region`, a box (x0, y0, x1, y1) or a mask, is for networks that give a score for each position, as for
        segmentation: where the target's scores are summed. Maps travel as `format` "float32", "float16" or "png";
        `overlay` also asks the server for a picture.
        """
        request = await asyncio.to_thread(
            explain.explain_request,
            image,
            methods,
            target=target,
            region=region,
            model=model,
            preprocess=preprocess,
            format=format,
            overlay=overlay,
            shorthand=parameters,
            options=options(priority, precision, seed, time_budget, allow_partial, quick_decode, alone),
        )
        maps = explain.explanations(request, await self._call(self._stubs.gradients.Explain, request, timeout))
        return maps if isinstance(methods, list) or isinstance(target, list) else maps[0]

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
        maps_target: TargetLike | None = None,
        region: RegionLike | None = None,
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
        """A picture changed a little so that the model errs, with a certificate measured on the returned bytes.

        The method is as in `explain`: "pgd", Method("pgd", steps=40), or `attack(image, "pgd", steps=40)`. Without a
        `target` (a class's index or name, or a Pick) any error will do; `label` is the true class, None the predicted
        one. `eps` is the budget in `norm` "linf" or "l2" for pixels in [0, 1], a number or "8/255"; None: what suits
        the model. `loss` is "cross_entropy", "margin" or "dlr". `defence`, such as "jpeg" or ("blur", {"sigma": 2}),
        stands before the model; with `adaptive` the attack knows of it. `eot` seeks what survives random changes.
        `maps` names a method of `explain` for maps of both pictures, of `maps_target` or of what is predicted there.
        `region` is as in `explain`; the attack is on the mean scores of the region.
        """
        request = await asyncio.to_thread(
            attack.attack_request,
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
            maps_target=maps_target,
            region=region,
            model=model,
            preprocess=preprocess,
            shorthand=parameters,
            options=options(priority, precision, seed, time_budget, allow_partial, quick_decode, alone),
        )
        return attack.attack_result(request, await self._call(self._stubs.gradients.Attack, request, timeout))

    async def influence(
        self,
        image: ImageLike,
        method: MethodLike | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[InfluenceArguments],
    ) -> Influence:
        """The training examples that most helped and most harmed a prediction, by the model's index.

        The prediction is judged by `label` (a class's index or name, or a Rank; None: the predicted class); `goal` is
        "loss", "margin" or "logit". `method` is "projected", "last_layer", "neighbours" or None for the index's own.
        `what_if` asks what the removal of groups of rows would change: a list of rows, or a Reweighting, for each.
        `ensemble` names models that were trained independently on the same examples.
        """
        request = await asyncio.to_thread(influence.influence_request, image, method, **arguments)
        return influence.influence_result(await self._call(self._stubs.gradients.Influence, request, timeout))

    async def suspects(self, *, timeout: float | None = None, **arguments: Unpack[SuspectsArguments]) -> Suspects:
        """Training examples whose labels are suspicious, most first.

        `order` is "rank_sum", "self_influence", "loss" or "disagreement".
        """
        request = influence.suspects_request(**arguments)
        return influence.suspects_result(await self._call(self._stubs.gradients.Suspects, request, timeout))

    async def embed(
        self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]
    ) -> Features:
        """The features of a layer, pooled by "mean", "max" or "none"; by default what goes into the last linear one."""
        request = await asyncio.to_thread(influence.embed_request, image, **arguments)
        return influence.embed_result(await self._call(self._stubs.gradients.Embed, request, timeout))

    async def differentiate(
        self,
        images: BatchLike,
        goals: GoalLike | list[Any] | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[differentiate.DifferentiateArguments],
    ) -> Gradients:
        """The gradients of a batch of pictures, by their pixels in [0, 1] or by a `layer`.

        The pictures are a list or an array [N, H, W, 3], taken as they are unless `preprocess` says otherwise. `goals`
        is one for all or a list of one for each, None the predicted classes: a target as in `explain`, or a Goal;
        `Goal.logits(vector)` makes a vector-Jacobian product. `rule` is "plain", "guided", "deconvnet", or for
        relevance "lrp_z_plus", "lrp_gamma" or "lrp_epsilon". The gradient travels as `format` "float32", "bfloat16" or
        "float16"; `forward_only` leaves it out.
        """
        request = await asyncio.to_thread(differentiate.differentiate_request, images, goals, **arguments)
        return differentiate.gradients(await self._call(self._stubs.gradients.Differentiate, request, timeout))

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
