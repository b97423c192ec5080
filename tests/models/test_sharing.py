"""Weights in memory that several processes share: the same bits, and nobody can change another's."""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from serving import Server
from torch import Tensor, nn

from gradserve_server.models.sharing import share_weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux alone")
LARGE = 1 << 21  # Numbers of the large layer.
SMALL = """
[models.small]
builder = "squeezenet1_1"
weights = "random"
precisions = ["exact"]
height = 64
width = 64
resize = 64
"""


class Net(nn.Module):
    """Weights of all kinds: channels last, half precision, tied, small, and parts of one memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(64, 64, 3).to(memory_format=torch.channels_last)
        self.half = nn.Linear(512, 256).to(torch.bfloat16)
        self.large, self.tied = nn.Linear(1 << 10, LARGE >> 10), nn.Linear(1 << 10, LARGE >> 10)
        self.tied.weight = self.large.weight
        both = torch.randn(2, 256, 256)
        self.first, self.second = nn.Parameter(both[0]), nn.Parameter(both[1])
        self.requires_grad_(requires_grad=False)


def inodes(pid: int) -> set[str]:
    """The files of common memory that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:gradserve-weights" in line}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def in_child(do: Callable[[], bool]) -> bool:
    """Whether it is true in a process that is forked from this one."""
    child = os.fork()
    if not child:
        os._exit(0 if do() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_two_that_are_the_same_have_one_memory_and_keep_their_bits(tmp_path: Path) -> None:
    first, second = Net(), Net()
    before = state(first)
    strides = [weight.stride() for weight in first.parameters()]
    objects = list(map(id, first.parameters()))
    share_weights([first], tmp_path / "weights")
    share_weights([second], tmp_path / "weights")
    assert len(inodes(os.getpid())) == 1
    for network in (first, second):
        assert [weight.stride() for weight in network.parameters()] == strides
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
        assert network.tied.weight is network.large.weight
    assert list(map(id, first.parameters())) == objects, "kernels know their weights by that"
    with torch.no_grad():
        first.large.weight.zero_()
    assert torch.equal(second.large.weight, before["large.weight"])
    assert torch.equal(_third(tmp_path), before["large.weight"])


def _third(folder: Path) -> Tensor:
    third = Net()
    share_weights([third], folder / "weights")
    return third.large.weight


def test_other_weights_have_memory_of_their_own(tmp_path: Path) -> None:
    first, second = Net(), Net()
    with torch.no_grad():
        second.large.weight[3, 5] += 1
    before, files = state(second), len(inodes(os.getpid()))
    share_weights([first], tmp_path / "weights")
    share_weights([second], tmp_path / "weights")
    assert len(inodes(os.getpid())) == files + 2
    assert all(torch.equal(before[name], tensor) for name, tensor in second.state_dict().items())


def test_after_the_first_has_died_there_is_new_memory(tmp_path: Path) -> None:
    link = tmp_path / "weights"

    def share() -> bool:
        share_weights([Net()], link)
        return link.exists()

    assert in_child(share)
    assert link.is_symlink()
    assert not link.exists(), "its process has died"
    network = Net()
    before = state(network)
    share_weights([network], link)
    assert link.exists()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert in_child(lambda: torch.equal(_third(tmp_path), before["large.weight"]))


@pytest.mark.parametrize("kind", ["file", "fifo", "folder"])
def test_what_is_no_memory_of_ours_is_left_alone(tmp_path: Path, kind: str) -> None:
    """The number of a process that has died may be another's."""
    other, link = tmp_path / "other", tmp_path / "weights"
    {"file": other.touch, "fifo": lambda: os.mkfifo(other), "folder": other.mkdir}[kind]()
    link.symlink_to(other)
    network = Net()
    before = state(network)
    share_weights([network], link)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert other.exists()
    assert str(os.readlink(link)).startswith(f"/proc/{os.getpid()}/fd/")


def test_where_nothing_can_be_shared_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Net()
    addresses = [weight.data_ptr() for weight in network.parameters()]
    share_weights([network], tmp_path / "no" / "such" / "folder")

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "posix_fallocate", full)
    share_weights([network], tmp_path / "weights")
    assert [weight.data_ptr() for weight in network.parameters()] == addresses
    assert not (tmp_path / "weights").exists()


def test_copies_and_meta_tensors_work(tmp_path: Path) -> None:
    network = Net()
    share_weights([network, nn.Linear(300, 300, device="meta")], tmp_path / "weights")
    copy = deepcopy(network)
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), network.parameters(), strict=True))


def test_the_workers_of_a_server_share() -> None:
    with Server(SMALL, "--workers", "2") as server:  # A worker that is placed after another died has a file of its own.
        assert server.address
        first, second = (inodes(worker.pid) for worker in server.workers)
        assert first == second
        assert first
