"""What the benchmarks of Maximize and Stylize share: the served networks, pictures, scores of a finished picture."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from gradserve import Client

from .serving import served

DATA = Path(__file__).parents[3] / "shared" / "data"
NETWORKS = ("mobilenet_v2", "squeezenet1_0")

Data = Annotated[Path, typer.Option("--data", file_okay=False, help="Folder with style/, images/ and the weights.")]
Pictures = Annotated[Path | None, typer.Option("--pictures", help="Folder for the pictures.")]
Address = Annotated[str | None, typer.Option("--server", help="Ask this server, which has both networks; start none.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Of the server that is started.")]


@contextmanager
def asking(data: Path, server: str | None, workers: int) -> Iterator[Client]:
    """A client of a server with both trained networks."""
    if server:
        with Client(server, timeout=600) as client:
            yield client
        return
    with TemporaryDirectory() as folder:
        catalogue = Path(folder) / "server.toml"
        catalogue.write_text(configuration(data))
        with served(catalogue, workers) as running, Client(running.address, timeout=600) as client:
            yield client


def configuration(data: Path) -> str:
    """The networks in one precision, with room for jobs that run side by side for minutes."""
    tables = [f'[models.{name}]\nweights = "{data / name}-imagenet.safetensors"\nresize = 256' for name in NETWORKS]
    return "\n".join(["[pool]", "queue_seconds = 3600", *tables]) + "\n"


def opened(path: Path, longer: int) -> np.ndarray:
    """A picture with that longer side, [H, W, 3] uint8."""
    picture = Image.open(path).convert("RGB")
    scale = longer / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def pixels(png: bytes) -> np.ndarray:
    """[H, W, 3] uint8."""
    return np.asarray(Image.open(io.BytesIO(png)))


def keep(folder: Path | None, name: str, png: bytes) -> None:
    """Saves a picture where the caller wants them."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(png)
