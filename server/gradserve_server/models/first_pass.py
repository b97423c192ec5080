"""The error text where the first pass of a network fails, over images of the size that its entry says."""

import inspect

from torch import Tensor, nn

from .builders import text_of, where
from .catalogue import ModelSpec
from .channels import advice
from .loading import Source


def first_pass_fault(spec: ModelSpec, source: Source, error: Exception, like: Tensor) -> str:
    """What failed, and what to do about it. `like`: a tensor on the network's device and in its number format."""
    if isinstance(error, TypeError) and not _takes_images_alone(source.network):
        return f"its forward must take the images alone, and it does not: {error}; wrap it in a network that does"
    if channels := advice(source, like):
        return channels
    assumed = "" if spec.hub or (spec.height and spec.width) else ", assumed since its entry has no height and width,"
    return (
        f"a first pass over images of {source.height}x{source.width}{assumed} failed{where(error)}: {text_of(error)}; "
        "if its input has another size, say so with height and width; networks of 1 or 3 channels can be served"
    )


def _takes_images_alone(network: nn.Module) -> bool:
    """Whether its forward can be called with one argument."""
    try:
        inspect.signature(network.forward).bind(None)
    except ValueError:  # Some callables have no signature.
        return True
    except TypeError:
        return False
    return True
