"""Maps from a layer's activations, weighted by their gradients."""

from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query, Tap
from ..parameters import LayerName, Reduce
from .maps import Map, reduced, upsampled


def weighted_sum(act: Tensor, grad: Tensor) -> Tensor:
    """Channels weighted by their mean gradients (Selvaraju et al. 2017, eq. 1 and 2 without the ReLU): [N, h, w]."""
    return (act * grad.mean((2, 3), keepdim=True)).sum(1)


def grad_cam(x: Tensor, target: Objective, run: MethodContext, *, layer: LayerName = "", signed: bool = False) -> Steps:
    """ReLU of the gradient-weighted sum of a layer's maps (Selvaraju et al. 2017). [1, 3, H, W] -> Map."""
    answer = yield Query(x, target, "taps", (Tap(layer, reduce=weighted_sum),))
    run.completed(range(1))
    coarse = answer.acts[0][0] if signed else answer.acts[0][0].relu()
    return Map(upsampled(coarse, (x.shape[2], x.shape[3])), answer.value[0], coarse)


def positive_sum(act: Tensor, grad: Tensor) -> Tensor:
    """Activations weighted at each position by their positive gradients there (Jiang et al. 2021): [N, h, w]."""
    return (act * grad.relu()).sum(1).relu()


def layer_cam(x: Tensor, target: Objective, run: MethodContext, *, layer: LayerName = "") -> Steps:
    """ReLU of a layer's maps, weighted by their positive gradients (Jiang et al. 2021). [1, 3, H, W] -> Map."""
    answer = yield Query(x, target, "taps", (Tap(layer, reduce=positive_sum),))
    run.completed(range(1))
    coarse = answer.acts[0][0]
    return Map(upsampled(coarse, (x.shape[2], x.shape[3])), answer.value[0], coarse)


def guided_grad_cam(
    x: Tensor, target: Objective, run: MethodContext, *, layer: LayerName = "", reduce: Reduce = "sum"
) -> Steps:
    """Guided backprop times upsampled Grad-CAM (Selvaraju et al. 2017, section 3.2). [1, 3, H, W] -> Map."""
    cam, guided = yield [
        Query(x, target, "taps", (Tap(layer, reduce=weighted_sum),)),
        Query(x, target, "image", rule="guided"),
    ]
    run.completed(range(1))
    coarse = cam.acts[0][0].relu()
    fine = upsampled(coarse, (x.shape[2], x.shape[3]))
    return Map(reduced(guided.image_grad[0] * fine, reduce), cam.value[0], coarse)
