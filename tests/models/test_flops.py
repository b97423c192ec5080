"""The cost of a pass, as torch's own counter has it."""

import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from gradserve_server.models.flops import FlopCounter

LATE = """
import sys, torch
from torch import nn
from gradserve_server.models.flops import FlopCounter
with FlopCounter() as counter, torch.no_grad():
    nn.Conv2d(3, 4, 3)(torch.rand(2, 3, 8, 8))
assert counter.flops == 2 * 2 * 4 * 36 * 27
assert "torch._dynamo" not in sys.modules
"""


@cache
def network(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    """A network without values, an image for it, and the FLOP that torch counts in a pass."""
    with torch.device("meta"):
        built: nn.Module = models.get_model(name).eval()
        images = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(images)
    return built, images, counter.get_total_flops()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "shufflenet_v2_x0_5", "maxvit_t"])
def test_counts_what_torch_counts(name: str, mode: type) -> None:
    built, images, expected = network(name)
    with FlopCounter() as counted, mode():
        built(images)
    assert counted.flops == expected > 0


def test_counting_does_not_import_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)
