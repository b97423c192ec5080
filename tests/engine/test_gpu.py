"""What the engine answers on a GPU; skipped where there is none."""

import pytest
import torch

from gradserve_server.engine.cuda_graphs import MIN_GRAPH_USES
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Query
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.preparation import prepare

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def gradient_on(device: str) -> torch.Tensor:
    model = prepare(EMBEDDED["digits"], torch.device(device))
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def method(job: Job) -> Steps:
        for _ in range(MIN_GRAPH_USES + 2):  # The last ones are replayed.
            plain = yield Query(images, logit(3), "image")
        guided = yield Query(images, logit(3), "image", rule="guided")
        return torch.cat([plain.image_grad, guided.image_grad]).cpu()

    engine = Engine({"digits": model})
    engine.submit(Job("only", "digits", method))
    ended: list[Ended] = []
    while not engine.idle:
        ended += [event for event in engine.step() if isinstance(event, Ended)]
    assert ended[0].error is None
    result: torch.Tensor = ended[0].result
    return result


def test_a_gpu_answers_what_the_cpu_answers() -> None:
    torch.backends.cudnn.allow_tf32 = False
    cpu, gpu = gradient_on("cpu"), gradient_on("cuda")
    assert (cpu - gpu).norm() / cpu.norm() < 1e-4
