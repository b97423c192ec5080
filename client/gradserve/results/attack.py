"""What an attack gives: the adversarial picture and its certificate."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.parameters.method import ParameterValue
from gradserve.results.common import Provenance, Region, Result, Score
from gradserve.results.explain import Explanation

OBSTACLES = (
    "ZERO_GRADIENT",
    "SATURATED",
    "FLAT_LOSS",
)  # Codes of warnings that an attack had no gradient or change of its loss to follow.


@dataclass(frozen=True)
class Judgement:
    """What the model says of one picture.

    label: the true class. margin: the distance from the goal in logits, below 0 where it is reached. target: the class
    that the model was to predict; None where there was none, or from an older server.
    """

    predicted: Score
    label: Score
    margin: float
    target: Score | None = None


@dataclass(frozen=True)
class TrajectoryStep:
    """One step of an attack: of its pictures, the one that came closest to the goal."""

    step: int
    predicted: Score
    margin: float
    loss: float


@dataclass(frozen=True)
class AttackStage:
    """One attack of an ensemble: whether it reached the goal in 8 bits within the budget, and the rows that it asked.

    queries: rows that it asked scores of, those of gradients included.
    """

    method: str
    reached: bool
    queries: int
    gradients: int


@dataclass(frozen=True)
class Certificate:
    """Measured on the returned bytes, in fp32, in passes of their own. Distances are of pixels in [0, 1].

    verdict: "found", "not_found", "already_misclassified" or "lost_in_encoding". label: the true class. target: the
    class to be predicted, if there was one. before, after: the two pictures, through the defence; undefended: the
    adversarial one without it. l0: pixels that changed. eps: the budget; None where the method has a measure of its
    own. queries, gradients: how many rows the attack asked scores of, and gradients of. first_success: the step of the
    first success, if there was one. mask_pixels: pixels of the model's input inside the mask, if there was one.
    """

    verdict: str
    label: int
    label_name: str
    target: int | None
    target_name: str
    before: Judgement
    after: Judgement
    undefended: Judgement | None
    l0: int
    l2: float
    linf: float
    norm: str
    eps: float | None
    within_budget: bool
    queries: int
    gradients: int
    first_success: int | None
    warnings: tuple[str, ...]
    mask_pixels: int | None = None

    @property
    def obstacles(self) -> tuple[str, ...]:
        """The warnings that the attack had nothing to follow: a picture that it did not change proves nothing."""
        return tuple(text for text in self.warnings if text.split(":")[0] in OBSTACLES)

    @property
    def change(self) -> tuple[Score, Score]:
        """Two scores that show the outcome, of the original picture and of the adversarial one.

        Usually they are those of the two predictions. Where these do not show the outcome, they are those of one class:
        of the target, if it was reached without being predicted (as under a multilabel head) or if the prediction is
        still the same; of the label, if the attack succeeded and another class was predicted before and after.
        """
        success = self.verdict == "found"
        same = self.before.predicted.class_index == self.after.predicted.class_index
        if self.target is not None:
            shows_outcome = self.after.predicted.class_index == self.target or not (success or same)
            if not shows_outcome and self.before.target is not None and self.after.target is not None:
                return self.before.target, self.after.target
        elif success and same:
            return self.before.label, self.after.label
        return self.before.predicted, self.after.predicted


@dataclass(frozen=True, eq=False, repr=False)
class Attack(Result):
    """An adversarial picture, its certificate, and what else was asked for.

    perturbation: a PNG file of the change, `magnification` times as strong, grey where nothing changed. trajectory: an
    entry for each step, 0 being the start. patch: a PNG file of the sticker. success_rate: share of random points
    ("sphere"), or of fresh random changes ("patch", `eot`), on which the goal is reached. asked, done: steps,
    generations, queries or stages. stages: what each attack of an ensemble did, in order, as far as they ran; empty for
    other methods.
    """

    adversarial: bytes = field(repr=False)  # The bytes of a PNG file.
    perturbation: bytes | None
    magnification: float
    certificate: Certificate
    trajectory: tuple[TrajectoryStep, ...]
    method: str
    parameters: Mapping[str, ParameterValue]
    loss: str
    map_before: Explanation | None
    map_after: Explanation | None
    patch: bytes | None
    success_rate: float | None
    asked: int
    done: int
    region: Region
    provenance: Provenance
    stages: tuple[AttackStage, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the returned picture reaches the goal."""
        return self.certificate.verdict == "found"

    @property
    def pixels(self) -> images.Array:
        """The adversarial picture, uint8 [H, W, 3]; to be sent back with preprocess="as_is"."""
        return np.asarray(self.image())

    def image(self) -> Image.Image:
        """The adversarial picture."""
        return images.from_file(self.adversarial)

    def perturbation_image(self) -> Image.Image:
        """The perturbation, magnified; ValueError if it was not asked for."""
        if self.perturbation is None:
            raise ValueError("the perturbation was not asked for: attack(..., perturbation=True)")
        return images.from_file(self.perturbation)

    def original_image(self) -> Image.Image:
        """What the model saw before, from the perturbation, which must have been asked for."""
        change = np.asarray(self.perturbation_image()).astype(np.float64) - 128
        pixels = np.asarray(self.image()).astype(np.float64) - change / self.magnification
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the adversarial picture as it came; only as PNG, since other formats change pixels."""
        path = png_path(path)
        path.write_bytes(self.adversarial)
        return path

    def _repr_png_(self) -> bytes:
        return self.adversarial

    def __repr__(self) -> str:
        c = self.certificate
        before, after = c.change
        budget = "" if c.eps is None else f" of {c.eps * 255:.3g}/255" if c.norm == "linf" else f" of {c.eps:.3g}"
        size = f"{c.linf * 255:.3g}/255" if c.norm == "linf" else f"{c.l2:.3g}"
        return (
            f"<Attack {self.method}: {c.verdict}, {before.class_name} ({before.probability:.1%}) -> "
            f"{after.class_name} ({after.probability:.1%}), {c.norm} {size}{budget}, {c.queries} queries, "
            f"{self.provenance.model}>"
        )


def png_path(path: str | os.PathLike[str]) -> Path:
    """The path of an adversarial picture. Raises ValueError if it does not end in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: an adversarial picture is saved as .png; other formats would change its pixels")
    return path
