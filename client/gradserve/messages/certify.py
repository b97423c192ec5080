"""Pure functions for Certify: arguments -> request message, reply -> result."""

from typing import Unpack

from gradserve.arguments import ImageLike, Layout, Options, PhotoOptions
from gradserve.messages import inputs
from gradserve.messages.common import (
    PREPROCESS,
    choice,
    count,
    provenance_of,
    real,
    region_of,
    request_options,
    score_of,
    split,
)
from gradserve.parameters.common import Preprocess
from gradserve.results.certify import CertifiedClass, ClassCount
from gradserve.v1 import certify_pb2


class CertifyArguments(PhotoOptions, total=False):
    """What `certify` takes beside the picture; what is left out is the server's default.

    sigma: standard deviation of the noise, of pixels in [0, 1], above 0 to 2; 0.25. selection_samples: those that
    choose the class; 100. samples: those in which it is counted; 1000. alpha: the probability of failure that is
    allowed; 0.001.
    """

    sigma: float | None
    selection_samples: int | None
    samples: int | None
    alpha: float | None


_OWN = CertifyArguments.__annotations__.keys() | {"timeout"}


def certify_request(image: ImageLike, **arguments: Unpack[CertifyArguments]) -> certify_pb2.CertifyRequest:
    """The arguments of Certify as a message."""
    own, _ = split("certify", arguments, _OWN, frozenset())
    return _request(image, **own)


def _request(
    image: ImageLike,
    *,
    model: str = "",
    sigma: float | None = None,
    selection_samples: int | None = None,
    samples: int | None = None,
    alpha: float | None = None,
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> certify_pb2.CertifyRequest:
    numbers = {"selection_samples": selection_samples, "samples": samples}
    return certify_pb2.CertifyRequest(
        model=model,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        sigma=None if sigma is None else real("sigma", sigma),
        alpha=None if alpha is None else real("alpha", alpha),
        options=request_options(**options),
        **{name: count(name, value) for name, value in numbers.items() if value is not None},
    )


def certified_class(reply: certify_pb2.CertifyResponse) -> CertifiedClass:
    """The reply of Certify as a result."""
    return CertifiedClass(
        candidate=_count_of(reply.candidate),
        abstains=reply.abstains,
        lower_bound=reply.lower_bound,
        radius=reply.radius,
        plain=score_of(reply.plain),
        counts=tuple(map(_count_of, reply.counts)),
        sigma=reply.sigma,
        selection_samples=reply.selection_samples,
        samples=reply.samples,
        alpha=reply.alpha,
        warnings=tuple(reply.warnings),
        region=region_of(reply.region),
        provenance=provenance_of(reply.provenance),
    )


def _count_of(count: certify_pb2.ClassCount) -> ClassCount:
    return ClassCount(count.class_index, count.class_name, count.selection_count, count.count)
