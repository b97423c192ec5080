"""The options of `gradserve robustness`, in groups."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.cli import options, parse
from gradserve.cli.commands.attack import LOSSES, METHODS, NORMS
from gradserve.cli.commands.robustness_presets import LONG_TIMEOUT, QUICK, STANDARD, TIMEOUT, preset_of
from gradserve.messages import fields
from gradserve.messages.attack import ATTACK_METHOD
from gradserve.parameters.method import Method
from gradserve.robustness.budgets import budgets
from gradserve.robustness.plan import ALPHA, SELECTION_SAMPLES, CheckSpec
from gradserve.robustness.thresholds import Limits
from gradserve.v1 import attack_pb2

KINDS = fields.choices(attack_pb2.CorruptionKind.DESCRIPTOR)
CERTIFY_SAMPLES = 1000
MIN_CERTIFY_SAMPLES = 10  # With fewer no class can be proven at that alpha, even where all of them agree.
_THRESHOLDS, _TRIALS, _OUTPUT = "Thresholds", "Attacks and corruptions", "Output"

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        exists=True,
        help="Labelled pictures: a folder of class folders, a folder with labels.csv (file, class_name) or an .npz.",
    ),
]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(help="With --merge: the folders that all shards of one run wrote.", show_default=False),
]
Merge = Annotated[
    bool, typer.Option("--merge", help="Write the reports of one run from those of its shards, without a server.")
]
ShardText = Annotated[
    str, typer.Option("--shard", metavar="K/N", help="Measure every Nth picture from the Kth on; see --merge.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help=f"Seconds that a call may take; {TIMEOUT:g} if left out, with --standard, --quick or --certify-sigma "
        f"{LONG_TIMEOUT:g}.",
        rich_help_panel="Connection",
    ),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="Pictures under way at once.", rich_help_panel="Request")
]


@dataclass(frozen=True)
class Trials:
    """What is done to the pictures."""

    attack: Annotated[
        list[str],
        options.one_of(
            "--attack", names=[*METHODS, "none"], text="One of {}. May be repeated.", rich_help_panel=_TRIALS
        ),
    ] = field(default_factory=lambda: ["pgd"])
    standard: Annotated[bool, typer.Option("--standard", help=STANDARD, rich_help_panel=_TRIALS)] = False
    quick: Annotated[bool, typer.Option("--quick", help=QUICK, rich_help_panel=_TRIALS)] = False
    eps: Annotated[
        list[str],
        typer.Option(
            "--eps",
            help="Budget: 4/255, 0.015, or 0:8/255:1/255 for a curve; the model's own if left out. May be repeated.",
            rich_help_panel=_TRIALS,
        ),
    ] = field(default_factory=list)
    param: Annotated[
        list[str],
        typer.Option(
            "--param", help="NAME=VALUE, or ATTACK.NAME=VALUE with several. May be repeated.", rich_help_panel=_TRIALS
        ),
    ] = field(default_factory=list)
    norm: Annotated[
        str, options.one_of("--norm", names=NORMS, text="Norm of the budget: {}.", rich_help_panel=_TRIALS)
    ] = "linf"
    loss: Annotated[
        str | None,
        options.one_of("--loss", names=LOSSES, text="{}; the attack's own if left out.", rich_help_panel=_TRIALS),
    ] = None
    defence: Annotated[
        str | None,
        typer.Option(
            "--defence",
            help="Put before the model: jpeg, bit_depth, blur or noise; jpeg:quality=50.",
            rich_help_panel=_TRIALS,
        ),
    ] = None
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Let attacks see through the defence.", rich_help_panel=_TRIALS)
    ] = False
    corruption: Annotated[
        list[str],
        options.one_of(
            "--corruption",
            names=[*KINDS, "all"],
            text="A kind of ImageNet-C in its 5 severities, or all: {}. May be repeated.",
            rich_help_panel=_TRIALS,
        ),
    ] = field(default_factory=list)
    reference: Annotated[
        str,
        typer.Option("--reference", help="Served model that mCE is relative to.", rich_help_panel=_TRIALS),
    ] = ""

    certify_sigma: Annotated[
        float | None,
        typer.Option(
            "--certify-sigma",
            help="Also certify by randomised smoothing: standard deviation of the noise, of pixels in [0, 1], to 2.",
            rich_help_panel=_TRIALS,
        ),
    ] = None
    certify_samples: Annotated[
        int | None,
        typer.Option(
            "--certify-samples",
            min=MIN_CERTIFY_SAMPLES,
            max=100_000,
            help=f"Samples of each certificate; {CERTIFY_SAMPLES} if left out.",
            rich_help_panel=_TRIALS,
        ),
    ] = None

    def spec(self, seed: int, preprocess: str, precision: str) -> CheckSpec:
        """The check that is asked for."""
        arguments: dict[str, Any] = {"norm": self.norm, "loss": self.loss, "adaptive": self.adaptive}
        arguments["defence"] = parse.defence(self.defence) if self.defence else None
        return CheckSpec(
            methods=self._methods(),
            budgets=budgets(self.eps),
            arguments={name: value for name, value in arguments.items() if value},
            kinds=_kinds(self.corruption),
            noise=_noise(self.certify_sigma, self.certify_samples),
            seed=seed,
            preprocess=preprocess,
            precision=precision,
        )

    def _methods(self) -> list[Method]:
        """The attacks. Raises ValueError where a preset comes with what it sets itself."""
        preset = preset_of(
            self.standard, self.quick, {"attack": self.attack != ["pgd"], "param": self.param, "loss": self.loss}
        )
        chosen = [preset] if preset else [name for name in self.attack if name != "none"]
        return parse.methods(chosen, self.param, ATTACK_METHOD)


@dataclass(frozen=True)
class Thresholds:
    """What must hold for the check to pass."""

    min_robust_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-robust-accuracy",
            min=0,
            max=1,
            help="Least share that stands, at every eps.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    min_clean_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-clean-accuracy",
            min=0,
            max=1,
            help="Least accuracy on the pictures as they are.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_mce: Annotated[
        float | None,
        typer.Option("--max-mce", min=0, help="Largest mCE; the reference has 1.", rich_help_panel=_THRESHOLDS),
    ] = None
    group: Annotated[
        str,
        typer.Option(
            "--group",
            metavar="COLUMN",
            help="Also count the pictures apart that share a value in this column of labels.csv.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = ""
    min_group_robust_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-group-robust-accuracy",
            min=0,
            max=1,
            help="Least share that stands in every group, at every eps.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            exists=True,
            help="results.json of an earlier run on the same pictures, to compare with.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    no_worse: Annotated[
        float | None,
        typer.Option(
            "--no-worse",
            min=0,
            max=1,
            help="The most that a share may be below the baseline's.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None

    min_certified_accuracy: Annotated[
        list[str],
        typer.Option(
            "--min-certified-accuracy",
            metavar="RADIUS:SHARE",
            help="Least share that is certified with that radius, such as 0.25:0.30. May be repeated.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = field(default_factory=list)

    def limits(self, column: str = "") -> Limits:
        """The thresholds as the check takes them. Raises ValueError for one without what it is about.

        `column`: the one that the pictures are grouped by already.
        """
        if self.no_worse is not None and not self.baseline:
            raise ValueError("--no-worse needs a --baseline, the results.json of an earlier run")
        if self.min_group_robust_accuracy is not None and not (self.group or column):
            raise ValueError("--min-group-robust-accuracy needs a --group, a column of labels.csv")
        return Limits(
            robust=self.min_robust_accuracy,
            clean=self.min_clean_accuracy,
            mce=self.max_mce,
            no_worse=self.no_worse,
            group_robust=self.min_group_robust_accuracy,
            certified=tuple(map(_radius_and_share, self.min_certified_accuracy)),
        )


@dataclass(frozen=True)
class Reports:
    """Where the reports go, and what they show."""

    out: Annotated[
        Path,
        typer.Option("--out", "-o", file_okay=False, help="Folder for reports and journal.", rich_help_panel=_OUTPUT),
    ] = Path("robustness-out")
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what a stopped run in --out has done.", rich_help_panel=_OUTPUT)
    ] = False
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=100, help="How many worst cases to show.", rich_help_panel=_OUTPUT)
    ] = 12


def _noise(sigma: float | None, samples: int | None) -> dict[str, Any]:
    """The arguments of certificates; none without a sigma. Raises ValueError."""
    if sigma is None:
        if samples is not None:
            raise ValueError("--certify-samples needs --certify-sigma, the noise of the samples")
        return {}
    if not 0 < sigma <= 2:
        raise ValueError(f"--certify-sigma must be above 0 to 2, of pixels in [0, 1]; not {sigma:g}")
    fixed = {"selection_samples": SELECTION_SAMPLES, "alpha": ALPHA}
    return {"sigma": sigma, "samples": CERTIFY_SAMPLES if samples is None else samples, **fixed}


def _radius_and_share(text: str) -> tuple[float, float]:
    """The pair of "0.25:0.30". Raises ValueError."""
    try:
        radius, share = map(float, text.split(":"))
    except ValueError:
        radius = share = -1.0
    if not (0 <= radius < math.inf and 0 <= share <= 1):
        raise ValueError(
            f"--min-certified-accuracy is a radius from 0 on and a share from 0 to 1, such as 0.25:0.30; not {text!r}"
        )
    return radius, share


def _kinds(texts: list[str]) -> list[str]:
    return [kind for kind in KINDS if kind in texts or "all" in texts]
