"""The demo's chapter "Can it be fooled?": attacks with their certificates, and corruptions."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradserve.arguments import Pick
from gradserve.cli.demo.explaining import verdict
from gradserve.cli.demo.page import Figure, Mark
from gradserve.cli.demo.samples import SamplePicture, photos
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.parameters.method import Method
from gradserve.results.attack import Attack
from gradserve.results.models import ModelCard

_TOASTER = "toaster"
_ATTACKS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("fgsm", "One step along the sign of the gradient.", {"method": "fgsm", "eps": "2/255"}),
    ("pgd", "Ten small steps, each kept within the budget.", {"method": "pgd", "eps": "1/255"}),
    (
        "pgd in L2",
        "The same with a budget for the whole picture's distance.",
        {"method": "pgd", "norm": "l2", "eps": 0.5},
    ),
    (
        "sphere",
        "Control: a hundred random changes as large as pgd's in L2.",
        {"method": ("sphere", {"points": 100}), "norm": "l2", "eps": 0.5},
    ),
    (
        "square",
        "Sees scores only, no gradient: tries random squares.",
        {"method": "square", "eps": "4/255", "queries": 500},
    ),
)
_CORRUPTIONS = ("brightness", "motion_blur", "pixelate", "frost", "fog")
_VERDICTS = {
    "found": Mark("fooled", "bad"),
    "not_found": Mark("stands", "good"),
    "already_misclassified": Mark("was wrong before", "open"),
    "lost_in_encoding": Mark("lost in 8 bits", "open"),
}


def targeted_attack(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    """PGD until the model sees a toaster, or the least likely class where it knows no toaster."""
    target = _TOASTER if _TOASTER in card.classes else Pick.LEAST_LIKELY
    text = "The certificate was measured on the returned file."
    arguments = {"method": "pgd", "target": target, "eps": "4/255", "steps": 20, "loss": "margin"}
    return _attack(card, picture, "attacked by pgd", text, arguments)


def _attack(
    card: ModelCard, picture: SamplePicture, title: str, sentence: str, arguments: Mapping[str, Any]
) -> DemoRequest:
    """The changed picture beside the magnified difference, with what the certificate says."""

    def draw(answer: Attack) -> Sequence[Figure]:
        certificate = answer.certificate
        before, after = certificate.change
        value = f"{before.class_name} {before.probability:.0%} → {after.class_name} {after.probability:.0%}"
        measured = f"Largest change {255 * certificate.linf:.3g}/255, L2 {certificate.l2:.2g}"
        inset = answer.perturbation_image() if answer.perturbation else None
        measured += f"; in the corner {answer.magnification:.0f} times as strong." if inset else "."
        mark = _VERDICTS.get(certificate.verdict, Mark(certificate.verdict, "open"))
        pictures, text = [answer.image()], f"{sentence} {measured}"
        return [Figure(title, pictures, text, value, mark, warnings=certificate.warnings, inset=inset)]

    return DemoRequest(
        card.name,
        picture.name,
        title,
        lambda client: client.attack(picture.data, model=card.name, perturbation=True, **arguments),
        draw,
        weight=4,
    )


def _corruption(card: ModelCard, picture: SamplePicture, kind: str) -> DemoRequest:
    def draw(answer: Attack) -> Sequence[Figure]:
        after = answer.certificate.after.predicted
        value, mark = f"{after.class_name} {after.probability:.0%}", verdict(card, picture, after.class_name)
        return [Figure(kind.replace("_", " "), [answer.image()], value=value, mark=mark)]

    return DemoRequest(
        card.name,
        picture.name,
        kind,
        lambda client: client.attack(picture.data, Method.named("corruption", kind=kind, severity=5), model=card.name),
        draw,
    )


def chapter(card: ModelCard) -> Chapter:
    """Attacks on one photo, and corruptions of another."""
    rows = []
    for picture in photos("coffee"):
        requests = [_attack(card, picture, *attack) for attack in _ATTACKS]
        text = "An attack looks for a change within a small budget that makes the model err."
        rows.append(Row(requests, "On purpose", text, columns=5))
        requests = [_corruption(card, picture, kind) for kind in _CORRUPTIONS]
        rows.append(Row(requests, "By weather and cameras", "Corruptions of ImageNet-C at their worst.", columns=5))
    lead = "Every answer has a certificate: the returned file is decoded again and judged apart from all other work."
    return Chapter("Can it be fooled?", lead, rows)
