"""More small networks as people write them, for the catalogue's `rare_kinds:function`: see kinds.py."""

from typing import Any

import torch
from kinds import CLASSES, Small, settled, variant
from torch import Tensor, nn

# Outputs that are no plain tensors of real numbers.


class Named(Tensor):
    """A tensor with a class of its author's own."""


def gives(change: Any) -> nn.Module:
    """Small, with its logits changed."""
    return variant(forward=lambda self, x: change(Small.forward(self, x)))()


@settled
def output_of_own_class() -> nn.Module:
    return gives(lambda logits: logits.as_subclass(Named))


@settled
def output_complex() -> nn.Module:
    return gives(lambda logits: torch.complex(logits, logits.flip(1)))


@settled
def output_sparse() -> nn.Module:
    return gives(Tensor.to_sparse)


@settled
def output_nested() -> nn.Module:
    return gives(lambda logits: torch.nested.nested_tensor(list(logits)))


@settled
def output_beside_complex() -> nn.Module:
    return gives(lambda logits: (logits, torch.fft.fft2(logits[:, None])))


# What differentiates inside.


@settled
def differentiates(how: str) -> nn.Module:
    """Adds what the gradient by its input says."""

    def squares(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x).square().sum()

    def gradient(self: Any, x: Tensor) -> Tensor:
        if how == "func":
            return torch.func.grad(lambda y: squares(self, y))(x)  # type: ignore[no-any-return]
        with torch.set_grad_enabled(how != "plain" or torch.is_grad_enabled()):
            x = x if how == "plain" else x.detach().requires_grad_()
            value = squares(self, x)
            if how == "backward":
                value.backward()
                return x.grad  # type: ignore[return-value]
            return torch.autograd.grad(value, x, create_graph=True)[0]

    def forward(self: Any, x: Tensor) -> Tensor:
        return Small.forward(self, x) + gradient(self, x).mean((2, 3)).repeat(1, CLASSES // 3)

    return variant(forward=forward)()


# Rows inside that are not those of the images.


class Moved(nn.Module):
    """Takes from each image the mean of all, or gives it back."""

    def __init__(self, mean: dict[str, Tensor], sign: int) -> None:
        super().__init__()
        self.mean, self.sign = mean, sign

    def forward(self, x: Tensor) -> Tensor:
        if self.sign < 0:
            self.mean["of all"] = x.mean(0, keepdim=True)
        return x + self.sign * self.mean["of all"]


@settled
def rows(how: str) -> nn.Module:
    """Its logits are each image's own; what its layers give is not."""

    def maps(self: Any, x: Tensor) -> Tensor:
        if how == "centred":
            x = self.given(self.taken(self.norm1(self.first(x))))
            return self.act(self.norm2(self.second(self.act(x))))  # type: ignore[no-any-return]
        order = x.mean((1, 2, 3)).argsort() if how == "sorted" else torch.arange(len(x)).flip(0)
        if how == "flipped in fours":
            order = order.flip(0).unflatten(0, (-1, 4)).flip(1).flatten() if len(x) % 4 == 0 else order.flip(0)
        return Small.maps(self, x[order])[order.argsort()]

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "repeated":
            return Small.forward(self, x.repeat(2, 1, 1, 1)).chunk(2)[0]  # type: ignore[no-any-return]
        if how == "two crops":
            both = Small.forward(self, torch.cat([x[:, :, :-8, :-8], x[:, :, 8:, 8:].flip(3)]))
            return both.unflatten(0, (2, -1)).mean(0)  # type: ignore[no-any-return]
        return Small.forward(self, x)  # type: ignore[no-any-return]

    network = variant(forward=forward, **({} if how in ("repeated", "two crops") else {"maps": maps}))()
    if how == "centred":
        mean: dict[str, Tensor] = {}
        network.taken, network.given = Moved(mean, -1), Moved(mean, 1)
    return network


@settled
def queries(count: int) -> nn.Module:
    """A Linear of a table that has as many rows whatever the batch."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.maps(x).mean((2, 3))
        return self.head(x) + (x @ self.embed(self.table).T).sum(1, keepdim=True)  # type: ignore[no-any-return]

    network = variant(forward=forward)()
    network.embed, network.table = nn.Linear(20, 20), nn.Parameter(torch.randn(count, 20))
    return network


# What large numbers that many logits have in common hide.


class NormOfTanh(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.tanh())


@settled
def offset(how: str) -> nn.Module:
    """Adds 10000 to all its logits, or nine classes that are never chosen; `how` says what that may hide."""
    what, _, hidden = how.partition(" ")

    def forward(self: Any, x: Tensor) -> Tensor:
        if what == "dependent":
            x = x - 0.5 * x.mean(0, keepdim=True)
        logits = Small.forward(self, torch.dropout(x, 0.3, train=what == "random"))
        masked = logits.new_full((len(x), 9), -1e9)
        return torch.cat([logits, masked], 1) if hidden else logits + 1e4  # type: ignore[no-any-return]

    return variant(forward=forward)(norm=NormOfTanh if what == "folded" else nn.BatchNorm2d)


# Half precision inside.


@settled
def half_inside(how: str) -> nn.Module:
    """Computes in halves whatever it is given; `how` says with which, and whether its logits are fp32 again."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if how == "cast":
            return self.head(self.maps(x).half().float().mean((2, 3)))  # type: ignore[no-any-return]
        with torch.autocast("cpu", dtype=torch.float16 if how == "float16" else torch.bfloat16):
            logits: Tensor = Small.forward(self, x)
        return logits if how == "bfloat16" else logits.float()

    return variant(forward=forward)()


# Programs and numbers that torch makes of networks.


def exported(how: str) -> Any:
    program = torch.export.export(settled(Small)(), (torch.rand(2, 3, 64, 64),))
    if how == "program":
        return program
    return program.module() if how == "module" else torch.export.unflatten(program)


def quantised(how: str) -> nn.Module:
    from torch.ao import quantization

    network = settled(Small)()
    if how == "dynamic":
        return quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-any-return]
    whole = nn.Sequential(quantization.QuantStub(), network.first, network.act, quantization.DeQuantStub())
    whole.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)  # type: ignore[assignment]
    quantization.prepare(whole, inplace=True)
    whole(torch.rand(4, 3, 32, 32))
    return quantization.convert(whole)  # type: ignore[no-any-return]


class Remembering(nn.Linear):
    """Keeps tensors of its own in its extra state."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"table": [self.table], "scale": 2.0}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.table = state["table"][0]


def with_extra_state(middle: float) -> nn.Module:
    """Its table differs where torch's text of it has dots."""
    network = settled(lambda: Small(head=Remembering(20, CLASSES)))()
    network.head.table = torch.arange(5000.0)  # type: ignore[union-attr]
    network.head.table[2500] = middle  # type: ignore[union-attr, index]
    return network
