"""Pure functions for Attack: arguments -> request message, reply -> result."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, Unpack

from gradserve.arguments import (
    AttackMethodLike,
    AttackTargetLike,
    DefenceLike,
    ImageLike,
    Layout,
    MapsLike,
    Options,
    PhotoOptions,
    Pick,
    RegionLike,
    TargetLike,
)
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    check_target,
    choice,
    provenance_of,
    region_of,
    request_options,
    score_of,
    score_region,
    set_method,
    split,
    target_message,
    unread,
)
from gradserve.messages.explain import explanation_of
from gradserve.parameters.attack import AttackParameters, Eot, Loss, Norm
from gradserve.parameters.common import Preprocess
from gradserve.results.attack import Attack, AttackStage, Certificate, Judgement, TrajectoryStep
from gradserve.results.common import Provenance, Region
from gradserve.results.explain import Explanation
from gradserve.v1 import attack_pb2, common_pb2, explain_pb2

_ENUMS = attack_pb2.DESCRIPTOR.enum_types_by_name
ATTACK_METHOD: Any = attack_pb2.AttackMethod.DESCRIPTOR
EOT: Any = attack_pb2.Eot.DESCRIPTOR
DEFENCE: Any = attack_pb2.Defence.DESCRIPTOR


class AttackArguments(PhotoOptions, AttackParameters, total=False):
    """What `attack` takes beside the picture and the method; also the parameters of the method.

    label: the true class; None, the predicted one. target: what is to be predicted; None, anything else. eps: the
    budget, a number or "8/255"; None, what suits the model. norm: "linf" (default) or "l2". loss: None, what suits the
    method. first_success: stop there; None, where the method does. trajectory, perturbation: also answer with these.
    mask: a box (x0, y0, x1, y1) or a mask, inside which pixels may change; None, everywhere.
    """

    label: int | str | None
    target: AttackTargetLike | None
    eps: float | str | None
    norm: Norm
    loss: Loss | None
    defence: DefenceLike
    adaptive: bool
    eot: Eot | bool
    first_success: bool | None
    trajectory: bool
    perturbation: bool
    maps: MapsLike
    maps_target: TargetLike | None
    region: RegionLike | None
    mask: RegionLike | None


_PARAMETERS = AttackParameters.__annotations__.keys()
_OWN = AttackArguments.__annotations__.keys() - _PARAMETERS | {"timeout"}


def attack_request(
    image: ImageLike | None, method: AttackMethodLike = "pgd", **arguments: Unpack[AttackArguments]
) -> attack_pb2.AttackRequest:
    """The arguments of Attack as a message."""
    own, parameters = split("attack", arguments, _OWN, _PARAMETERS)
    return _request(image, set_method(attack_pb2.AttackMethod(), method, parameters), **own)


def _request(
    image: ImageLike | None,
    method: attack_pb2.AttackMethod,
    *,
    label: int | str | None = None,
    target: AttackTargetLike | None = None,
    eps: float | str | None = None,
    norm: Norm = "linf",
    loss: Loss | None = None,
    defence: DefenceLike = None,
    adaptive: bool = False,
    eot: Eot | bool = False,
    first_success: bool | None = None,
    trajectory: bool = False,
    perturbation: bool = False,
    maps: MapsLike = None,
    maps_target: TargetLike | None = None,
    region: RegionLike | None = None,
    mask: RegionLike | None = None,
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> attack_pb2.AttackRequest:
    request = attack_pb2.AttackRequest(
        model=model,
        image=None if image is None else inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        method=method,
        label=None if label is None else target_message(label),
        target=None if target is None else attack_target(target),
        eps=None if eps is None else amount("eps", eps),
        norm=choice("norm", _ENUMS["Norm"], norm),
        loss=None if loss is None else choice("loss", _ENUMS["Loss"], loss),
        adaptive=adaptive,
        trajectory=trajectory,
        perturbation=perturbation,
        maps_target=None if maps_target is None else target_message(maps_target, layout),
        score_region=None if region is None else score_region(region, layout),
        mask=None if mask is None else attack_mask(mask, layout),
        options=request_options(**options),
    )
    if first_success is not None:
        request.first_success = first_success
    if defence is not None:
        set_method(request.defence, defence)
    if eot is not False:
        changes: Mapping[str, Any] = {} if eot is True else eot
        if not isinstance(changes, Mapping):
            raise ValueError(f"eot is True or settings, such as {{'samples': 16}}, not {eot!r}")
        fields.fill_fields(request.eot, "eot", changes)
    if maps is not None:
        set_method(request.maps, maps)
    return request


def amount(name: str, value: float | str) -> float:
    """A number, or a text such as "8/255"."""
    if isinstance(value, str):
        try:
            return fields.number(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{name} is a number or a fraction like 8/255, not {value!r}") from None
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} is a number or a fraction like '8/255', not {value!r}")
    return float(value)


def attack_target(target: AttackTargetLike) -> attack_pb2.AttackTarget:
    """A class's index or name, or a Pick, as a message."""
    if isinstance(target, Pick):
        return attack_pb2.AttackTarget(pick=choice("target", _ENUMS["Pick"], target.value))
    kind = target_message(target)
    if kind.WhichOneof("kind") == "class_name":
        return attack_pb2.AttackTarget(class_name=kind.class_name)
    if kind.WhichOneof("kind") == "class_index":
        return attack_pb2.AttackTarget(class_index=kind.class_index)
    raise ValueError(f"an attack's target is a class's index or name, or a Pick, not {target!r}")


def attack_mask(mask: RegionLike, layout: Layout = "HWC") -> attack_pb2.AttackMask:
    """A box (x0, y0, x1, y1), or a mask as any picture, inside which pixels may change, as a message."""
    region = score_region(mask, layout, "mask")
    if region.HasField("box"):
        return attack_pb2.AttackMask(box=region.box)
    return attack_pb2.AttackMask(picture=region.mask)


def attack_result(request: attack_pb2.AttackRequest, reply: attack_pb2.AttackResponse) -> Attack:
    """The reply of Attack as a result.

    Raises Unimplemented where the server has left out a part of maps_target, or the mask.
    """
    if request.HasField("mask") and not reply.certificate.HasField("mask_pixels"):
        raise unread("knows no mask of an attack", "it changed all pixels", reply.provenance)
    if reply.HasField("map_before"):
        check_target(request.maps_target, reply.map_before.target, reply.provenance)
    region, provenance = region_of(reply.region), provenance_of(reply.provenance)
    chosen = reply.method.WhichOneof("method")
    adversarial = common_pb2.Image(encoded=reply.adversarial)
    return Attack(
        adversarial=reply.adversarial,
        perturbation=reply.perturbation or None,
        magnification=reply.magnification,
        certificate=_certificate(reply.certificate),
        trajectory=tuple(
            TrajectoryStep(each.step, score_of(each.predicted), each.margin, each.loss) for each in reply.trajectory
        ),
        method=reply.method_name,
        parameters=fields.resolved(getattr(reply.method, chosen)) if chosen else {},
        loss=fields.choice_name(_ENUMS["Loss"], reply.loss),
        map_before=_map(reply, "map_before", request.image, region, provenance),
        map_after=_map(reply, "map_after", adversarial, None, provenance),
        patch=reply.patch or None,
        success_rate=reply.success_rate if reply.HasField("success_rate") else None,
        asked=reply.asked,
        done=reply.done,
        region=region,
        provenance=provenance,
        stages=tuple(AttackStage(each.method, each.reached, each.queries, each.gradients) for each in reply.stages),
    )


def _map(
    reply: attack_pb2.AttackResponse, name: str, image: common_pb2.Image, region: Region | None, origin: Provenance
) -> Explanation | None:
    if not reply.HasField(name):
        return None
    message: explain_pb2.Explanation = getattr(reply, name)
    height, width = message.raw.shape
    return explanation_of(message, image, region or Region(0, 0, width, height, width, height), origin)


def _certificate(reply: attack_pb2.Certificate) -> Certificate:
    return Certificate(
        verdict=fields.choice_name(_ENUMS["Verdict"], reply.verdict),
        label=reply.label,
        label_name=reply.label_name,
        target=reply.target if reply.HasField("target") else None,
        target_name=reply.target_name,
        before=_judgement(reply.before),
        after=_judgement(reply.after),
        undefended=_judgement(reply.undefended) if reply.HasField("undefended") else None,
        l0=reply.l0,
        l2=reply.l2,
        linf=reply.linf,
        norm=fields.choice_name(_ENUMS["Norm"], reply.norm),
        eps=reply.eps if reply.HasField("eps") else None,
        within_budget=reply.within_budget,
        queries=reply.queries,
        gradients=reply.gradients,
        first_success=reply.first_success if reply.HasField("first_success") else None,
        warnings=tuple(reply.warnings),
        mask_pixels=reply.mask_pixels if reply.HasField("mask_pixels") else None,
    )


def _judgement(reply: attack_pb2.Judgement) -> Judgement:
    target = score_of(reply.target) if reply.HasField("target") else None
    return Judgement(score_of(reply.predicted), score_of(reply.label), reply.margin, target)
