# Generated from aio_photos.py by protos/sync_client.py: edit that file, then `make protos`.
"""The calls about one picture: Predict, Explain, Attack and Certify."""

from collections.abc import Iterator, Sequence
from typing import Any, Unpack, overload

from gradserve.arguments import AttackMethodLike, ExplainMethodLike, ImageLike, TargetLike
from gradserve.messages import attack, certify, explain, predict
from gradserve.messages.attack import AttackArguments
from gradserve.messages.certify import CertifyArguments
from gradserve.messages.common import are_several
from gradserve.messages.explain import ExplainArguments
from gradserve.messages.predict import PredictArguments
from gradserve.results.attack import Attack
from gradserve.results.certify import CertifiedClass
from gradserve.results.explain import Explanation, Explanations, MapProgress
from gradserve.results.predict import Prediction
from gradserve.transport.connection import Connection
from gradserve.v1 import explain_pb2


class PhotoCalls(Connection):
    """A connection with the calls about one picture."""

    def predict(
        self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[PredictArguments]
    ) -> Prediction:
        """The `top_k` most probable classes of a picture."""
        request = predict.predict_request(image, **arguments)
        return predict.prediction(self._call(self._stubs.gradients.Predict, request, timeout))

    @overload  # A name is a sequence of texts too, but no sequence of methods.
    def explain(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        methods: ExplainMethodLike,
        *,
        target: TargetLike | None = ...,
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        image: ImageLike,
        methods: ExplainMethodLike,
        *,
        target: list[Any],
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanations: ...
    @overload
    def explain(
        self,
        image: ImageLike,
        methods: Sequence[ExplainMethodLike],
        *,
        target: TargetLike | list[Any] | None = ...,
        timeout: float | None = ...,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanations: ...
    def explain(
        self,
        image: ImageLike,
        methods: ExplainMethodLike | Sequence[ExplainMethodLike],
        *,
        target: TargetLike | list[Any] | None = None,
        timeout: float | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanation | Explanations:
        """The map of a method for a target, or with a list of methods or of targets all their maps.

        A method is a name, (name, parameters) or a Method; `explain(image, "smooth_grad", samples=25)` is short for
        one with parameters. A target is a class's index or name, a Rank or a Unit; None is the predicted class.
        `region`, a box (x0, y0, x1, y1) or a mask, is for networks that give a score for each position, as for
        segmentation: where the target's scores are summed. Maps travel as `format` "float32", "float16" or "png";
        `overlay` also asks the server for a picture. `trust` judges each map beside chance and the middle of the
        picture, `curves` with insertion and deletion.
        """
        request = explain.explain_request(image, methods, target=target, **arguments)
        maps = self.explain_message(request, timeout=timeout)
        return maps if are_several(methods) or isinstance(target, list) else maps[0]

    def explain_message(self, request: explain_pb2.ExplainRequest, *, timeout: float | None = None) -> Explanations:
        """The maps that a message asks for."""
        return explain.explanations(request, self._call(self._stubs.gradients.Explain, request, timeout))

    def explain_stream(
        self,
        image: ImageLike,
        methods: ExplainMethodLike | Sequence[ExplainMethodLike],
        *,
        target: TargetLike | list[Any] | None = None,
        timeout: float | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> Iterator[MapProgress | Explanations]:
        """Each map as soon as it is done, those from samples as they stand, and in the end all maps.

        The arguments are those of `explain`. Leaving the loop ends the work.
        """
        request = explain.explain_request(image, methods, target=target, **arguments)
        for event in self._stream(self._stubs.gradients.StreamExplain, request, timeout):
            yield explain.explain_event(request, event)

    def attack(
        self,
        image: ImageLike | None,
        method: AttackMethodLike = "pgd",
        *,
        timeout: float | None = None,
        **arguments: Unpack[AttackArguments],
    ) -> Attack:
        """A picture changed a little so that the model errs, with a certificate measured on the returned bytes.

        The method is as in `explain`: "pgd", Method("pgd", steps=40), or `attack(image, "pgd", steps=40)`. Without a
        `target` (a class's index or name, or a Pick) any error will do; `label` is the true class, None the predicted
        one. `eps` is the budget in `norm` "linf" or "l2" for pixels in [0, 1], a number or "8/255"; None: what suits
        the model. `loss` is "cross_entropy", "margin", "dlr" or "probability_margin". `defence`, such as "jpeg" or
        ("blur", {"sigma": 2}), stands before the model; with `adaptive` the attack knows of it. `eot` seeks what
        survives random changes. `maps` names a method of `explain` for maps of both pictures, of `maps_target` or of
        what is predicted there. `region` is as in `explain`; the attack is on the mean scores of the region. Only
        pixels inside `mask`, a box (x0, y0, x1, y1) or a mask, change.
        """
        request = attack.attack_request(image, method, **arguments)
        return attack.attack_result(request, self._call(self._stubs.gradients.Attack, request, timeout))

    def certify(
        self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[CertifyArguments]
    ) -> CertifiedClass:
        """The class that a picture has under Gaussian noise, and the radius in L2 within which that is proven.

        It is proven of the smoothed classifier, which gives the class that the network gives most often under the noise
        (Cohen et al. 2019), and not of the network without noise. `sigma` is the noise's standard deviation for pixels
        in [0, 1]; `samples` are counted after `selection_samples` have chosen the class. The answer is wrong with a
        probability of at most `alpha` over the drawing of the noise, which `seed` gives.
        """
        request = certify.certify_request(image, **arguments)
        return certify.certified_class(self._call(self._stubs.gradients.Certify, request, timeout))
