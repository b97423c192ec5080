"""What a robustness check asks about every picture."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradserve.datasets import Dataset
from gradserve.parameters.method import Method
from gradserve.results.models import ModelCard

CLEAN = "clean"
SEVERITIES = range(1, 6)
CERTIFIED = "certified"  # The name of the trial that certifies by randomised smoothing.
SELECTION_SAMPLES, ALPHA = 100, 0.001  # Certificates have this n0 and this alpha of Cohen et al. 2019 in every run.


@dataclass(frozen=True)
class Trial:
    """What pictures meet: an attack within a budget, a corruption of some severity, or noise that certifies them."""

    name: str  # Such as pgd, fog, or certified.
    level: str  # The budget, the severity or the noise, such as 4/255, 3, or sigma 0.25.
    model: str
    method: Method
    arguments: Mapping[str, Any] = field(default_factory=dict)  # Arguments of the client's `attack` besides the method.
    natural: bool = False  # Whether it is a corruption.

    @property
    def certifies(self) -> bool:
        """Whether it certifies pictures by randomised smoothing."""
        return self.name == CERTIFIED

    @property
    def hostile(self) -> bool:
        """Whether it is an attack."""
        return not (self.natural or self.certifies)

    @property
    def always(self) -> bool:
        """Whether pictures that the model names wrongly are tried too: disturbed they may be named rightly."""
        return not self.hostile or "defence" in self.arguments

    @property
    def key(self) -> str:
        """What the journal calls it: everything that its outcome depends on, but for the seed and the like."""
        return ", ".join([f"{self} on {self.model}", *(f"{name}={text}" for name, text in self.settings.items())])

    @property
    def settings(self) -> dict[str, str]:
        """The parameters and arguments that are not in its name, as texts in the order of their names."""
        settings = {**self.method.parameters, **self.arguments}
        return {name: str(settings[name]) for name in sorted(settings) if name not in ("eps", "kind", "severity")}

    def __str__(self) -> str:
        return f"{self.name} {self.level}"


@dataclass(frozen=True)
class Plan:
    """Everything that the answers depend on, so that a journal of other settings is not mistaken for this run's."""

    model: str
    digests: Mapping[str, str]  # The weights' digest of every model in the plan.
    heads: Mapping[str, str]  # The head of each model: "softmax", "binary" or "multilabel".
    trials: Sequence[Trial]
    seed: int = 0
    preprocess: str = "model_default"
    precision: str = "auto"
    reference: str = ""  # The model that corruption errors are relative to.

    @property
    def head(self) -> str:
        """The head of the model that is checked, which says what its outputs mean."""
        return self.heads[self.model]

    def seed_for(self, id: str) -> int:
        """The seed for one picture, which does not depend on the order in which pictures are asked about."""
        return int.from_bytes(hashlib.blake2b(f"{self.seed}:{id}".encode(), digest_size=8).digest())

    def described(self, dataset: Dataset) -> dict[str, Any]:
        """What all outcomes of a journal share."""
        return {
            "weights": dict(self.digests),
            "heads": dict(self.heads),
            "seed": self.seed,
            "preprocess": self.preprocess,
            "precision": self.precision,
            "pictures": _fingerprint(dataset),
        }


@dataclass(frozen=True)
class CheckSpec:
    """What the caller wants to measure, before the models' weights are known."""

    methods: Sequence[Method]
    budgets: Sequence[float]  # Budgets in [0, 1]; without any the model's default.
    arguments: Mapping[str, Any]  # Arguments of every attack.
    kinds: Sequence[str] = ()  # Kinds of corruption.
    noise: Mapping[str, Any] = field(default_factory=dict)  # Arguments of certificates; without any there are none.
    seed: int = 0
    preprocess: str = "model_default"
    precision: str = "auto"

    def plan(self, card: ModelCard, reference: ModelCard | None = None) -> Plan:
        """The plan for a model; corruptions meet the reference too. Raises ValueError for one of another meaning."""
        if self.noise and card.head == "multilabel":
            raise ValueError(f"--certify-sigma: {card.name} has the head multilabel, and one class is certified")
        if reference:
            _check_reference(card, reference)
        budgets = self.budgets or [card.default_eps]
        attacks = [_attack(card.name, method, eps, self.arguments) for eps in budgets for method in self.methods]
        cards = {each.name: each for each in (card, reference) if each}
        corruptions = [
            Trial(kind, str(severity), name, Method.named("corruption", kind=kind, severity=severity), natural=True)
            for name in cards
            for kind in self.kinds
            for severity in SEVERITIES
        ]
        digests = {name: each.weights_digest for name, each in cards.items()}
        heads = {name: each.head for name, each in cards.items()}
        trials = [*attacks, *corruptions, *([_certificate(card.name, self.noise)] if self.noise else [])]
        compared = reference.name if reference else ""
        return Plan(card.name, digests, heads, trials, self.seed, self.preprocess, self.precision, compared)


def _check_reference(card: ModelCard, reference: ModelCard) -> None:
    """Raises ValueError where errors of the two mean different things."""
    same = ("multilabel",) if card.head == "multilabel" else ("softmax", "binary")
    if reference.head not in same:
        raise ValueError(
            f"--reference {reference.name} has the head {reference.head} and {card.name} has {card.head}, so that "
            f"their errors mean different things; take a reference with the head {' or '.join(same)}"
        )


def _attack(model: str, method: Method, eps: float, arguments: Mapping[str, Any]) -> Trial:
    """An attack as a trial. By default it stops at the first success."""
    return Trial(method.name, eps_text(eps), model, method, {"first_success": True, **arguments, "eps": eps})


def _certificate(model: str, noise: Mapping[str, Any]) -> Trial:
    """The certificates of a model as a trial."""
    return Trial(CERTIFIED, f"sigma {noise['sigma']:g}", model, Method.named(CERTIFIED), noise)


def eps_text(eps: float) -> str:
    """4/255 for what is a whole number of 255ths, else the number."""
    steps = eps * 255
    return f"{round(steps)}/255" if steps >= 0.5 and abs(steps - round(steps)) < 1e-9 * 255 else f"{eps:g}"


def check_labels(dataset: Dataset) -> None:
    """Raises ValueError where one picture has several labels, of which one answer could hold some and not others."""
    labels: dict[str, int | None] = {}
    for example in dataset:
        if labels.setdefault(example.id, example.label) != example.label:
            raise ValueError(
                f"{dataset.path}: {example.id} has several labels, but each picture is judged by one; keep the label "
                "that the picture is to be checked for, or give it once under another name for each label"
            )


def _fingerprint(dataset: Dataset) -> str:
    """A digest of ids, labels and the files' sizes and times."""
    files = {each.image for each in dataset if isinstance(each.image, Path)} or {dataset.path}
    stamps = sorted((str(file), *_stamp(file)) for file in files)
    pictures = [(each.id, each.label) for each in dataset]
    return hashlib.blake2b(json.dumps([pictures, stamps]).encode(), digest_size=16).hexdigest()


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat() if file.exists() else None
    return (status.st_size, status.st_mtime_ns) if status else (0, 0)
