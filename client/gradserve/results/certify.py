"""What Certify gives: the class that a picture has under noise, and how far that is proven."""

from dataclasses import dataclass

from gradserve.results.common import Provenance, Region, Result, Score


@dataclass(frozen=True)
class ClassCount:
    """How many of the selection samples, and of those that were counted after them, had a class."""

    class_index: int
    class_name: str
    selection_count: int
    count: int


@dataclass(frozen=True, repr=False)
class CertifiedClass(Result):
    """What the smoothed classifier predicts, by randomised smoothing (Cohen et al. 2019).

    candidate: the class that the selection samples chose. lower_bound: of its probability under the noise. radius: in
    L2, of pixels in [0, 1] of the model's input; 0 where the smoothed classifier abstains. plain: what the network
    predicts without noise, of which nothing is proven. counts: all classes that samples had. alpha: the probability of
    failure that was allowed.
    """

    candidate: ClassCount
    abstains: bool
    lower_bound: float
    radius: float
    plain: Score
    counts: tuple[ClassCount, ...]
    sigma: float
    selection_samples: int
    samples: int
    alpha: float
    warnings: tuple[str, ...]
    region: Region
    provenance: Provenance

    @property
    def predicted(self) -> ClassCount | None:
        """The class that the smoothed classifier predicts, or None where it abstains."""
        return None if self.abstains else self.candidate

    def __repr__(self) -> str:
        share = f"{self.candidate.count} of {self.samples}"
        claim = "abstains" if self.abstains else f"{self.candidate.class_name} within {self.radius:.3g}"
        noise = f"sigma {self.sigma:g}, alpha {self.alpha:g}"
        return f"<CertifiedClass: {claim} ({share}), {noise}, {self.provenance.model}>"
