"""What answers of several RPCs have: scores of classes, the part of the picture that was seen, their provenance."""

from dataclasses import dataclass

from gradserve import images


@dataclass(frozen=True)
class Region:
    """The part of the original picture that the model saw, in pixels of the original (upright)."""

    x: float
    y: float
    width: float
    height: float
    image_width: int
    image_height: int

    def box(self, scale: int = 1) -> images.Box:
        """Left, top, right, bottom in whole pixels of the original enlarged by the scale, at least one pixel large."""
        left = min(max(round(self.x * scale), 0), self.image_width * scale - 1)
        top = min(max(round(self.y * scale), 0), self.image_height * scale - 1)
        right = min(round((self.x + self.width) * scale), self.image_width * scale)
        bottom = min(round((self.y + self.height) * scale), self.image_height * scale)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from: enough to repeat it."""

    model: str
    weights_digest: str
    seed: int
    precision: str
    preprocess: str
    rows: int
    queue_seconds: float
    compute_seconds: float
    server_version: str
    warnings: tuple[str, ...]
    request_id: str
    quick_decode: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Score:
    """A class with its score."""

    class_index: int
    class_name: str
    probability: float
    logit: float
