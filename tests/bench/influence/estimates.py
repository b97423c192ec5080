"""What the service's own code says, asked as its workers ask it: many test images side by side in one engine."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.indexes.examples import ArrayExamples
from gradserve_server.methods.indexes.sources import IndexOrigin
from gradserve_server.methods.influence import IndexedModel, InfluenceArguments, influence, unfolded
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.digest import digest
from gradserve_server.models.loading import Source
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared

CPU = torch.device("cpu")


def served(network: nn.Module, side: int) -> Prepared:
    """A network of ten classes that takes pixels in [0, 1] as they are."""
    plain = (0.0,) * 3, (1.0,) * 3
    source = Source(network, digest(network), tuple("0123456789"), side, side, Framing(side, side), "bilinear", *plain)
    return prepare_source(ModelSpec(name="it"), source, CPU, torch.float32, fold=False)


def indexed(model: Prepared, x: Tensor, y: Tensor, folder: Path, plan: IndexPlan) -> Index:
    """The index of these pictures [N, 1 or 3, H, W] in [0, 1], built once."""
    if not folder.exists():
        Builder(model, ArrayExamples(as_bytes(x), y.numpy()), IndexOrigin("bench", "bench"), plan).run(folder)
    return Index(folder)


def as_bytes(x: Tensor) -> np.ndarray:
    """[N, 1 or 3, H, W] -> [N, H, W, 3] uint8."""
    return (x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1) * 255).round().byte().numpy()


def changes(
    members: Sequence[tuple[Prepared, Path]],
    x: Tensor,
    labels: Tensor,
    method: str,
    *,
    goal: str = "margin",
    newton: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted changes [tests, N] when each training example is removed: first order, and by Newton steps if asked."""
    names = [f"it{i}" for i in range(len(members))]
    models = {unfolded(name): model for name, (model, _) in zip(names, members, strict=True)}
    engine = Engine(models)
    asked = tuple(IndexedModel(name, str(folder)) for name, (_, folder) in zip(names, members, strict=True))
    count = len(Index(members[0][1]))
    for i, (image, label) in enumerate(zip(x.expand(-1, 3, -1, -1), labels.tolist(), strict=True)):
        arguments = InfluenceArguments(asked, method, goal, label, rank=1, top=count, newton=newton)
        begin = partial(influence, x=image[None], arguments=arguments)
        engine.submit(Job(str(i), unfolded(names[0]), begin))
    first, stepped = np.zeros((len(x), count)), np.zeros((len(x), count))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended):
                if event.error:
                    raise event.error
                rows = np.concatenate([event.result.helpful, event.result.harmful]).astype(int)
                first[int(event.job.id), rows] = event.result.scores
                if event.result.corrected is not None:
                    stepped[int(event.job.id), rows] = event.result.corrected
    return first, stepped if newton else first
