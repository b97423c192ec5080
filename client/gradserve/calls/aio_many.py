"""The calls for asyncio about many pictures: several are under way, and answers come in the pictures' order."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import AttackMethodLike, ExplainMethodLike, ImageLike, OnError, TargetLike
from gradserve.calls.aio_photos import AsyncPhotoCalls
from gradserve.errors import PictureError
from gradserve.messages.attack import AttackArguments
from gradserve.messages.certify import CertifyArguments
from gradserve.messages.explain import ExplainArguments
from gradserve.messages.predict import PredictArguments
from gradserve.results.attack import Attack
from gradserve.results.certify import CertifiedClass
from gradserve.results.explain import Explanation, Explanations
from gradserve.results.predict import Prediction
from gradserve.transport.ordered import in_order_async


class AsyncManyCalls(AsyncPhotoCalls):
    """A connection with the calls about many pictures: an iterable of them, or an array [N, H, W, C].

    They take the arguments of the calls about one, keep `concurrency` requests under way, and wait while the server is
    full. The first failure is raised; with on_error="return" a PictureError that names the picture comes in its place.
    """

    @overload
    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[PredictArguments],
    ) -> AsyncIterator[Prediction]: ...
    @overload
    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[PredictArguments],
    ) -> AsyncIterator[Prediction | PictureError]: ...
    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> AsyncIterator[Any]:
        """Predictions of many pictures in their order."""
        return in_order_async(
            lambda image: self.predict(image, timeout=timeout, **arguments), images, concurrency, on_error
        )

    @overload  # A name is a sequence of texts too, but no sequence of methods.
    def explain_many(  # type: ignore[overload-overlap]
        self,
        images: Iterable[ImageLike],
        methods: ExplainMethodLike,
        *,
        target: TargetLike | None = ...,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanation]: ...
    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike],
        methods: ExplainMethodLike,
        *,
        target: list[Any],
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanations]: ...
    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike],
        methods: Sequence[ExplainMethodLike],
        *,
        target: TargetLike | list[Any] | None = ...,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanations]: ...
    @overload  # A name is a sequence of texts too, but no sequence of methods.
    def explain_many(  # type: ignore[overload-overlap]
        self,
        images: Iterable[ImageLike],
        methods: ExplainMethodLike,
        *,
        target: TargetLike | None = ...,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanation | PictureError]: ...
    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike],
        methods: ExplainMethodLike,
        *,
        target: list[Any],
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanations | PictureError]: ...
    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike],
        methods: Sequence[ExplainMethodLike],
        *,
        target: TargetLike | list[Any] | None = ...,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Explanations | PictureError]: ...
    def explain_many(
        self,
        images: Iterable[ImageLike],
        methods: Any,
        *,
        target: Any = None,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncIterator[Any]:
        """Explanations of many pictures in their order."""

        def one(image: ImageLike) -> Any:
            return self.explain(image, methods, target=target, timeout=timeout, **arguments)

        return in_order_async(one, images, concurrency, on_error)

    @overload
    def attack_many(
        self,
        images: Iterable[ImageLike],
        method: AttackMethodLike = ...,
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[AttackArguments],
    ) -> AsyncIterator[Attack]: ...
    @overload
    def attack_many(
        self,
        images: Iterable[ImageLike],
        method: AttackMethodLike = ...,
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[AttackArguments],
    ) -> AsyncIterator[Attack | PictureError]: ...
    def attack_many(
        self,
        images: Iterable[ImageLike],
        method: AttackMethodLike = "pgd",
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[AttackArguments],
    ) -> AsyncIterator[Any]:
        """Attacks on many pictures in their order."""
        return in_order_async(
            lambda image: self.attack(image, method, timeout=timeout, **arguments), images, concurrency, on_error
        )

    @overload
    def certify_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **arguments: Unpack[CertifyArguments],
    ) -> AsyncIterator[CertifiedClass]: ...
    @overload
    def certify_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[CertifyArguments],
    ) -> AsyncIterator[CertifiedClass | PictureError]: ...
    def certify_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[CertifyArguments],
    ) -> AsyncIterator[Any]:
        """Certified classes of many pictures in their order."""
        return in_order_async(
            lambda image: self.certify(image, timeout=timeout, **arguments), images, concurrency, on_error
        )
