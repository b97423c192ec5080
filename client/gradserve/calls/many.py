# Generated from aio_many.py by protos/sync_client.py: edit that file, then `make protos`.
"""The calls about many pictures: several are under way, and answers come in the pictures' order."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import AttackMethodLike, ExplainMethodLike, ImageLike, OnError, TargetLike
from gradserve.calls.photos import PhotoCalls
from gradserve.errors import PictureError
from gradserve.messages.attack import AttackArguments
from gradserve.messages.certify import CertifyArguments
from gradserve.messages.explain import ExplainArguments
from gradserve.messages.predict import PredictArguments
from gradserve.results.attack import Attack
from gradserve.results.certify import CertifiedClass
from gradserve.results.explain import Explanation, Explanations
from gradserve.results.predict import Prediction
from gradserve.transport.ordered import in_order


class ManyCalls(PhotoCalls):
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
    ) -> Iterator[Prediction]: ...
    @overload
    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[PredictArguments],
    ) -> Iterator[Prediction | PictureError]: ...
    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> Iterator[Any]:
        """Predictions of many pictures in their order."""
        return in_order(lambda image: self.predict(image, timeout=timeout, **arguments), images, concurrency, on_error)

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
    ) -> Iterator[Explanation]: ...
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
    ) -> Iterator[Explanations]: ...
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
    ) -> Iterator[Explanations]: ...
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
    ) -> Iterator[Explanation | PictureError]: ...
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
    ) -> Iterator[Explanations | PictureError]: ...
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
    ) -> Iterator[Explanations | PictureError]: ...
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
    ) -> Iterator[Any]:
        """Explanations of many pictures in their order."""

        def one(image: ImageLike) -> Any:
            return self.explain(image, methods, target=target, timeout=timeout, **arguments)

        return in_order(one, images, concurrency, on_error)

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
    ) -> Iterator[Attack]: ...
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
    ) -> Iterator[Attack | PictureError]: ...
    def attack_many(
        self,
        images: Iterable[ImageLike],
        method: AttackMethodLike = "pgd",
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[AttackArguments],
    ) -> Iterator[Any]:
        """Attacks on many pictures in their order."""
        return in_order(
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
    ) -> Iterator[CertifiedClass]: ...
    @overload
    def certify_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **arguments: Unpack[CertifyArguments],
    ) -> Iterator[CertifiedClass | PictureError]: ...
    def certify_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **arguments: Unpack[CertifyArguments],
    ) -> Iterator[Any]:
        """Certified classes of many pictures in their order."""
        return in_order(lambda image: self.certify(image, timeout=timeout, **arguments), images, concurrency, on_error)
