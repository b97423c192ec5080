"""Where real weights, pictures and networks of the field lie, if they are there."""

from pathlib import Path

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
CASES = Path(__file__).resolve().parents[1].parent / "shared" / "cases" / "networks.py"
