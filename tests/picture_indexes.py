"""Indexes of pictures for tests, built once in each process that needs them."""

import tempfile
from functools import cache
from pathlib import Path

from serving import MODELS

_FOLDER = tempfile.TemporaryDirectory()
RESNET = """
[models.resnet20]
builder = "networks:resnet20"
weights = "{weights}"
height = 32
width = 32
"""


def build(*words: object) -> None:
    """`gradserve index --kind pictures` with these words. Raises AssertionError where it fails."""
    from gradserve_server.offline.index import main  # The import stands here, since it takes torch.

    assert main(["--kind", "pictures", *map(str, words)]) == 0


@cache
def digits_pictures() -> Path:
    """The folder of an index of what `digits` was trained on."""
    folder = Path(_FOLDER.name) / "digits"
    build("--model", "digits", "--out", folder)
    return folder


def models_with_pictures() -> str:
    """MODELS of serving.py, with an index of pictures for `digits`."""
    return MODELS.replace("[models.digits]\n", f'[models.digits]\npictures = "{digits_pictures()}"\n')
