"""The page of a concept: some of its pictures and negatives, and the classes that depend on it."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from gradserve.pages import rendered
from gradserve.results.concepts import ClassSensitivity, ConceptDirection

SIDE, SHOWN = 112, 10  # Pixels of the pictures' longer side, and how many are shown of each kind.


def html(
    title: str,
    result: ConceptDirection,
    rows: Sequence[ClassSensitivity],
    concept: Sequence[Image.Image],
    negatives: Sequence[Image.Image],
) -> str:
    """The page; `rows` are the classes that it lists."""
    largest = max((abs(row.z) for row in rows), default=0.0) or 1.0
    lead = f"Layer {result.layer} of {result.provenance.model}; {result.random_directions} random directions."
    values: dict[str, Any] = {
        "title": title,
        "lead": lead,
        "rows": [{"row": row, "width": 50 * abs(row.z) / largest} for row in rows],
        "threshold": result.z_threshold,
        "accuracy": result.accuracy,
        "kinds": {"The concept": concept[:SHOWN], "Negatives": negatives[:SHOWN]},
        "warnings": [*result.warnings, *result.provenance.warnings],
    }
    return rendered("concepts", values, SIDE)
