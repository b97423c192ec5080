"""What several folders share. Nothing here imports torch: the client's tests run without it."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from paths import data as data
from serving import Server, Stubs, shared

# Networks of zoo.py, with random or trained weights, in the names of tests that are given one of them.
NETWORK = re.compile(
    r"^tests/(?:accel|engine|methods|models)/.*[\[-](alexnet|vgg11_bn|resnet18|resnet20|densenet121|googlenet|"
    r"inception_v3|mobilenet_v2|mobilenet_v3_small|squeezenet1_[01]|shufflenet_v2_x0_5|mnasnet0_5|regnet_y_400mf|"
    r"efficientnet_b0|convnext_tiny|swin_t|vit_b_32|imagenet)[-\]]"
)


# Tests that call the server of `serving.shared`. Each process would start one of its own for them.
CALLERS = re.compile(
    r"^tests/(?:api/test_(?:attack(?:_masks)?|augment|bad_input|bias|certify|concepts|contrasts|decoding|dense|differentiate|exemplars|extremes|folders|gate(?:_certified|_standard)?|influence|inspect|lifecycle|"
    r"limits|making|odd_images|segments|shape|surrogate|unknown_model|without_torch)|keeper/test_(?:killed|recovery)|"
    r"load/test_(?:company|published))\.py"
)
SHARED_SERVER = "the shared server"
SCOPES_SHOWN = 40  # At the end of a run.
# What takes long comes first, lest one process end long after the others.
LONGEST = (
    SHARED_SERVER,
    "tests/keeper/test_ray.py",
    "tests/load/test_rolling.py",
    "tests/offline/test_check_cases.py",
    "tests/models/test_kinds.py",
    "tests/api/test_project.py",
    "tests/test_examples.py",
    "examples/gate_a_release.ipynb",
    "examples/debug_a_model.ipynb",
    "examples/audit_labels.ipynb",
    "mobilenet_v2",
    "tests/api/test_head_gate.py",
    "tests/api/test_fuzz.py",
    "tests/keeper/test_front_ends.py",
    "tests/models/test_cifar10_training.py",
    "tests/keeper/test_stuck.py",
    "tests/load/test_overload.py",
    "tests/load/test_start.py",
    "tests/api/test_blind_gate.py",
    "tests/methods/test_contrasts.py",
)


def scope(test: str) -> str:
    """What one process runs in a row: the tests of a network, so that it is prepared once; others file by file."""
    network = NETWORK.search(test)
    if network:
        return network[1]
    return SHARED_SERVER if CALLERS.search(test) else test.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out tests by `scope`, in the order of `pytest_collection_modifyitems`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False
    return ByScope(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests: the longest scopes first, then those with the most tests."""
    if not hasattr(config, "workerinput"):
        return
    sizes = Counter(scope(item.nodeid) for item in items)
    places = {name: place for place, name in enumerate(LONGEST)}
    order = {name: (places.get(name, len(places)), -count) for name, count in sizes.items()}
    items.sort(key=lambda item: order[scope(item.nodeid)])


@pytest.fixture(scope="session")
def server() -> Server:
    """The server that most tests call."""
    return shared()


@pytest.fixture(scope="session")
def stubs(server: Server) -> Iterator[Stubs]:
    """Both of its services."""
    with server.channel() as channel:
        yield Stubs.of(channel)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Lists the scopes that took the longest, and what all took together."""
    seconds = Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[scope(report.nodeid)] += report.duration
    terminalreporter.section(f"slowest of {len(seconds)} scopes, which took {seconds.total():.0f} s together")
    for name, took in seconds.most_common(SCOPES_SHOWN):
        terminalreporter.write_line(f"{took:.0f}s {name}")
