"""Small transformers whose maps are known: tokens before and after the patches, several ways of making patches."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, PATCH = 24, 8


class Block(nn.Module):
    """Attention of one head and a small network, each on top of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 40), nn.ReLU(), nn.Linear(40, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, 2)
        x = x + self.out((q @ k.transpose(1, 2) / WIDTH**0.5).softmax(2) @ v)
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """Tokens of its own before and after the patches; the first of all, the last or, without any, the mean decides."""

    def __init__(
        self,
        leading: int,
        trailing: int,
        *,
        by_convolution: bool = True,
        columns_first: bool = False,
        mixed_first: bool = False,
    ) -> None:
        super().__init__()
        self.leading, self.trailing = leading, trailing
        self.by_convolution, self.columns_first = by_convolution, columns_first
        self.embed: nn.Module = nn.Conv2d(3, WIDTH, PATCH, PATCH) if by_convolution else nn.Linear(3 * PATCH**2, WIDTH)
        self.before = nn.Parameter(torch.randn(1, leading, WIDTH))
        self.after = nn.Parameter(torch.randn(1, trailing, WIDTH))
        self.mixing = nn.Parameter(torch.randn(WIDTH, WIDTH)) if mixed_first else None
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def patches(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, patches, WIDTH]."""
        if self.by_convolution:
            x = self.embed(x)
            return (x.transpose(2, 3) if self.columns_first else x).flatten(2).transpose(1, 2)
        return self.embed(F.unfold(x, PATCH, stride=PATCH).transpose(1, 2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        t = torch.cat([self.before.expand(n, -1, -1), self.patches(x), self.after.expand(n, -1, -1)], 1)
        if self.mixing is not None:  # attention before any module sees the tokens
            t = t + (t @ self.mixing @ t.transpose(1, 2)).softmax(2) @ t
        for block in self.blocks:
            t = block(t)
        t = self.norm(t)
        if not self.leading + self.trailing:
            return self.head(t.mean(1))  # type: ignore[no-any-return]
        return self.head(t[:, 0] if self.leading else t[:, -1])  # type: ignore[no-any-return]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build().eval()


def vit(leading: int = 1, trailing: int = 0, **facts: bool) -> nn.Module:
    """For the catalogue: `arguments = { leading = 2 }`."""
    return seeded(lambda: SmallViT(leading, trailing, **facts))  # type: ignore[arg-type]


class ShuffledViT(SmallViT):
    """Its last block sees the tokens in another order."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.blocks[0](self.patches(x))
        t = self.blocks[1](t[:, torch.arange(t.shape[1]).flip(0)])
        return self.head(self.norm(t).mean(1))  # type: ignore[no-any-return]


def shuffled() -> nn.Module:
    return seeded(lambda: ShuffledViT(0, 0))


class LateClassToken(nn.Module):
    """The class token comes after the blocks of patches, and asks them once (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.first, self.second = Block(), Block()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.first(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.second(torch.cat([self.token.expand(len(x), -1, -1), t], 1))[:, 0])  # type: ignore[no-any-return]


def late() -> nn.Module:
    return seeded(LateClassToken)
