"""A small network on a few digits, trained enough to have something to say; its index with nothing left out."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.indexes.examples import ArrayExamples
from gradserve_server.methods.indexes.sources import IndexOrigin
from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.digest import digest
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.loading import Source
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared

CPU, DECAY, CLASSES = torch.device("cpu"), 1e-3, 3
ORIGIN = IndexOrigin("as it is", "three digits")


def network() -> nn.Module:
    """[N, 3, 8, 8] -> [N, 3]; 515 parameters in convolutions with groups, strides, padding, and in a Linear."""
    convolutions = [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(54, CLASSES, bias=False))


@cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """120 training and 20 test digits 0, 1, 2 as bytes, and their labels."""
    x, x_test, y, y_test = parts()
    ours = [(pixels(a[b < CLASSES]), b[b < CLASSES]) for a, b in ((x, y), (x_test, y_test))]
    return ours[0][0][:120], ours[1][0][:20], ours[0][1][:120], ours[1][1][:20]


def examples() -> ArrayExamples:
    return ArrayExamples(data()[0], data()[2])


def images(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).permute(0, 3, 1, 2).double() / 255


@cache
def model() -> Prepared:
    """Trained by L-BFGS with weight decay, in float64."""
    torch.manual_seed(0)
    net = network().double()
    x, y = images(data()[0]) * 2 - 1, torch.from_numpy(data()[2])
    solver = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        decay = sum(p.square().sum() for p in net.parameters())
        loss = F.cross_entropy(net(x), y) + DECAY / 2 * decay
        loss.backward()
        return loss

    solver.step(objective)
    net.eval().requires_grad_(False)
    half = (0.5, 0.5, 0.5)
    source = Source(net, digest(net), tuple("012"), 8, 8, Framing(8, 8), "bilinear", half, half)
    return prepare_source(ModelSpec(name="small"), source, CPU, torch.float64, fold=False)


def run(models: dict[str, Prepared], begin: object) -> object:
    """A job's result; raises what ended it."""
    engine = Engine(models)
    engine.submit(Job("job", next(iter(models)), begin))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return ended.result
