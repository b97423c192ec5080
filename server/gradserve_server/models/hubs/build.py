"""Builds the network of a hub that an entry names."""

import random

import numpy as np
import torch

from ..catalogue import ModelSpec
from .hf_networks import hf_network
from .names import HubName
from .preset import HubNetwork
from .timm_networks import timm_network


def build_hub(spec: ModelSpec, named: HubName) -> HubNetwork:
    """The network, what its library says of it, and notes. Raises HubFault, and what the library raises."""
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)
    np.random.seed(spec.seed % 2**32)  # All workers must build the same, whatever a library draws from.
    return timm_network(spec, named) if named.hub == "timm" else hf_network(spec, named)
