"""Where real weights and pictures lie, if they are there."""

from pathlib import Path

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
