"""Networks with every kind of head, for the catalogue's `heads:network`, and what is right for each in plain torch.

A network is a trunk that gives scores and what its author does with them at the end. What a server should say is
computed here from the trunk alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from kinds import Small, settled
from torch import Tensor, nn

SIZE = {"height": 32, "width": 40, "resize": 32, "mean": (0.48, 0.45, 0.4), "std": (0.22, 0.23, 0.24)}
STRENGTH = 6.0  # of the last layer's weights, so that probabilities are neither all alike nor saturated
AUXILIARY = 3


@settled
def trunk(outputs: int, strength: float = STRENGTH, channels: int = 3) -> nn.Module:
    """Gives scores [N, outputs]."""
    network = Small(head=nn.Linear(20, outputs), channels=channels)
    with torch.no_grad():
        network.head.weight *= strength
        network.head.bias.copy_(torch.linspace(-0.5, 0.5, outputs) if outputs > 1 else torch.tensor([0.3]))
    return network


@settled
def normalised_trunk(outputs: int) -> nn.Module:
    """Gives scores [N, outputs] of normalised features, which do not grow with the image."""
    last = nn.Linear(20, outputs)
    with torch.no_grad():
        last.weight *= STRENGTH
    return nn.Sequential(Small(head=nn.LayerNorm(20)), last)


class Ended(nn.Module):
    """A trunk and a function of its scores."""

    def __init__(self, scores: nn.Module, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.trunk, self.end = scores, end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.trunk(x))


def in_place(x: Tensor) -> Tensor:
    x = x * 1.0
    return x.sigmoid_()


def by_hand(x: Tensor) -> Tensor:
    powers = (x - x.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def is_large(x: Tensor) -> Tensor:
    """Whether the first score is larger than that of any trial image [N, 1]."""
    return x[:, :1] > 30


def masked_in_place(x: Tensor) -> Tensor:
    return x.sigmoid().masked_fill_(is_large(x), 0.0)


def copied_in_place(x: Tensor) -> Tensor:
    probabilities = x.softmax(1)
    with torch.no_grad():
        probabilities.copy_(torch.where(is_large(x), torch.full_like(x, 1 / x.shape[1]), probabilities))
    return probabilities


def scores_erased(x: Tensor) -> Tensor:
    x = x * 1
    probabilities = x.softmax(1)
    with torch.no_grad():
        x.masked_fill_(is_large(x), 0.0)
    return probabilities


def masked_through_data(x: Tensor) -> Tensor:
    probabilities = x.softmax(1)
    probabilities.data.masked_fill_(is_large(x), 0.2)
    return probabilities


def checked_by_hand(x: Tensor) -> Tensor:
    if float(x.detach().abs().max()) > 5:
        raise ValueError("the input is no picture")
    return 1 / (1 + (-x).exp())


@torch.inference_mode()
def written_in_inference(x: Tensor) -> Tensor:
    return x.softmax(1).masked_fill_(is_large(x), 0.2)


@torch.inference_mode()
def in_inference(x: Tensor) -> Tensor:
    return x.softmax(1)


# What authors write at the end, by name.
ENDS: Mapping[str, Callable[[Tensor], Any]] = {
    "nothing": lambda x: x,
    "softmax_method": lambda x: x.softmax(1),
    "softmax_function": lambda x: F.softmax(x, dim=-1),
    "softmax_torch": lambda x: torch.softmax(x, 1, dtype=torch.float32),
    "softmax_special": lambda x: torch.special.softmax(x, 1),
    "softmax_in_tuple": lambda x: (x.softmax(1), x.new_zeros(len(x), AUXILIARY, 4, 4)),
    "softmax_in_dict": lambda x: {"logits": x.softmax(1), "features": x},
    "softmax_of_maps": lambda x: torch.softmax(x[:, :, None, None], 1),
    "softmax_of_temperature": lambda x: (x / 2).softmax(1),
    "log_softmax_function": lambda x: F.log_softmax(x, 1),
    "log_softmax_method": lambda x: x.log_softmax(1),
    "sigmoid_torch": torch.sigmoid,
    "sigmoid_method": lambda x: x.sigmoid(),
    "sigmoid_expit": torch.special.expit,
    "sigmoid_function": lambda x: F.sigmoid(x),
    "sigmoid_in_place": in_place,
    "sigmoid_viewed": lambda x: torch.sigmoid(x.unsqueeze(2)).squeeze(2).float(),
    "sigmoid_squeezed": lambda x: torch.sigmoid(x).squeeze(1),
    "sigmoid_squeezed_before": lambda x: torch.sigmoid(x.squeeze()),
    "log_sigmoid": F.logsigmoid,
    "squeezed": lambda x: x.squeeze(),
    "softmax_detached": lambda x: x.softmax(1).detach(),
    "softmax_of_detached": lambda x: x.detach().softmax(1),
    # what looks like one of them, and is not:
    "softmax_by_hand": by_hand,
    "softmax_averaged": lambda x: (x.softmax(1) + (x / 3).softmax(1)) / 2,
    "softmax_over_images": lambda x: x.softmax(0),
    "sigmoid_by_hand": lambda x: 1 / (1 + (-x).exp()),
    "sigmoid_and_its_rest": lambda x: torch.cat([1 - x.sigmoid(), x.sigmoid()], 1),
    "sigmoid_doubled": lambda x: x.sigmoid() * 2,
    "sigmoid_from_minus_one": lambda x: 2 * x.sigmoid() - 1,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "sigmoid_written_in_place": masked_in_place,
    "softmax_written_in_place": copied_in_place,
    "softmax_written_through_data": masked_through_data,
    "softmax_written_in_inference": written_in_inference,
    "softmax_in_inference": in_inference,
    "softmax_of_erased_scores": scores_erased,
    "sigmoid_by_powers": lambda x: x.exp() / (1 + x.exp()),
    "sigmoid_shifted": lambda x: x.sigmoid() + 1e-7,
    "sigmoid_of_checked": checked_by_hand,
    "sigmoid_saturated": lambda x: 1 / (1 + (-40 * (x.tanh() + 12)).exp()),
    "decisions": lambda x: (x > 0).float(),
    "one_hot_floats": lambda x: F.one_hot(x.argmax(1), x.shape[1]).float(),
    "softmax_rounded_to_whole": lambda x: (9 * x).softmax(1).round(),
    "softmax_of_one": lambda x: x[:, None].softmax(1)[:, 0],
    "softmax_of_one_behind": lambda x: F.softmax(x[..., None], -1)[..., 0],
    "softmax_without_first": lambda x: x.softmax(1)[:, 1:],
    "percent": lambda x: 100 * x.softmax(1),
    "bytes": lambda x: 255 * x.softmax(1),
    "softmax_from_minus_one": lambda x: 2 * x.softmax(1) - 1,
    "softmax_negative": lambda x: -x.softmax(1),
    "percent_of_second": lambda x: 100 * x.softmax(1)[:, 1],
    "sigmoid_logarithm": lambda x: x.sigmoid().log(),
    "sigmoid_logarithm_by_hand": lambda x: (1 / (1 + (-x).exp())).log(),
    "softmax_logarithm": lambda x: x.softmax(1).log(),
    "log_softmax_by_hand": lambda x: by_hand(x).log(),
    "log_softmax_averaged": lambda x: (x.log_softmax(1) + (x / 3).log_softmax(1)) / 2,
    "log_softmax_powers": lambda x: x.log_softmax(1).exp(),
    "log_softmax_of_second": lambda x: x.log_softmax(1)[:, 1],
    "log_softmax_negative": lambda x: -x.log_softmax(1),
    "softmax_in_float16": lambda x: x.half().softmax(1).float(),
    "softmax_in_bfloat16": lambda x: x.bfloat16().softmax(1).float(),
    "sigmoid_in_float16": lambda x: x.half().sigmoid().float(),
    "softmax_rounded": lambda x: (x.softmax(1) * 100).round() / 100,
    "powers_doubled_in_place": lambda x: x.exp().mul_(2),
    "none": lambda x: x[:, :0],
    # logits that may look like something else:
    "centred": lambda x: x - x.mean(1, keepdim=True),
    "all_zero": lambda x: x * 0,
    "small": lambda x: x / 100 + 0.5,
    "negative": lambda x: x / 100 - 3,
    "masked": lambda x: torch.cat([x[:, :-1], torch.full_like(x[:, -1:], -torch.inf)], 1),
    "powers": lambda x: x.exp(),
    "rectified": lambda x: x.relu(),
    "clamped": lambda x: x.clamp(-3, 3),
    "soft_capped": lambda x: 15 * torch.tanh(x / 15),
    "relu6": F.relu6,
    "small_of_sum_one": lambda x: (x - x.mean(1, keepdim=True)) / 500 + 1 / x.shape[1],
    "smoothed": lambda x: 0.9 * x.softmax(1) + 0.1 / x.shape[1],
    "one_hot": lambda x: F.one_hot(x.argmax(1), x.shape[1]),
    "half_of_a_softmax": lambda x: x.softmax(1)[:, 1],
}


class Checked(Ended):
    """Takes pictures alone: normalised images between black and white."""

    def forward(self, x: Tensor) -> Any:
        black = -torch.tensor(SIZE["mean"]) / torch.tensor(SIZE["std"])
        if float((x.detach() - black.view(3, 1, 1)).min()) < -1e-3:
            raise ValueError("darker than black")
        if float(x.detach().max()) > 2.6:
            raise ValueError("brighter than white")
        return super().forward(x)


def checked(outputs: int, end: str) -> nn.Module:
    """The network, refusing what is no picture."""
    return Checked(trunk(outputs=outputs), ENDS[end]).eval()


def network(outputs: int = 5, end: str = "nothing", strength: float = STRENGTH, channels: int = 3) -> nn.Module:
    """The trunk with one of ENDS."""
    return Ended(trunk(outputs=outputs, strength=strength, channels=channels), ENDS[end]).eval()


def normalised(outputs: int = 5, end: str = "nothing") -> nn.Module:
    """The trunk of normalised features with one of ENDS."""
    return Ended(normalised_trunk(outputs=outputs), ENDS[end]).eval()


def sequential(outputs: int = 5, end: str = "Softmax") -> nn.Module:
    """The trunk and a module of torch.nn after it."""
    last: nn.Module = getattr(nn, end)(*((1,) if "oftmax" in end else ()))
    return nn.Sequential(trunk(outputs=outputs), last).eval()


class Kind(NamedTuple):
    """One of the heads: its catalogue entry, and what it means."""

    entry: dict[str, Any]
    head: str

    @property
    def outputs(self) -> int:
        return int(self.entry["arguments"]["outputs"])

    def logits(self, normalised: Tensor) -> Tensor:
        """[N, 3, H, W] -> what should be served, [N, classes], from the trunk alone."""
        scores = trunk(outputs=self.outputs)(normalised)
        return torch.cat([-scores, scores], 1) if self.head == "binary" else scores

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.head == "softmax" else logits.sigmoid()

    def loss(self, logits: Tensor, label: int) -> Tensor:
        """Cross-entropy of a class, [N]."""
        labels = torch.full((len(logits),), label)
        if self.head == "softmax":
            return F.cross_entropy(logits, labels, reduction="none")
        chosen = logits[:, label]
        return F.binary_cross_entropy_with_logits(chosen, torch.ones_like(chosen), reduction="none")

    def margin(self, logits: Tensor, label: int) -> Tensor:
        """How far a class is from not being predicted, [N]."""
        if self.head != "softmax":
            return logits[:, label]
        others = [c for c in range(logits.shape[1]) if c != label]
        return logits[:, label] - logits[:, others].amax(1)


def _entry(outputs: int, end: str, **facts: Any) -> dict[str, Any]:
    return {"builder": "heads:network", "arguments": {"outputs": outputs, "end": end}, **SIZE, **facts}


KINDS = {
    "softmax": Kind(_entry(5, "softmax_method"), "softmax"),
    "two_logits": Kind(_entry(2, "nothing"), "softmax"),
    "one_logit": Kind(_entry(1, "nothing", head="binary", labels=("dog", "cat")), "binary"),
    "one_sigmoid": Kind(_entry(1, "sigmoid_torch", labels=("cat",)), "binary"),
    "label_logits": Kind(_entry(4, "nothing", head="multilabel"), "multilabel"),
    "label_sigmoids": Kind(_entry(4, "sigmoid_method"), "multilabel"),
    "log_softmax": Kind(_entry(5, "log_softmax_function"), "softmax"),
}
