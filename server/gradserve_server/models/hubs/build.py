"""Builds the network of a hub that an entry names."""

from ..builders import seed_all
from ..catalogue import ModelSpec
from .hf_networks import hf_network
from .names import HubName
from .preset import HubNetwork
from .timm_networks import timm_network


def build_hub(spec: ModelSpec, named: HubName) -> HubNetwork:
    """The network, what its library says of it, and notes. Raises HubFault, and what the library raises."""
    seed_all(spec.seed)
    return timm_network(spec, named) if named.hub == "timm" else hf_network(spec, named)
