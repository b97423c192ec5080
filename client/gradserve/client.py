# Generated from aio.py by protos/sync_client.py: edit that file, then `make protos`.
"""The client for ordinary code; `gradserve.aio` has the same for asyncio."""

from typing import Any, Unpack

from gradserve.arguments import BatchLike, ImageLike, InfluenceMethodLike
from gradserve.calls.inside import InsideCalls
from gradserve.calls.management import ManagementCalls
from gradserve.calls.many import ManyCalls
from gradserve.calls.pictures import PictureCalls
from gradserve.messages import differentiate, influence
from gradserve.messages.goals import GoalLike
from gradserve.messages.influence import EmbedArguments, InfluenceArguments, SuspectsArguments
from gradserve.results.differentiate import Gradients
from gradserve.results.influence import Features, Influence, Suspects


class Client(ManyCalls, PictureCalls, InsideCalls, ManagementCalls):
    """A connection to a gradserve server; safe to share between threads.

    target: HOST:PORT, [IPV6]:PORT or unix:PATH; None: GRADSERVE_SERVER of the environment, else 127.0.0.1:50051.
    Addresses of this machine are never reached through a proxy. Calls go in turn to all addresses of a name.
    tls: True for the system's certificates, or the path of a CA certificate. None: GRADSERVE_CA, else GRADSERVE_TLS, if
    `target` is None or what GRADSERVE_SERVER says; else no TLS.
    certificate, key: files (PEM) by which a server knows this client; they imply TLS.
    token: sent as "authorization: Bearer ..."; "": none. None: GRADSERVE_TOKEN, for the same targets as GRADSERVE_TLS.
    timeout: seconds that a call may take, with its retries; None: as long as it takes.
    retries: how often a call is made again when no server is available, 0 to 4; None: 3.
    retries_when_full: how often it is made again when the server is full, after the delay that the server names.
    connections: over which calls go in turn; several reach more of the servers behind one address.
    options: of gRPC's channel, pairs or a dictionary; they win over those of this package.
    interceptors: of grpc, around every call. compression: of requests, "gzip" or "deflate".
    channel: one of grpc, in place of `target` and of all that says how to reach it; `close` leaves it open.
    Raises ValueError, TypeError, and OSError for a file that cannot be read.
    """

    def influence(
        self,
        image: ImageLike,
        method: InfluenceMethodLike = None,
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
        request = influence.influence_request(image, method, **arguments)
        return influence.influence_result(self._call(self._stubs.gradients.Influence, request, timeout))

    def suspects(self, *, timeout: float | None = None, **arguments: Unpack[SuspectsArguments]) -> Suspects:
        """Training examples whose labels are suspicious, most first.

        `order` is "rank_sum", "self_influence", "loss" or "disagreement".
        """
        request = influence.suspects_request(**arguments)
        return influence.suspects_result(self._call(self._stubs.gradients.Suspects, request, timeout))

    def embed(self, image: ImageLike, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]) -> Features:
        """The features of a layer, pooled by "mean", "max" or "none"; by default what goes into the last linear one."""
        request = influence.embed_request(image, **arguments)
        return influence.embed_result(self._call(self._stubs.gradients.Embed, request, timeout))

    def differentiate(
        self,
        images: BatchLike,
        goals: GoalLike | list[Any] | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[differentiate.DifferentiateArguments],
    ) -> Gradients:
        """The gradients of a batch of pictures, by their pixels in [0, 1] or by a `layer`.

        The pictures are a list or an array [N, H, W, C], taken as they are unless `preprocess` says otherwise. `goals`
        is one for all or a list of one for each, None the predicted classes: a target as in `explain`, or a Goal;
        `Goal.logits(vector)` makes a vector-Jacobian product. `rule` is "plain", "guided", "deconvnet", or for
        relevance "lrp_z_plus", "lrp_gamma" or "lrp_epsilon". The gradient travels as `format` "float32", "bfloat16" or
        "float16"; `forward_only` leaves it out.
        """
        request = differentiate.differentiate_request(images, goals, **arguments)
        return differentiate.gradients(self._call(self._stubs.gradients.Differentiate, request, timeout))
