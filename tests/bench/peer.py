"""What the peers have in common: the methods with their settings, the network, pictures in and out."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model

METHODS = ("gradient", "smooth_grad", "pgd", "predict")
MIX = {"gradient": 5, "smooth_grad": 2, "pgd": 2, "predict": 1}
CLASS, SAMPLES, NOISE, STEPS, EPS, ALPHA = 0, 16, 0.15, 10, 8 / 255, 2 / 255
SUBTRACTED = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
SCALED = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def network(model: str) -> nn.Module:
    """The author's own code with random weights."""
    torch.manual_seed(0)
    return get_model(model, weights=None).eval()


def decoded(jpeg: bytes) -> Tensor:
    """A picture of the network's size as [1, 3, H, W] in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def encoded(pixels: np.ndarray) -> bytes:
    """PNG as Pillow makes it at its fastest."""
    file = io.BytesIO()
    Image.fromarray(np.atleast_2d(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()
