"""Inspect: what is inside a network, as one of several views."""

from dataclasses import dataclass

from torch import Tensor

from ...engine.job import Job, Steps
from .activations import ActivationsArguments, activations
from .receptive_field import FieldArguments, receptive_field
from .table import TableArguments, table
from .weights import WeightsArguments, weights

ViewArguments = WeightsArguments | ActivationsArguments | TableArguments | FieldArguments


@dataclass(frozen=True, slots=True)
class InspectArguments:
    """The view, with what it takes."""

    view: ViewArguments


def inspect(job: Job, x: Tensor, arguments: InspectArguments) -> Steps:
    """[n, 3, H, W] -> ShownWeights, ShownMaps, LayerStatistics or Field. Where a view takes no picture, x is unused."""
    view = arguments.view
    if isinstance(view, WeightsArguments):
        return (yield from weights(view))
    if isinstance(view, ActivationsArguments):
        return (yield from activations(x, view))
    if isinstance(view, TableArguments):
        return (yield from table(job.run(), x, view))
    return (yield from receptive_field(job.run(), x, view))
