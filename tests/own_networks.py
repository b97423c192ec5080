"""Networks as people bring them: wrapped, compiled, scripted, with heads of their own, and builders that fail."""

import itertools
import os
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Failing(nn.Module):
    """Raises an exception without a text."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError


class OfTwo(nn.Module):
    """Takes another tensor beside the images."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x.mean((2, 3)) * scale


class Trunk(nn.Module):
    """Convolution, BatchNorm and ReLU, then a last layer."""

    def __init__(self, head: nn.Module | None = None, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.fc = head or nn.Linear(8, 5)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def settled(network: nn.Module) -> nn.Module:
    """BatchNorm statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def trunk(classes: int = 5) -> nn.Module:
    return settled(Trunk(nn.Linear(8, classes)))


class Inside(nn.Module):
    """A network under a name of its own, for instance "module"."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, network)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.name)(x)


def inside_module() -> nn.Module:
    return settled(Inside("module", Trunk()))


def inside_model() -> nn.Module:
    return settled(Inside("model", Trunk()))


# Wrappers of torch's.
def compiled() -> nn.Module:
    return torch.compile(trunk(), backend="eager")


def compiled_inside() -> nn.Module:
    return Inside("net", torch.compile(trunk(), backend="eager")).eval()


def compiled_in_place() -> nn.Module:
    network = trunk()
    network.compile(backend="eager")
    return network


def no_backend(graph: object, inputs: object) -> None:
    """Stands for a compiler that is not installed where the server runs."""
    raise AssertionError("compiled")


class CompiledForward(Trunk):
    """Its own method is compiled."""

    @torch.compile(backend=no_backend)
    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def compiled_forward() -> nn.Module:
    return settled(CompiledForward())


def parallel() -> nn.Module:
    return nn.DataParallel(trunk()).eval()


def parallel_inside() -> nn.Module:
    return Inside("net", nn.DataParallel(trunk())).eval()


def averaged() -> nn.Module:
    return AveragedModel(trunk()).eval()


def parallel_with_hook() -> nn.Module:
    network = nn.DataParallel(trunk())
    network.register_forward_hook(lambda module, args, out: 2 * out)
    return network.eval()


def scripted() -> nn.Module:
    return torch.jit.script(trunk())


def traced() -> nn.Module:
    return torch.jit.trace(trunk(), torch.rand(1, 3, 16, 16))


def scripted_inside() -> nn.Module:
    return Inside("net", scripted()).eval()


# Names that torchvision's networks give a meaning to, in networks of one's own.
class AuxUsed(Trunk):
    """A branch that is called aux1 and does run."""

    def __init__(self) -> None:
        super().__init__()
        self.aux1: nn.Module | None = nn.Conv2d(3, 8, 3, 2)

    def features(self, x: Tensor) -> Tensor:
        y = super().features(x)
        return y if self.aux1 is None else y + self.aux1(x).sigmoid()


def aux_used() -> nn.Module:
    return settled(AuxUsed())


class TransformInput(Trunk):
    """A flag of the author's own that happens to be called transform_input."""

    transform_input = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1) if self.transform_input else x)


def transform_input() -> nn.Module:
    return settled(TransformInput())


# Last layers.
class CosineHead(nn.Linear):
    """Cosine similarity with learned directions, times a temperature."""

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


def cosine_head(classes: int = 5) -> nn.Module:
    return settled(Trunk(CosineHead(8, classes, bias=False)))


def hooked_head(classes: int = 5) -> nn.Module:
    network = trunk(classes)
    network.fc.register_forward_hook(lambda module, args, out: 3 * out)
    return network


class Pooled(Trunk):
    """A 1x1 convolution is its last layer."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(8, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)).mean((2, 3))


def convolutional_head(classes: int = 5) -> nn.Module:
    return settled(Pooled(classes))


class TwoNames(Trunk):
    """The last layer stands under two names."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Linear(8, classes))
        self.classifier = nn.Sequential(self.fc)


def head_of_two_names(classes: int = 5) -> nn.Module:
    return settled(TwoNames(classes))


class Tied(Trunk):
    """Class directions that are used twice: as the last layer's weights, and to attend to the features."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Linear(8, classes, bias=False))
        self.attention = nn.Linear(8, classes, bias=False)
        self.attention.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).mean((2, 3))
        return self.fc(features + self.attention(features).softmax(1) @ self.attention.weight)


def tied(classes: int = 5) -> nn.Module:
    return settled(Tied(classes))


class Grouped(Trunk):
    """Its last nn.Linear gives experts, of which pairs make a class."""

    def __init__(self, experts: int) -> None:
        super().__init__(nn.Linear(8, experts))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (-1, 2)).sum(2)


def grouped(experts: int = 10) -> nn.Module:
    return settled(Grouped(experts))


class Versioned(Trunk):
    """Files of version 1 have its last weights times two."""

    _version = 2

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, metadata: dict[str, int], *more: object
    ) -> None:
        if metadata["version"] == 1:
            state_dict[f"{prefix}fc.weight"] = state_dict[f"{prefix}fc.weight"] / 2
        super()._load_from_state_dict(state_dict, prefix, metadata, *more)


def versioned() -> nn.Module:
    return settled(Versioned())


# Inputs of one channel.
def one_channel() -> nn.Module:
    return settled(Trunk(channels=1))


# Builders that fail.
def imports_nothing() -> nn.Module:
    import no_such_package_at_all  # noqa: F401

    return trunk()


def raises() -> nn.Module:
    raise LookupError("no such recipe: soup")


def leaves() -> nn.Module:
    sys.exit(3)


# A builder whose weights are others at every call.
def unseeded() -> nn.Module:
    network = settled(Trunk())
    generator = torch.Generator()
    generator.seed()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return network


CALLS = itertools.count()


class Scaled(Trunk):
    """Its scale is a number that torch does not know of, another in every process and at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1 + (os.getpid() + 13 * next(CALLS)) % 89 / 89

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.scale * x)


def draws_outside() -> nn.Module:
    return settled(Scaled())


# Other builders that are at fault.
class NotInHalf(nn.Module):
    """Raises an exception without a text where its images are in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16:
            raise NotImplementedError
        return self.trunk(x)


def four_channels() -> nn.Module:
    return Trunk(channels=4)


def raises_deep() -> nn.Module:
    return nn.Linear(3, "a lot")


def takes_classes(classes: int) -> nn.Module:
    return Trunk(classes)


def returns_a_tuple() -> tuple[nn.Module, int]:
    return trunk(), 5


def returns_nothing() -> None:
    trunk()


def returns_its_class() -> type[nn.Module]:
    return Trunk


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))


instance = Trunk()
SIZES = (1, 2)


def kills_its_process() -> nn.Module:
    os._exit(9)


class RefusesBlack(nn.Module):
    """Looks at numbers of its input, and refuses pictures of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        if (x == x[:, :, :1, :1]).all():
            raise ValueError("a picture of one colour")
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def refuses_black() -> nn.Module:
    return RefusesBlack().eval()
