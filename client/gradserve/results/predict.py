"""What Predict gives: the most probable classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from gradserve.results.common import Provenance, Region, Result, Score


@dataclass(frozen=True)
class Prediction(Result):
    """The most probable classes, best first."""

    top: tuple[Score, ...]
    region: Region
    provenance: Provenance

    def __iter__(self) -> Iterator[Score]:
        return iter(self.top)

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, place: int) -> Score:
        return self.top[place]

    def __str__(self) -> str:
        return "\n".join(f"{score.probability:7.2%}  {score.class_name}" for score in self.top)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(score.class_name)}</td><td style='width:12em'><div style='height:.8em;border-radius:3px;"
            f"background:#3b82f6;width:{100 * score.probability:.1f}%'></div></td><td>{score.probability:.2%}</td></tr>"
            for score in self.top
        )
        return f"<table><caption>{escape(self.provenance.model)}</caption>{rows}</table>"
