"""The methods: generators that yield queries to the engine, and return a result. TASKS has those that workers run.

Each takes its job, the images [n, 3, H, W], of which most methods have one, and the task's arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..engine.job import Job, Steps
from .attack import attack, certificate
from .certify import certify
from .concepts import concepts
from .dense import dense, dense_head
from .differentiate import differentiate
from .embed import embed
from .explain import explain
from .influence import influence
from .inspect import inspect
from .maximize import maximize
from .predict import predict
from .project import project
from .stylize import stylize

TASKS: Mapping[str, Callable[[Job, Tensor, Any], Steps]] = {
    "predict": predict,
    "explain": explain,
    "attack": attack,
    "certificate": certificate.certify,
    "certify": certify,
    "maximize": maximize,
    "influence": influence,
    "embed": embed,
    "differentiate": differentiate,
    "inspect": inspect,
    "project": project,
    "dense": dense,
    "dense_head": dense_head,
    "stylize": stylize,
    "concepts": concepts,
}
