"""What is reported of the evidence in and outside of masks: by class, the worst pictures, a page and a file."""

import json
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image

from gradserve.bias.run import Evidence, Failed, Measured
from gradserve.robustness import page

RESULTS, PAGE = "results.json", "index.html"
_DARK = 70  # Of 255: how bright the photo is where the object is not.
_LEAD = (
    "How much of the positive evidence for the label lies in the object. A map that knows nothing of the object has as "
    "much there as the object has of the area; much less says that the network looks beside it."
)
_OWN = (
    "The objects were cut out by another map of the same network: what it does not look at is missing in them. Give "
    "masks (--masks) before you judge."
)


@dataclass(frozen=True)
class ClassEvidence:
    """The pictures of a class: mean shares of the evidence in the object, and of the area that it has."""

    class_name: str
    pictures: int
    inside: float
    area: float


def by_class(evidence: Sequence[Evidence]) -> list[ClassEvidence]:
    """The classes, that with the least evidence in its objects first; pictures without positive values are left out."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in evidence:
        if each.inside is not None:
            groups[each.class_name].append((each.inside, each.area))
    rows = [
        ClassEvidence(name, len(pairs), mean(inside for inside, _ in pairs), mean(area for _, area in pairs))
        for name, pairs in groups.items()
    ]
    return sorted(rows, key=lambda row: row.inside)


class Collected:
    """What was measured: the evidence of every picture, and of the worst ones the pictures too."""

    def __init__(self, count: int) -> None:
        """`count`: how many pictures with the least evidence in their objects are kept."""
        self._count = count
        self.evidence: list[Evidence] = []
        self.failed: list[Failed] = []
        self.worst: list[Measured] = []  # The least evidence first; maps without positive values are left out.

    def add(self, found: Measured | Failed) -> None:
        """Adds what was measured of a picture, or why it could not be measured."""
        if isinstance(found, Failed):
            self.failed.append(found)
            return
        self.evidence.append(found.evidence)
        if found.evidence.inside is not None:
            insort(self.worst, found, key=_inside)
            del self.worst[self._count :]

    def __len__(self) -> int:
        return len(self.evidence) + len(self.failed)


def _inside(found: Measured) -> float:
    return found.evidence.inside or 0.0


def document(collected: Collected, settings: Mapping[str, Any], total: int) -> dict[str, Any]:
    """All figures, as JSON takes them. `total`: the pictures of the data set; after an error fewer were measured."""
    evidence = collected.evidence
    inside = [each.inside for each in evidence if each.inside is not None]
    return {
        **settings,
        "total": total,
        "pictures": len(collected),
        "inside": mean(inside) if inside else None,
        "area": mean(each.area for each in evidence) if evidence else None,
        "classes": [asdict(each) for each in by_class(evidence)],
        "evidence": [asdict(each) for each in evidence],
        "failed": {each.id: each.reason for each in collected.failed},
    }


def write(out: Path, collected: Collected, settings: Mapping[str, Any], total: int) -> dict[str, Any]:
    """Writes the file and the page into a folder; returns what is in the file."""
    out.mkdir(parents=True, exist_ok=True)
    result = document(collected, settings, total)
    (out / RESULTS).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    rows = [[each["class_name"], str(each["pictures"]), each["inside"], each["area"]] for each in result["classes"]]
    tables = [page.Table(("class", "pictures", "evidence in the object", "area of the object"), rows)]
    sections = [
        page.Section("By class", _LEAD if settings["masks"] else f"{_LEAD} {_OWN}", (), tables=tables),
        page.Section("Least evidence in the object", "", [_story(each) for each in collected.worst]),
    ]
    origin = {name: str(value) for name, value in settings.items() if value not in (None, {})}
    title = f"{settings['model']}: evidence in the object"
    lead = f"{len(collected)} of {total} pictures; {len(collected.failed)} could not be measured"
    (out / PAGE).write_text(page.html(title, lead, sections, origin=origin), encoding="utf-8")
    return result


def _story(found: Measured) -> page.Story:
    evidence, explanation = found.evidence, found.explanation
    shares = [("evidence in it", evidence.inside or 0.0), ("its area", evidence.area)]
    figures = [page.Figure(explanation.method, [explanation.overlay()]), page.Figure("object", [lit(found)])]
    return page.Story(f"{evidence.class_name}: {evidence.id}", explanation.original(), shares, figures)


def lit(found: Measured) -> Image.Image:
    """The photo, dark where the object is not."""
    photo = found.explanation.original()
    left, top, right, bottom = found.explanation.region.box()
    seen = Image.fromarray(np.where(found.mask, 255, _DARK).astype(np.uint8)).resize((right - left, bottom - top))
    light = Image.new("L", photo.size, _DARK)
    light.paste(seen, (left, top))
    return Image.composite(photo, Image.new("RGB", photo.size), light)
