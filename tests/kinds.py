"""Small networks of the kinds that people write and servers get wrong, for the catalogue's `kinds:function`.

Every builder gives the same weights each time; what is right is the same network in plain torch.
"""

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

CLASSES = 6
Builder = Callable[..., nn.Module]


def settled(build: Builder) -> Builder:
    """A builder whose network has weights drawn with one seed, and BatchNorms that do something."""

    @functools.wraps(build)
    def builder(**arguments: Any) -> nn.Module:
        torch.manual_seed(7)
        network = build(**arguments)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.4, 1.6)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.6, 1.4)
                    nn.init.uniform_(module.bias, -0.4, 0.4)
            elif isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        return network.eval()

    return builder


class Small(nn.Module):
    """Two convolutions with BatchNorm, a mean and a Linear; parts can be exchanged."""

    def __init__(
        self,
        conv: Callable[..., nn.Module] = nn.Conv2d,
        norm: Callable[..., nn.Module] = nn.BatchNorm2d,
        act: nn.Module | None = None,
        head: nn.Module | None = None,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.first, self.norm1 = conv(channels, 12, 3, 2, 1), norm(12)
        self.second, self.norm2 = conv(12, 20, 3, 2, 1), norm(20)
        self.act = act or nn.ReLU()
        self.head = head or nn.Linear(20, CLASSES)

    def maps(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.first(x)))
        return self.act(self.norm2(self.second(x)))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.maps(x).mean((2, 3)))


def variant(**methods: Callable[..., Any]) -> type[Small]:
    """Small with other methods."""
    return type("Variant", (Small,), methods)


# Norms that do more than normalise.


class NormLeaky(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.1)


class NormTwice(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 + 0.1)


@settled
def norm_with_activation() -> nn.Module:
    return Small(norm=NormLeaky, act=nn.Identity())


@settled
def norm_with_scale() -> nn.Module:
    return Small(norm=NormTwice)


@settled
def norm_with_hook() -> nn.Module:
    network = Small()
    network.norm2.register_forward_pre_hook(lambda module, args: (args[0] + 0.5,))
    return network


@settled
def norm_with_own_forward() -> nn.Module:
    network = Small()
    network.norm1.forward = lambda x: F.batch_norm(  # type: ignore[method-assign]
        x.tanh(), network.norm1.running_mean, network.norm1.running_var
    )
    return network


# Convolutions that do more than convolve, or compute their weight.


class ShiftedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.roll(1, 3)).clamp(-0.5, 0.5)


class Quantised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.weight * 8).round() / 8, self.bias, self.stride, self.padding)


class Scale(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


@settled
def conv_with_shift() -> nn.Module:
    return Small(conv=ShiftedConv)


@settled
def conv_quantised() -> nn.Module:
    return Small(conv=Quantised)


@settled
def conv_parametrised() -> nn.Module:
    network = Small()
    parametrize.register_parametrization(network.second, "weight", Scale())
    return network


@settled
def conv_with_hooks() -> nn.Module:
    network = Small()
    network.first.register_forward_pre_hook(lambda module, args: (args[0].abs(),))
    network.second.register_forward_hook(lambda module, args, out: out * 0.5 + 1)
    return network


@settled
def conv_masked_in_forward() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        weight = self.second.weight * (self.second.weight.abs() > 0.03)
        x = self.act(self.norm1(self.first(x)))
        return self.act(self.norm2(self.second(x)) + F.conv2d(x, weight, stride=2, padding=1))

    return variant(maps=maps)()


# One module or weight in several places.


@settled
def listed_and_named() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in self.steps:
            x = layer(x)
        return self.head(x.mean((2, 3)))

    network = variant(forward=forward)()
    layers = [network.first, network.norm1, network.act, network.second, network.norm2, network.act]
    network.__dict__["steps"] = layers  # a plain list, which torch does not see
    return network


@settled
def in_two_containers() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(F.relu(self.again[1](self.again[0](self.act(self.norm1(self.first(x)))))).mean((2, 3)))

    network = variant(forward=forward)()
    network.again = nn.ModuleList([network.second, network.norm2])
    network.by_name = nn.ModuleDict({"norm": network.norm2})
    return network


@settled
def conv_called_twice() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        both = [self.norm1(self.first(x)), self.norm1(self.first(x.flip(2)))]
        return self.head(self.act(self.norm2(self.second(self.act(both[0] + both[1])))).mean((2, 3)))

    return variant(forward=forward)()


@settled
def weight_shared() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.maps(x)
        return self.head(x.mean((2, 3))) + self.twin(x.amax((2, 3)))

    network = variant(forward=forward)()
    network.twin = nn.Linear(20, CLASSES)
    network.twin.weight = network.head.weight
    return network


@settled
def depends_on_size() -> nn.Module:
    """Normalises large pictures only."""

    def maps(self: Any, x: Tensor) -> Tensor:
        out = self.first(x)
        x = self.act(self.norm1(out) if x.shape[2] >= 40 else out)
        return self.act(self.norm2(self.second(x)))

    return variant(maps=maps)()


# Heads, and names that mean something elsewhere.


class Angles(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 12 * F.linear(F.normalize(x), F.normalize(self.weight)) - 2


@settled
def head_of_angles() -> nn.Module:
    return Small(head=Angles(20, CLASSES, bias=False))


@settled
def head_with_hook() -> nn.Module:
    network = Small()
    network.head.register_forward_hook(lambda module, args, out: out / 3)
    return network


@settled
def head_scaled_after() -> nn.Module:
    return variant(forward=lambda self, x: self.head(self.maps(x).mean((2, 3))).mul_(5))()


@settled
def aux_branches() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        out = Small.forward(self, x)
        for name in ("aux2", "AuxLogits"):
            if getattr(self, name) is not None:
                out = out + getattr(self, name)(x)
        return out

    network = variant(forward=forward)()
    for name in ("aux2", "AuxLogits"):
        network.add_module(name, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)))
    network.aux_logits = True
    return network


@settled
def own_transform() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x * 3 - 1 if self.transform_input else x)

    network = variant(forward=forward)()
    network.transform_input = True
    return network


# Outputs.


@dataclass
class Output:
    features: Tensor
    logits: Tensor


Pair = namedtuple("Pair", ["score", "extra"])


@settled
def output_object() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Output:
        return Output(self.maps(x).mean((2, 3)), Small.forward(self, x))

    return variant(forward=forward)()


@settled
def output_pair() -> nn.Module:
    return variant(forward=lambda self, x: Pair(Small.forward(self, x), x.new_zeros(())))()


@settled
def output_dict() -> nn.Module:
    return variant(forward=lambda self, x: OrderedDict(predictions=Small.forward(self, x), loss=None))()


@settled
def output_list_of_maps() -> nn.Module:
    def forward(self: Any, x: Tensor) -> list[Tensor]:
        maps = self.maps(x)
        return [self.head(maps.mean((2, 3)))[..., None, None], maps]

    return variant(forward=forward)()


@settled
def output_ambiguous() -> nn.Module:
    return variant(forward=lambda self, x: (Small.forward(self, x), self.maps(x).mean((2, 3))))()


@settled
def output_of_maps() -> nn.Module:
    return variant(forward=lambda self, x: {"features": self.maps(x)})()


# What goes on inside.


@settled
def through_numpy() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(Small.maps(self, x).detach().numpy())

    return variant(maps=maps)()


@settled
def without_gradient() -> nn.Module:
    return variant(maps=torch.no_grad()(Small.maps))()


@settled
def noisy() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x + 0.1 * torch.randn_like(x)))()


@settled
def drops_blocks() -> nn.Module:
    return variant(maps=lambda self, x: F.dropout2d(Small.maps(self, x), 0.3))()


@settled
def divides_by_maximum() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x / x.abs().max()))()


@settled
def subtracts_batch_mean() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x - 0.5 * x.mean(0, keepdim=True)))()


@settled
def branches_by_maximum() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x * 0.7 if x.max().item() > 2.5 else x)

    return variant(forward=forward)()


@settled
def loops_by_value() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        maps = self.maps(x)
        for _ in range(int(maps.mean() * 10)):
            maps = maps * 0.9
        return self.head(maps.mean((2, 3)))

    return variant(forward=forward)()


@settled
def writes_over_input() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x *= 2
        x[:, 0] -= 0.3
        return Small.forward(self, x.clamp_(-3, 3))

    return variant(forward=forward)()


@settled
def views_maps() -> nn.Module:
    """`view` wants memory in the order of the dimensions."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(self.maps(x).view(len(x), -1))

    return variant(forward=forward)(head=nn.Linear(20 * 16 * 16, CLASSES))


@settled
def casts_inside() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x.float()).double())()


@settled
def one_channel() -> nn.Module:
    return Small(channels=1)


@settled
def without_statistics() -> nn.Module:
    return Small(norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False))


@settled
def in_data_parallel() -> nn.Module:
    return nn.DataParallel(Small())


@settled
def scripted_part() -> nn.Module:
    network = Small()
    network.second = torch.jit.script(network.second)
    return network


# What one pass leaves for another.


class Writes(nn.Module):
    """A norm that writes over its own mean: of the first batch it sees, or a little with each."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.share, self.seen = share, False

    def forward(self, x: Tensor) -> Tensor:
        if self.share < 1 or not self.seen:
            self.mean.lerp_(x.detach().mean((0, 2, 3), keepdim=True), self.share)
        self.seen = True
        return x - self.mean


@settled
def norm_of_first_batch() -> nn.Module:
    return Small(norm=functools.partial(Writes, share=1.0))


@settled
def norm_that_drifts() -> nn.Module:
    return Small(norm=functools.partial(Writes, share=1e-4))


@settled
def positions_resized_for_good() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.first(x)))
        self.places.data = F.interpolate(self.places.data, x.shape[2:], mode="bilinear")
        return self.act(self.norm2(self.second(x + self.places)))

    network = variant(maps=maps)()
    network.places = nn.Parameter(torch.randn(1, 12, 32, 32))
    return network


@settled
def feature_of_a_hook(fixed: bool, frozen: bool) -> nn.Module:
    """Its hook is a function of its own, which in a copy of the network still writes to the original."""
    kept: dict[str, Tensor] = {}

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            maps = self.maps(x)
        maps = maps + 3 * self.kept["map"].amax((2, 3), keepdim=True).repeat(1, 20 // 12 + 1, 1, 1)[:, :20]
        return self.head(maps.flatten(1) if fixed else maps.mean((2, 3)))

    network = variant(forward=forward)(head=nn.Linear(20 * 16 * 16 if fixed else 20, CLASSES))
    network.kept = kept
    network.norm1.register_forward_hook(lambda module, args, out: kept.update(map=out.detach()))
    return network


@settled
def weight_written_by_image() -> nn.Module:
    """Each image has a weight of its own, large enough for the kernels."""

    def maps(self: Any, x: Tensor) -> Tensor:
        maps = []
        for each in self.act(self.wide(x)).split(1):
            self.deep.weight.data = self.base.data * (1 + each.detach().mean((0, 2, 3)).view(1, -1, 1, 1))
            maps.append(self.deep(each))
        return self.act(torch.cat(maps))

    network = variant(maps=maps)()
    network.wide, network.deep = nn.Conv2d(3, 96, 3, 2, 1), nn.Conv2d(96, 20, 7, 2, 3, bias=False)
    network.base = nn.Parameter(torch.randn(20, 96, 7, 7) / 30)
    return network


# What hides in large logits, in branches and in batches.


def masked(*hidden: float) -> Callable[[Tensor], Tensor]:
    """Appends classes that are never chosen."""
    return lambda logits: torch.cat([logits, logits.new_tensor(hidden).expand(len(logits), -1)], 1)


@settled
def random_beside_masked(hidden: float) -> nn.Module:
    add = masked(hidden)
    return variant(forward=lambda self, x: add(Small.forward(self, F.dropout(x, 0.3))))()


@settled
def mean_beside_masked(hidden: float) -> nn.Module:
    add = masked(hidden)
    return variant(forward=lambda self, x: add(Small.forward(self, x - 0.5 * x.mean(0, keepdim=True))))()


@settled
def nan_for_dark() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x - 0.5 * x.mean(0, keepdim=True)) + (x.mean((1, 2, 3)) + 0.4).log()[:, None]

    return variant(forward=forward)()


@settled
def white_changes_all() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, torch.where(x.amax() > 2.45, x * 0.3, x)))()


def _gate(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.7 * x)


@settled
def branches_after(what: str) -> nn.Module:
    """Decides by a value that did not come by way of torch's functions alone, or by a count of values."""
    tools: dict[str, Callable[[Tensor], Any]] = {
        "script": lambda x: torch.jit.script(_gate)(x).max() > 2.2,
        "vmap": lambda x: torch.vmap(torch.abs)(x).amax() > 2.2,
        "nonzero": lambda x: len(torch.nonzero(x > 2.2)),
        "mask": lambda x: x[x > 2.2].numel(),
        "written": lambda x: torch.zeros(x.shape).copy_(x).max() > 2.2,
    }
    return variant(forward=lambda self, x: Small.forward(self, x * 0.3 if tools[what](x) else x))()


@settled
def by_a_constant() -> nn.Module:
    """Reads values, but none of its input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x * float(torch.linspace(0, 1, 5)[3] + self.head.bias[0]))

    return variant(forward=forward)()


@settled
def squeezed() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x).squeeze())()


@settled
def named_tuple_inside() -> nn.Module:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Pair:
            return Pair(x * 2, x)

    def maps(self: Any, x: Tensor) -> Tensor:
        both = self.both(self.norm1(self.first(x)))
        return self.act(self.norm2(self.second(both.score.relu() + both.extra)))

    network = variant(maps=maps)()
    network.both = Both()
    return network


@settled
def weights_lent() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        lent = {name: 1.1 * weight for name, weight in self.first.named_parameters()}
        x = self.act(self.norm1(torch.func.functional_call(self.first, lent, (x,))))
        return self.act(self.norm2(self.second(x)))

    return variant(maps=maps)()


@settled
def two_views_stacked() -> nn.Module:
    """Linear layers whose first dimension is that of the views."""

    def forward(self: Any, x: Tensor) -> Tensor:
        views = torch.stack([self.maps(x).mean((2, 3)), self.maps(x).std((2, 3))])
        return self.head(self.act(self.mixed(views)).sum(0))

    network = variant(forward=forward)()
    network.mixed = nn.Linear(20, 20)
    return network


@settled
def in_graph_module() -> nn.Module:
    return torch.fx.symbolic_trace(Small())


@settled
def called_by_keyword() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        x = self.act(input=self.norm1(input=self.first(input=x)))
        return self.act(self.norm2(input=self.second(input=x)))

    return variant(maps=maps)()


@settled
def called_past_hooks() -> nn.Module:
    def maps(self: Any, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)) + self.norm1.forward(self.first.forward(x.flip(3)))
        return self.act(self.norm2(self.second(self.act(x))))

    return variant(maps=maps)()


@settled
def of_timm(name: str, **options: int) -> nn.Module:
    """A network of timm's, with weights drawn at random."""
    import timm

    return timm.create_model(name, pretrained=False, **options)


@settled
def mixer() -> nn.Module:
    """An MLP-Mixer of timm's, which has no model of this size."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=10, img_size=128, patch_size=32, num_blocks=3, embed_dim=128)


@settled
def overflows() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x) * torch.inf)()


@settled
def weights_of_complex_numbers() -> nn.Module:
    """A filter of the spectrum, whose weights torch would cast to real ones."""

    def forward(self: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x.float()) * self.filter
        return Small.forward(self, torch.fft.irfft2(spectrum, s=x.shape[2:]).to(x.dtype))

    network = variant(forward=forward)()
    network.filter = nn.Parameter(torch.randn(3, 1, 1, dtype=torch.complex64))
    return network


@settled
def two_outputs_of_which_one_is_clear() -> nn.Module:
    return variant(forward=lambda self, x: (Small.forward(self, x), self.maps(x)))()


@settled
def otherwise_for_larger_batches() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, x * (0.5 if len(x) > 6 else 1)))()


@settled
def remembers_in_an_attribute() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        level = x.mean().detach()
        self.level = level if self.level is None else 0.99 * self.level + 0.01 * level
        return Small.forward(self, x - 0.2 * self.level)

    network = variant(forward=forward)()
    network.level = None
    return network
