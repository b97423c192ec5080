"""What Dense answers about a network, without a server, for the tests that compare it with plain torch."""

import torch
from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.dense import DenseArguments, DenseMaps, dense
from gradserve_server.methods.targets import Target
from gradserve_server.models.dense import try_head
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.tiles import DenseHead


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Blots with some noise, [1, 3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    blots = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (blots + 0.1 * torch.randn(1, 3, height, width, generator=generator)).clamp(0, 1)


def answer(model: Prepared, x: Tensor, *targets: Target, tile: int | None = None) -> DenseMaps:
    """What a worker answers."""
    size = (tile, tile) if tile else (x.shape[2], x.shape[3])
    arguments = DenseArguments(targets or (Target(rank=1),), size, model.card.head, dense_head(model))
    engine, events = Engine({"model": model}), []
    engine.submit(Job("job", "model", lambda job: dense(job, x, arguments)))
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    found: DenseMaps = ended.result
    return found


def dense_head(model: Prepared) -> DenseHead:
    while (head := try_head(model)) is None:
        pass
    return head


def every_class(model: Prepared) -> list[Target]:
    return [Target(label=i) for i in range(len(model.card.classes))]


def largest_difference(found: object, right: object) -> float:
    """Relative to the largest absolute value of what is right."""
    a, b = torch.as_tensor(found).double(), torch.as_tensor(right).double()
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())
