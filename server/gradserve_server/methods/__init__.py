"""The methods: generators that ask for gradients, and nothing else. TASKS says what a worker can be asked."""

from collections.abc import Callable, Mapping

from ..engine.job import Steps
from .attack import attack
from .attack.certificate import certify
from .embed import embed
from .explain import explain
from .influence import influence
from .maximize import maximize
from .predict import predict
from .stylize import stylize

TASKS: Mapping[str, Callable[..., Steps]] = {
    "predict": predict,
    "explain": explain,
    "attack": attack,
    "certify": certify,
    "maximize": maximize,
    "influence": influence,
    "embed": embed,
    "stylize": stylize,
}
