"""`gradserve robustness --standard` and `--quick`: attacks with fixed settings, so that verdicts can be compared."""

from collections.abc import Mapping

from gradserve.robustness import stages
from gradserve.robustness.plan import CheckSpec

# Seconds that a call may take by default. Long attacks and certificates wait for each other's many passes.
TIMEOUT, LONG_TIMEOUT = 300.0, 3600.0
LONG_ATTACKS = (stages.STANDARD, stages.QUICK, "apgd_targeted", "fab_targeted")
STANDARD = (
    "The verdict for a reviewer or a release: the standard ensemble as published (apgd, apgd_targeted, fab_targeted "
    "and square, each on what still stands). It takes thousands of passes for a picture that stands."
)
QUICK = (
    "The verdict for every commit: malt, which tries the nearest classes first. Mostly close to --standard at a "
    "fraction of its cost, but it does not see that a network hides its gradients."
)


def preset_of(standard: bool, quick: bool, others: Mapping[str, object]) -> str:
    """The attack of --standard or --quick, "" without them; `others`: values of options that these set themselves.

    Raises ValueError for both at once, and beside such an option.
    """
    if standard and quick:
        raise ValueError("--standard and --quick are two verdicts: take one of them, or run twice with another --out")
    if not (standard or quick):
        return ""
    option, attack = ("--standard", stages.STANDARD) if standard else ("--quick", stages.QUICK)
    if clashing := [f"--{name}" for name, value in others.items() if value]:
        raise ValueError(
            f"{option} is the attack {attack} with its defaults, so that verdicts can be compared: leave out "
            f"{' and '.join(clashing)}, or name --attack {attack} instead"
        )
    return attack


def timeout_for(spec: CheckSpec) -> float:
    """Seconds that a call of such a check may take."""
    attacks = any(method.name in LONG_ATTACKS for method in spec.methods)
    return LONG_TIMEOUT if attacks or spec.noise else TIMEOUT
