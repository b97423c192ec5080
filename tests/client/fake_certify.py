"""The fake server's answer to Certify."""

from collections.abc import Sequence

from gradserve.v1 import certify_pb2, common_pb2

ABSTAINS_ABOVE = 0.5  # The sigma above which the answer is an abstention.


def certified(
    request: certify_pb2.CertifyRequest,
    classes: Sequence[str],
    region: common_pb2.Region,
    provenance: common_pb2.Provenance,
) -> certify_pb2.CertifyResponse:
    """The second class with all but a tenth of the samples, or nearly none at a great sigma."""
    sigma = request.sigma if request.HasField("sigma") else 0.25
    first = request.selection_samples if request.HasField("selection_samples") else 100
    samples = request.samples if request.HasField("samples") else 1000
    abstains = sigma > ABSTAINS_ABOVE
    rare = samples // 10
    common = samples - rare
    most, least = (
        certify_pb2.ClassCount(class_index=i, class_name=classes[i], selection_count=first * (i == 1), count=count)
        for i, count in ((1, common), (0, rare))
    )
    if abstains:
        most.count, least.count = least.count, most.count
    return certify_pb2.CertifyResponse(
        candidate=most,
        abstains=abstains,
        lower_bound=0.0625 if abstains else 0.875,
        radius=0.0 if abstains else 0.5 * sigma,
        plain=common_pb2.Score(class_index=0, class_name=classes[0], probability=0.75, logit=4.0),
        counts=[most, least],
        sigma=sigma,
        selection_samples=first,
        samples=samples,
        alpha=request.alpha if request.HasField("alpha") else 0.001,
        warnings=["OTHER_CLASS: made up"],
        region=region,
        provenance=provenance,
    )
