"""CIFAR-10 from disk, and what happens to a training image before the network sees it. Images: uint8 [N,32,32,3]."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gradserve_server.models.embedded.cifar10.network import LABELS

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
SIDE = 32


@dataclass(frozen=True)
class Dataset:
    """Images and their class indices."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Dataset":
        """Returns the images at an index or under a mask."""
        return Dataset(self.images[index], self.labels[index])


def load(path: Path) -> Dataset:
    """Returns a data set from an npz (`images` or `jpeg` + `offsets`, and `labels`) or a folder of class folders."""
    if path.is_dir():
        return load_folder(path)
    with np.load(path, allow_pickle=False) as file:
        labels = file["labels"].astype(np.int64)
        if "images" in file.files:
            return Dataset(file["images"], labels)
        blob, offsets = file["jpeg"].tobytes(), file["offsets"].tolist()
    files = [blob[a:b] for a, b in pairwise(offsets)]
    return Dataset(np.stack([decode(io.BytesIO(f)) for f in files]), labels)


def load_folder(path: Path) -> Dataset:
    """Returns the images of `path/<class name>/*`; the class names are the ten of CIFAR-10."""
    files = [(f, i) for i, name in enumerate(LABELS) for f in sorted((path / name).glob("*")) if f.is_file()]
    if not files:
        raise FileNotFoundError(f"{path} holds no class folders such as {path / LABELS[0]}")
    return Dataset(np.stack([decode(f) for f, _ in files]), np.array([i for _, i in files], np.int64))


def decode(file: io.BytesIO | Path) -> Pixels:
    """Returns the pixels of an encoded image of 32 x 32."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        raise ValueError(f"CIFAR-10 images are {SIDE} x {SIDE}, not {pixels.shape[1]} x {pixels.shape[0]}")
    return pixels


def load_all(paths: Sequence[Path]) -> Dataset:
    """Returns all images of all files; a picture that comes again in a later file is taken from there alone."""
    whole = load(paths[0])
    for path in paths[1:]:
        more = load(path)
        whole = whole.take(~twins(whole.images, more.images))
        whole = Dataset(np.concatenate([whole.images, more.images]), np.concatenate([whole.labels, more.labels]))
    return whole


def thumbnails(images: Pixels) -> npt.NDArray[np.float32]:
    """Returns the mean brightness of 4x4 pixels, which JPEG hardly touches: [N,32,32,3] -> [N,64]."""
    luma = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.ascontiguousarray(luma.reshape(len(images), 8, 4, 8, 4).mean((2, 4)).reshape(len(images), -1))


def twins(images: Pixels, others: Pixels, tolerance: float = 4.0) -> npt.NDArray[np.bool_]:
    """Returns which images are among the others, up to what JPEG does (rms difference of thumbnails, grey levels)."""
    mine, theirs = thumbnails(images), thumbnails(others)
    norms = (theirs**2).sum(1)
    nearest = np.concatenate([(norms - 2 * part @ theirs.T).min(1) for part in np.array_split(mine, 50)])
    squared = nearest + (mine**2).sum(1)
    return np.asarray(squared < tolerance**2 * mine.shape[1], np.bool_)


def split(data: Dataset, count: int, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
    """Returns a training part and a held-out part; the latter from the last tenth: the last file, if there are more."""
    tail = np.arange(len(data) - max(count, len(data) // 10), len(data))
    held = np.zeros(len(data), np.bool_)
    held[rng.choice(tail, count, replace=False)] = True
    return data.take(~held), data.take(held)


def reencode(image: Pixels, quality: int, subsampling: int = 2) -> Pixels:
    """Returns the image after JPEG; subsampling 2 halves the chroma, 0 keeps it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


def resample(image: Pixels, side: int, down: int, up: int) -> Pixels:
    """Returns the image resized to another side and back, with Pillow's filters."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling(down))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling(up)))


def disturb(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Returns the image as another path might have brought it: re-encoded, resampled or noisy."""
    kind = rng.random()
    if kind < 0.4:
        shift = rng.integers(0, 8, 2)  # The 8x8 grid of a crop lies anywhere.
        moved = reencode(np.roll(image, shift, (0, 1)), int(rng.integers(60, 96)), int(rng.choice([0, 2, 2])))
        return np.roll(moved, -shift, (0, 1))
    if kind < 0.7:
        down, up = rng.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS], 2)
        return resample(image, int(rng.integers(22, 65)), int(down), int(up))
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 6)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def disturbed(images: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Returns a copy in which a share of the images is disturbed."""
    result = images.copy()
    for i in np.flatnonzero(rng.random(len(images)) < share):
        result[i] = disturb(images[i], rng)
    return result


def crop_and_flip(images: Pixels, rng: np.random.Generator) -> Pixels:
    """Returns random crops of the images reflected at their borders (by 4 pixels), half of them mirrored."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    corners = rng.integers(0, 9, (len(images), 2))
    mirrored = rng.random(len(images)) < 0.5
    result = np.empty_like(images)
    for i, ((y, x), flip) in enumerate(zip(corners, mirrored, strict=True)):
        crop = padded[i, y : y + SIDE, x : x + SIDE]
        result[i] = crop[:, ::-1] if flip else crop
    return result


def cut_out(images: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Returns the images with one grey square each (DeVries & Taylor 2017)."""
    side = images.shape[1]
    for image, (y, x) in zip(images, rng.integers(0, side, (len(images), 2)), strict=True):
        image[max(0, y - size // 2) : y + size // 2, max(0, x - size // 2) : x + size // 2] = (125, 123, 114)
    return images


def to_tensor(images: Pixels) -> Tensor:
    """Returns [N,H,W,3] uint8 as [N,3,H,W] float32 in [0, 1], channels_last."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255).contiguous(
        memory_format=torch.channels_last
    )
