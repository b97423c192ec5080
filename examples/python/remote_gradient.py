"""A function of PyTorch that is differentiated by the service: train what stands before a model that is served.

    python remote_gradient.py photos/ --server 127.0.0.1:50051

As an example it learns a sticker of 64 x 64 pixels which, laid on any of the photos, makes the model see a class
(Brown et al. 2017). Only the sticker is a parameter here; neither the network nor its weights are on this machine.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import gradserve

STICKER, PLACE = 64, 16  # Pixels of the sticker's side, and of its distance from the picture's corner.


class RemoteModel(torch.autograd.Function):
    """Pictures [N, 3, H, W] in [0, 1] -> logits [N, classes]; the service computes both directions."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, client: gradserve.Client, model: str) -> Tensor:
        """A forward pass of the service."""
        pixels = pictures.detach().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        ctx.facts = pixels, client, model
        logits = client.differentiate(pixels, model=model, forward_only=True).logits
        return torch.from_numpy(np.array(logits)).to(pictures)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        """The vector-Jacobian product of each picture with the slope of the loss by its logits."""
        pixels, client, model = ctx.facts
        goals = [gradserve.Goal.logits(slope) for slope in slopes[0].cpu().numpy()]
        found = client.differentiate(pixels, goals, model=model, format="float16")
        return torch.from_numpy(found.gradient).permute(0, 3, 1, 2).to(slopes[0]), None, None


def logits_of(pictures: Tensor, client: gradserve.Client, model: str = "") -> Tensor:
    """The served model's logits, through which torch differentiates like through any function."""
    logits: Tensor = RemoteModel.apply(pictures, client, model)
    return logits


def stuck_on(photos: Tensor, sticker: Tensor) -> Tensor:
    """The photos with the sticker near their upper left corner."""
    end = PLACE + STICKER
    mask = torch.zeros_like(photos[:1])
    mask[..., PLACE:end, PLACE:end] = 1
    height, width = photos.shape[2:]
    placed = F.pad(sticker.sigmoid(), (PLACE, width - end, PLACE, height - end))
    return photos * (1 - mask) + placed * mask


def train(client: gradserve.Client, photos: Tensor, label: int, steps: int, model: str = "") -> tuple[Tensor, float]:
    """A sticker for which the class is probable on all photos, and its mean probability after the last step."""
    sticker = torch.zeros(1, 3, STICKER, STICKER, requires_grad=True)
    optimizer = torch.optim.Adam([sticker], lr=0.2)
    labels = torch.full((len(photos),), label)
    for step in range(steps):
        loss = F.cross_entropy(logits_of(stuck_on(photos, sticker), client, model), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.3f}")
    logits = logits_of(stuck_on(photos, sticker.detach()), client, model)
    return sticker.detach().sigmoid(), float(logits.softmax(1)[:, label].mean())


def opened(path: Path, height: int, width: int) -> Tensor:
    """The middle of a photo as [3, H, W] in [0, 1]."""
    photo = Image.open(path).convert("RGB")
    scale = max(height / photo.height, width / photo.width)
    photo = photo.resize((max(width, round(photo.width * scale)), max(height, round(photo.height * scale))))
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    pixels = np.array(photo.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder of JPEG files")
    parser.add_argument("--label", default="toaster", help="what the model is to see")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("sticker.png"))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", default="", help="left out: the server's default")
    arguments = parser.parse_args()
    try:
        with gradserve.Client(arguments.server) as client:
            card = client.model(arguments.model)
            photos = torch.stack([opened(path, *card.input_size) for path in sorted(arguments.photos.glob("*.jpg"))])
            if arguments.label not in card.classes:
                own = f"a class of {card.name}, such as {card.classes[0]!r}"
                raise ValueError(f"--label must be {own}; was {arguments.label!r}")
            label = list(card.classes).index(arguments.label)
            sticker, probability = train(client, photos, label, arguments.steps, arguments.model)
    except (gradserve.GradserveError, OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    Image.fromarray((sticker[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(arguments.out)
    print(f"{arguments.out}: {arguments.label} {probability:.1%} on {len(photos)} photos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
