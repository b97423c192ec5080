"""`gradserve robustness --standard` and `--quick`: attacks with fixed settings, so that verdicts can be compared."""

from collections.abc import Mapping, Sequence

from gradserve.parameters.method import Method
from gradserve.robustness import stages

# Seconds that a call may take by default. Long attacks wait for each other's hundreds or thousands of passes.
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


def timeout_for(methods: Sequence[Method]) -> float:
    """Seconds that a call with one of these attacks may take."""
    return LONG_TIMEOUT if any(method.name in LONG_ATTACKS for method in methods) else TIMEOUT
