"""Where real weights, pictures and networks of the field lie, if they are there."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
CASES = Path(__file__).resolve().parents[1].parent / "shared" / "cases" / "networks.py"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and pictures beside the repository; without it the test is skipped."""
    if not DATA.is_dir():
        pytest.skip("needs the real weights and pictures in ../shared/data")
    return DATA
