"""Fixtures that several folders share. Nothing here imports torch: the client's tests run without it."""

from pathlib import Path

import pytest
from paths import DATA


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and pictures beside the repository; without it the test is skipped."""
    if not DATA.is_dir():
        pytest.skip("needs the real weights and pictures in ../shared/data")
    return DATA
