"""What several folders share. Nothing here imports torch: the client's tests run without it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import DATA
from serving import Server, Stubs, shared

# Networks of zoo.py, with random or trained weights, in the names of tests that are given one of them.
NETWORK = re.compile(
    r"^tests/(?:accel|engine|methods|models)/.*[\[-](alexnet|vgg11_bn|resnet18|resnet20|densenet121|googlenet|"
    r"inception_v3|mobilenet_v2|mobilenet_v3_small|squeezenet1_[01]|shufflenet_v2_x0_5|mnasnet0_5|regnet_y_400mf|"
    r"efficientnet_b0|convnext_tiny|swin_t|vit_b_32|imagenet)[-\]]"
)


def scope(test: str) -> str:
    """What one process runs in a row: all tests of a network, so that it is prepared once; the others file by file."""
    network = NETWORK.search(test)
    return network[1] if network else test.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out tests by `scope`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    return ByScope(config, log)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real weights and pictures beside the repository; without it the test is skipped."""
    if not DATA.is_dir():
        pytest.skip("needs the real weights and pictures in ../shared/data")
    return DATA


@pytest.fixture(scope="session")
def server() -> Server:
    """The server that most tests call."""
    return shared()


@pytest.fixture(scope="session")
def stubs(server: Server) -> Iterator[Stubs]:
    """Both of its services."""
    with server.channel() as channel:
        yield Stubs.of(channel)
