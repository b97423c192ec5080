"""Certified accuracy: the share of pictures whose smoothed prediction is their label, with at least some radius.

Cohen, Rosenfeld, Kolter 2019. A picture whose request failed, or on which the smoothed classifier abstains, is not
certified at any radius.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Context
from statistics import NormalDist

from gradserve.load import charts
from gradserve.robustness.binomial import clopper_pearson
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import Plan, Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.thresholds import Limits, Threshold

ABSTAINS = "abstains"  # The detail of an outcome where the smoothed classifier abstains.
POINTS_PER_SIGMA = 4  # Points of the curve for each sigma of radius.


@dataclass(frozen=True)
class CertifiedPoint:
    """The pictures that are certified with at least this radius, and the 95 % interval of Clopper and Pearson."""

    radius: float
    certified: Proportion

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share, for this radius alone."""
        return clopper_pearson(self.certified.count, self.certified.of)


@dataclass(frozen=True)
class CertifiedAccuracy:
    """What was certified of all readable pictures. `radii` are those of the pictures whose label was predicted."""

    trial: Trial
    radii: Sequence[float]
    of: int
    abstained: int
    failed: int
    warnings: Mapping[str, int] = field(default_factory=dict)  # With the number of pictures that each came with.

    def at(self, radius: float) -> CertifiedPoint:
        """The pictures that are certified with at least this radius."""
        return CertifiedPoint(radius, Proportion(sum(each >= radius for each in self.radii), self.of))

    @property
    def points(self) -> list[CertifiedPoint]:
        """The curve: from radius 0 in steps of a quarter of sigma to the largest that could be proven."""
        return [self.at(radius) for radius in radii_of(self.trial)]


def certified_accuracy(
    plan: Plan, by_trial: Mapping[str, Mapping[str, Outcome]], readable: Sequence[str]
) -> CertifiedAccuracy | None:
    """Counts the outcomes of the plan's certificates; None where it has none."""
    trial = certificate_of(plan)
    if trial is None:
        return None
    outcomes = [found[id] for found in (by_trial.get(trial.key, {}),) for id in readable if id in found]
    return CertifiedAccuracy(
        trial,
        radii=sorted(each.radius or 0.0 for each in outcomes if each.state == "right"),
        of=len(readable),
        abstained=sum(each.detail == ABSTAINS for each in outcomes),
        failed=sum(each.state == "failed" for each in outcomes),
        warnings=dict(Counter(text for each in outcomes for text in dict.fromkeys(each.warnings)).most_common()),
    )


def certificate_of(plan: Plan) -> Trial | None:
    """The trial of the plan that certifies, if there is one."""
    return next((trial for trial in plan.trials if trial.certifies), None)


def largest_radius(trial: Trial) -> float:
    """The radius where all samples agree, which is the largest that so many can prove."""
    sigma, samples, alpha = _noise(trial)
    return sigma * NormalDist().inv_cdf(alpha ** (1 / samples))


def radii_of(trial: Trial) -> list[float]:
    """The radii of the curve."""
    sigma, _, _ = _noise(trial)
    step = sigma / POINTS_PER_SIGMA
    return [step * place for place in range(int(largest_radius(trial) / step) + 1)]


def _noise(trial: Trial) -> tuple[float, int, float]:
    """Sigma, samples and alpha, which are texts where the trial was read from a file."""
    settings = trial.settings
    return float(settings["sigma"]), int(settings["samples"]), float(settings["alpha"])


def check_radii(plan: Plan, limits: Limits) -> None:
    """Raises ValueError for thresholds on radii that are not measured, or that so many samples cannot prove."""
    trial = certificate_of(plan)
    for radius, _ in limits.certified:
        if trial is None:
            raise ValueError("--min-certified-accuracy needs --certify-sigma")
        if radius > (largest := largest_radius(trial)):
            at_most = float(Context(prec=4, rounding=ROUND_DOWN).create_decimal_from_float(largest))
            text = f"{trial.settings['samples']} samples of sigma {trial.settings['sigma']} prove at most {at_most:g}"
            raise ValueError(f"--min-certified-accuracy: no picture can have the radius {radius:g}: {text}")


def thresholds(accuracy: CertifiedAccuracy | None, limits: Limits) -> list[Threshold]:
    """What is asked of the certified accuracy, by radius."""
    if accuracy is None:
        return []
    return [
        Threshold(f"certified accuracy, radius {radius:g}", accuracy.at(radius).certified.value, least=share)
        for radius, share in limits.certified
    ]


def chart(accuracy: CertifiedAccuracy) -> charts.Chart:
    """The curve with its band."""
    series = {
        f"sigma {accuracy.trial.settings['sigma']}": [
            (point.radius, point.certified.value, *point.interval) for point in accuracy.points
        ]
    }
    return charts.shares("Certified accuracy", "radius in L2, of pixels in [0, 1]", "certified accuracy", series)
