"""What a server tells about its models."""

from dataclasses import dataclass

from gradserve.results.common import Result


@dataclass(frozen=True)
class Applicability:
    """Whether a method applies to a model, and why not, or what to know where it does."""

    method: str
    applies: bool
    reason: str


@dataclass(frozen=True)
class Layer:
    """A layer as it ran on the model's default input; 0 where it has no channels or no map."""

    name: str
    kind: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class ModelCard(Result):
    """A model's card.

    input_size: height and width of the default input. any_size: whether preprocess="as_is" may use others. mean, std:
    what pixels in [0, 1] are normalised by, a number for each channel of the network. default_eps: the budget in Linf
    that suits the model, of pixels in [0, 1]. gflop: 10^9 operations of a forward pass of one image. layers: in the
    order in which they run; only of a model that was asked for by name.
    """

    name: str
    builder: str
    weights_digest: str
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    any_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precisions: tuple[str, ...]
    default_eps: float
    grad_cam_layer: str
    gflop: float
    methods: tuple[Applicability, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]
    head: str = "softmax"  # "softmax", "binary" or "multilabel": the meaning of the classes' probabilities.

    def applies(self, method: str) -> bool:
        """Whether the method applies to this model."""
        return any(each.method == method and each.applies for each in self.methods)

    def __repr__(self) -> str:
        height, width = self.input_size
        return f"<ModelCard {self.name}: {len(self.classes)} classes, {height} x {width}, {self.gflop:.3g} GFLOP>"


@dataclass(frozen=True)
class ChangeProgress(Result):
    """What a change of the served models does now.

    state: "waiting", "reading", "loading", "warming_up" or "ready". worker: which new worker does it, of `workers`; 0
    where none does. model: the one that it has before it. seconds: since the call.
    """

    state: str
    worker: int
    workers: int
    model: str
    seconds: float


@dataclass(frozen=True)
class ChangedModels(Result):
    """What a change of the served models has done: the cards of those that it has loaded, and the names of all."""

    models: tuple[ModelCard, ...]
    served: tuple[str, ...]
    seconds: float
