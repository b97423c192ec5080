"""Style transfer as one user writes it: torchvision's network, hooks, autograd, Adam. The yardstick of `stylize`."""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Script:
    """One network with hooks on the layers of one transfer."""

    def __init__(self, model: str, weights: Path, style: list[str], content: list[str]) -> None:
        self.network = get_model(model, weights=None)
        self.network.load_state_dict(load_file(weights))
        self.network.eval().requires_grad_(False)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.style, self.content = style, content
        self.kept: dict[str, Tensor] = {}
        for name in {*style, *content}:
            module = self.network.get_submodule(name)
            module.register_forward_hook(lambda module, args, out, name=name: self.kept.update({name: out.clone()}))
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def layers(self, image: Tensor, pad: int) -> dict[str, Tensor]:
        """Runs the convolutions and returns what the hooks kept."""
        seen = F.pad(image, (pad,) * 4, mode="reflect").contiguous(memory_format=torch.channels_last)
        self.network.features((seen - self.mean) / self.std)
        return dict(self.kept)

    def transfer(self, content: np.ndarray, style: np.ndarray, steps: int, pad: float) -> list[float]:
        """Seconds after each step."""
        photo, other = (torch.from_numpy(each).permute(2, 0, 1)[None] / 255 for each in (content, style))
        width = round(pad * min(photo.shape[2:]))
        with torch.no_grad():
            kept = self.layers(photo, width)
            aims = {name: kept[name] for name in self.content}
            kept = self.layers(other, width)
            grams = {name: gram(kept[name]) for name in self.style} | {"": gram(with_one(other))}
        image = photo.clone().requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.04, betas=(0.9, 0.99))
        begun, seconds = time.perf_counter(), []
        for _ in range(steps):
            kept = self.layers(image, width)
            ours = {name: gram(kept[name]) for name in self.style} | {"": gram(with_one(image))}
            loss = sum(relative(ours[name], grams[name]) for name in grams) / len(grams)
            loss = loss + 0.05 * sum(relative(kept[name], aims[name]) for name in aims) / len(aims)
            down, across = image[:, :, 1:] - image[:, :, :-1], image[..., 1:] - image[..., :-1]
            loss = loss + 0.1 * (down.square().mean() + across.square().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
            seconds.append(time.perf_counter() - begun)
        return seconds


def gram(maps: Tensor) -> Tensor:
    """[1, C, h, w] -> [C, C]."""
    vectors = maps[0].flatten(1)
    return vectors @ vectors.T / vectors.shape[1]


def with_one(image: Tensor) -> Tensor:
    """Pixels with a 1 appended."""
    return torch.cat([image, torch.ones_like(image[:, :1])], 1)


def relative(ours: Tensor, target: Tensor) -> Tensor:
    """Squared distance over the target's square."""
    return (ours - target).square().sum() / target.square().sum()


def main(
    task: Annotated[str, typer.Argument(help="JSON: model, weights, layers, pictures, steps, pad, threads.")],
) -> None:
    """Runs the transfers one after another; prints seconds and CPU seconds of all."""
    told = json.loads(task)
    torch.set_num_threads(told["threads"])
    with np.load(told["pictures"]) as pictures:
        content, styles = pictures["content"], list(pictures["styles"])
    script = Script(told["model"], Path(told["weights"]), told["style_layers"], told["content_layers"])
    script.transfer(content, styles[0], 2, told["pad"])
    wall, cpu = time.perf_counter(), time.process_time()
    for style in styles:
        script.transfer(content, style, told["steps"], told["pad"])
    print(json.dumps({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    typer.run(main)
