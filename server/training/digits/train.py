"""Trains `digits` on scikit-learn's bundled data: python -m training.digits.train."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from gradserve_server.models.embedded.digits import data
from gradserve_server.models.embedded.digits.network import digits

WEIGHTS = Path(data.__file__).parent / "digits.safetensors"


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of images whose top class is the label."""
    with torch.no_grad():
        return float((network.eval()(x).argmax(1) == y).float().mean())


def shifted(x: Tensor) -> Tensor:
    """Each image moved by up to one pixel, black moving in."""
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    dy, dx = torch.randint(0, 3, (2, len(x)))
    return torch.stack([p[:, i : i + 8, j : j + 8] for p, i, j in zip(padded, dy.tolist(), dx.tolist(), strict=True)])


def train(epochs: int, seed: int, batch: int = 64) -> tuple[nn.Module, float]:
    """The trained network in eval mode, and its accuracy on held-out digits."""
    torch.manual_seed(seed)
    x, x_test, y, y_test = data.split()
    network = digits().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    for _ in track(range(epochs), "training digits"):
        network.train()
        for rows in torch.randperm(len(x))[: steps // epochs * batch].split(batch):
            loss = nn.functional.cross_entropy(network(shifted(x[rows])), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval(), accuracy(network, x_test, y_test)


def main(
    out: Annotated[Path, typer.Option(help="file to write the weights to")] = WEIGHTS,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the 1437 training digits")] = 60,
    seed: Annotated[int, typer.Option(help="of initialisation, order and shifts")] = 0,
) -> None:
    """Train the embedded `digits` model and print its accuracy on the 360 held-out digits."""
    torch.set_num_threads(1)
    network, held_out = train(epochs, seed)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, out)
    print(f"held-out accuracy {held_out:.4f}; {out.stat().st_size} bytes in {out}")


if __name__ == "__main__":
    typer.run(main)
