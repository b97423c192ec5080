import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from paths import data as data
from PIL import Image

from gradserve import Client

from .fake import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    fake.server.start()
    yield fake
    fake.server.stop(None)


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.target, timeout=10) as client:
        yield client


@pytest.fixture
def photo() -> Image.Image:
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.stack([x * 3, y * 4, (x + y) % 256], axis=-1).astype(np.uint8))


@pytest.fixture
def photo_path(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    photo.save(path)
    return path


def jpeg(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()
