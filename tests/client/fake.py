"""A small server that speaks the contract and answers from a table; no torch in sight."""

import time
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from gradserve import images
from gradserve.v1 import (
    common_pb2,
    concepts_pb2_grpc,
    explain_pb2,
    influence_pb2,
    management_pb2_grpc,
    maximize_pb2,
    models_pb2,
    models_pb2_grpc,
    predict_pb2,
    service_pb2_grpc,
    stylize_pb2,
)

from . import fake_making
from .fake_attack import attacked
from .fake_certify import certified
from .fake_concepts import FakeDirections, conceived
from .fake_dense import mapped
from .fake_differentiate import differentiated
from .fake_exemplars import exemplars
from .fake_inspect import inspected
from .fake_management import changed
from .fake_project import projected

CLASSES = ["goldfish", "tabby cat", "espresso"]
SIZE = 24
METHODS = [field.name for field in explain_pb2.ExplainMethod.DESCRIPTOR.oneofs_by_name["method"].fields]
DOUBTFUL = "doubtful"  # The model whose answers have a warning in their provenance.
BAD_FIELDS = [("methods[0].smooth_grad.samples", "1 to 2000, not 0"), ("preprocess", "one of 1 to 3")]


def ramp(signed: bool) -> np.ndarray:
    """The map that is always answered: rising to the lower right."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return (y + x) / (2 * SIZE - 2) - (0.5 if signed else 0.0)


class FakeServer(
    service_pb2_grpc.GradientServiceServicer,
    models_pb2_grpc.ModelServiceServicer,
    management_pb2_grpc.ModelManagementServiceServicer,
    concepts_pb2_grpc.DirectionServiceServicer,
):
    """Answers by the model's name: "missing", "full", "slow", "down:2" (two calls fail), "full:2", "secret" ..."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.ended_well: list[bool] = []  # The streams whose callers heard the end.
        self.metadata: dict[str, str] = {}
        self.health = b"\x08\x01"
        self.failures: dict[str, int] = {}
        self.directions = FakeDirections()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(8),
            options=[("grpc.max_receive_message_length", 32 << 20), ("grpc.so_reuseport", 0)],
        )
        service_pb2_grpc.add_GradientServiceServicer_to_server(self, self.server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self, self.server)
        management_pb2_grpc.add_ModelManagementServiceServicer_to_server(self, self.server)
        concepts_pb2_grpc.add_DirectionServiceServicer_to_server(self, self.server)
        check = grpc.unary_unary_rpc_method_handler(lambda request, context: self.health)
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        self.server.add_generic_rpc_handlers((handler,))
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def Predict(self, request, context):
        self._note(request, context)
        scores = [
            common_pb2.Score(class_index=i, class_name=name, probability=0.7 - 0.3 * i, logit=9.0 - i)
            for i, name in enumerate(CLASSES[: request.top_k])
        ]
        return predict_pb2.PredictResponse(top=scores, region=_region(request), provenance=_provenance(request))

    def Explain(self, request, context):
        self._note(request, context)
        targets = list(request.targets) or [common_pb2.Target(rank=1)]
        return explain_pb2.ExplainResponse(
            explanations=[_explanation(request, method, target) for method in request.methods for target in targets],
            region=_region(request),
            provenance=_provenance(request),
        )

    def StreamExplain(self, request, context):
        whole = self.Explain(request, context)
        for index, each in enumerate(whole.explanations):
            for finished in (False, True):
                facts = {"index": index, "explanation": each, "finished": finished, "region": whole.region}
                yield explain_pb2.ExplainEvent(progress=explain_pb2.ExplainProgress(**facts))
        yield explain_pb2.ExplainEvent(result=whole)

    def Attack(self, request, context):
        self._note(request, context)
        return attacked(request, _region(request), _provenance(request))

    def Certify(self, request, context):
        self._note(request, context)
        return certified(request, CLASSES, _region(request), _provenance(request))

    def Concepts(self, request, context):
        self._note(request, context)
        return conceived(request, CLASSES, _provenance(request))

    def ListDirections(self, request, context):
        self.requests.append(request)
        return self.directions.listed()

    def DeleteDirection(self, request, context):
        self.requests.append(request)
        return self.directions.delete(request.name, context)

    def Maximize(self, request, context):
        self._note(request, context)
        return fake_making.maximized(request, CLASSES, _provenance(request))

    def StreamMaximize(self, request, context):
        self._note(request, context)
        for each in fake_making.progress(fake_making.COURSE):
            yield maximize_pb2.MaximizeEvent(progress=each)
        yield maximize_pb2.MaximizeEvent(result=fake_making.maximized(request, CLASSES, _provenance(request)))
        time.sleep(0.1)  # The status comes after the result.
        self.ended_well.append(context.is_active())

    def Stylize(self, request, context):
        self._note(request, context)
        return fake_making.stylized(request, _provenance(request))

    def StreamStylize(self, request, context):
        self._note(request, context)
        for each in fake_making.progress(fake_making.LOSSES):
            yield stylize_pb2.StylizeEvent(progress=each)
        yield stylize_pb2.StylizeEvent(result=fake_making.stylized(request, _provenance(request)))

    def Influence(self, request, context):
        self._note(request, context)
        method = request.method.WhichOneof("method") or "projected"
        similar = method == "neighbours"
        reply = influence_pb2.InfluenceResponse(
            helpful=[] if similar else [_example(4, change=0.25), _example(5, change=0.125)],
            harmful=[] if similar else [_example(6, change=-0.25, newton_change=-0.5)],
            what_if=[0.25] * len(request.what_if),
            label_name=CLASSES[0],
            probability=0.75,
            value=0.5,
            goal=request.goal or influence_pb2.INFLUENCE_GOAL_LOSS,
            method_name=method,
            examples=99,
            region=_region(request),
            provenance=_provenance(request),
        )
        if similar:
            reply.helpful.append(_example(4, similarity=0.9))
        getattr(reply.method, method).SetInParent()
        reply.provenance.warnings.append("NOT_STATIONARY: made up")
        return reply

    def Suspects(self, request, context):
        self._note(request, context)
        examples = [_example(4 + i, self_influence=9.0 - i) for i in range(request.top)]
        provenance = _provenance(request)
        return influence_pb2.SuspectsResponse(examples=examples, total=99, provenance=provenance)

    def Embed(self, request, context):
        self._note(request, context)
        features = common_pb2.Tensor(shape=[2], dtype=2, data=np.array([1, 2], "<f4").tobytes())
        return influence_pb2.EmbedResponse(
            features=features, layer=request.layer, region=_region(request), provenance=_provenance(request)
        )

    def Differentiate(self, request, context):
        self._note(request, context)
        return differentiated(request, len(CLASSES), SIZE, _provenance(request))

    def Dense(self, request, context):
        self._note(request, context)
        return mapped(request, CLASSES, _region(request), _provenance(request))

    def Inspect(self, request, context):
        self._note(request, context)
        region = _region(request.activations) if request.HasField("activations") else common_pb2.Region()
        return inspected(request, _provenance(request), region)

    def Exemplars(self, request, context):
        self._note(request, context)
        return exemplars(request, _provenance(request))

    def Project(self, request, context):
        self._note(request, context)
        return projected(request, CLASSES, common_pb2.Region(image_width=80, image_height=60), _provenance(request))

    def ListModels(self, request, context):
        self._note(request, context)
        return models_pb2.ListModelsResponse(models=[_card("tiny"), _card("digits")], default_model="tiny")

    def GetModel(self, request, context):
        self._note(request, context)
        if request.name not in ("", "tiny", "digits"):
            _abort(context, grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}; nearest: tiny")
        card = _card(request.name or "tiny")
        card.layers.add(name="features.0", kind="Conv2d", channels=8, height=12, width=12)
        card.layers.add(name="classifier", kind="Linear", channels=3)
        return card

    def LoadModel(self, request, context):
        self._note(request, context)
        yield from changed([_card(name) for name in request.names], ["tiny", "digits", *request.names])

    def UnloadModel(self, request, context):
        self._note(request, context)
        yield from changed([], ["tiny"])

    def ReloadModel(self, request, context):
        self._note(request, context)
        if "gone" in request.names:
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "model gone: no file of weights")
        yield from changed([_card(name) for name in request.names], ["tiny", "digits"])

    def _note(self, request, context) -> None:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        model = getattr(request, "model", "")
        if model.startswith("down:") and self.failures.setdefault(model, int(model[5:])) > 0:
            self.failures[model] -= 1
            reason = error_details_pb2.ErrorInfo(reason="NO_WORKER", domain="gradserve")
            _abort(context, grpc.StatusCode.UNAVAILABLE, "the server is starting", reason)
        if model.startswith("full:") and self.failures.setdefault(model, int(model[5:])) > 0:
            self.failures[model] -= 1
            delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=20_000_000))
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", delay)
        if model == "slow":
            time.sleep(1)
        if model == "secret" and self.metadata.get("authorization") != "Bearer open sesame":
            _abort(context, grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
        if model in _FAILURES:
            _abort(context, *_FAILURES[model])
        methods = {each.WhichOneof("method") for each in getattr(request, "methods", ())}
        if "deconvnet" in methods:
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "deconvnet: the model has no ReLU")


def _region(request) -> common_pb2.Region:
    width, height = images.opened(request.image).size
    side = min(width, height)
    return common_pb2.Region(
        x=(width - side) / 2, y=(height - side) / 2, width=side, height=side, image_width=width, image_height=height
    )


def _provenance(request) -> common_pb2.Provenance:
    options = getattr(request, "options", common_pb2.RequestOptions())
    return common_pb2.Provenance(
        model=request.model or "tiny",
        weights_digest="ab" * 32,
        seed=options.seed,
        precision=common_pb2.PRECISION_EXACT,
        preprocess=getattr(request, "preprocess", 0),
        rows=len(getattr(request, "methods", "x")),
        queue_seconds=0.001,
        compute_seconds=0.002,
        server_version="0.1.0",
        request_id="r-1",
        warnings=["DOUBTFUL: made up"] if request.model == DOUBTFUL else [],
        quick_decode=options.quick_decode,
        alone=options.alone,
    )


def _explanation(request, method, target) -> explain_pb2.Explanation:
    chosen = method.WhichOneof("method")
    values = ramp(signed=chosen == "integrated_gradients")
    answer = explain_pb2.Explanation(method=method, method_name=chosen, target=_resolved(target), target_value=4.25)
    if target.HasField("region"):
        answer.target.region.CopyFrom(target.region)
    kind = target.WhichOneof("kind")
    several = kind in ("unit", "contrast", "similarity", "direction")
    answer.target_name = f"a {kind}" if several else CLASSES[answer.target.class_index]
    answer.low, answer.high = float(values.min()), float(values.max())
    answer.asked, answer.done, answer.completed_fraction = 50, 50, 1.0
    if request.options.allow_partial:
        answer.done, answer.completed_fraction = 23, 0.46
    if chosen == "smooth_grad" and not method.smooth_grad.HasField("samples"):
        answer.method.smooth_grad.samples = 50
    if chosen == "integrated_gradients":
        answer.completeness_gap = 0.0125
    if chosen == "grad_cam":
        coarse = np.eye(3, dtype="<f4")
        answer.coarse.CopyFrom(common_pb2.Tensor(shape=[3, 3], dtype=2, data=coarse.tobytes()))
    if chosen == "guided_backprop":
        answer.warnings.append("PARTIALLY_GUIDED")
    if request.format == explain_pb2.MAP_FORMAT_PNG:
        levels = np.round((values - answer.low) / (answer.high - answer.low) * 255).astype(np.uint8)
        answer.png = images.png(images.Image.fromarray(levels))
    else:
        kind = "<f2" if request.format == explain_pb2.MAP_FORMAT_FLOAT16 else "<f4"
        dtype = common_pb2.DTYPE_FLOAT16 if kind == "<f2" else common_pb2.DTYPE_FLOAT32
        answer.raw.CopyFrom(common_pb2.Tensor(shape=values.shape, dtype=dtype, data=values.astype(kind).tobytes()))
    if request.overlay:
        answer.overlay = images.png(images.heatmap(values))
    _add_extras(request, answer)
    return answer


def _add_extras(request, answer) -> None:
    if request.segment and answer.method.WhichOneof("method") == "occlusion":
        answer.warnings.append("NO_SEGMENT: made up")
    elif request.segment:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[SIZE // 2 :] = 255
        answer.segment.mask = images.png(images.Image.fromarray(mask))
        answer.segment.outline.extend([0, 30, 80, 30, 80, 60, 0, 60])
        answer.segment.box.CopyFrom(common_pb2.Box(x0=0, y0=30, x1=80, y1=60))
        answer.segment.share = 0.5
    if request.trust:
        answer.trust.CopyFrom(explain_pb2.Trust(agreement=0.5, chance_p=0.0025, centre_agreement=0.25, verdict=3))
        answer.trust.sentence = "beats both chance and the middle of the picture"
    if request.curves:
        curves = {"insertion": [0.0, 0.5, 1.0], "deletion": [1.0, 0.25, 0.0]}
        answer.trust.curves.CopyFrom(explain_pb2.Curves(**curves, insertion_area=0.5, deletion_area=0.375))


def _example(row: int, **facts: float) -> influence_pb2.TrainingExample:
    thumbnail = images.png(images.Image.fromarray(np.full((8, 8), 100, np.uint8)))
    name = CLASSES[0]
    return influence_pb2.TrainingExample(
        row=row, name=f"{row}.png", label_name=name, predicted_name=name, thumbnail=thumbnail, **facts
    )


def _resolved(target) -> common_pb2.Target:
    if target.HasField("unit"):
        return target
    if target.HasField("contrast"):
        terms = [common_pb2.WeightedTarget(target=_resolved(t.target), weight=t.weight) for t in target.contrast.terms]
        return common_pb2.Target(contrast=common_pb2.Contrast(terms=terms))
    if target.HasField("direction"):
        return common_pb2.Target(direction=common_pb2.Direction(layer="last", name=target.direction.name))
    if target.HasField("similarity"):
        return common_pb2.Target(similarity=common_pb2.Similarity(layer=target.similarity.layer or "features.0"))
    name = target.class_name
    index = CLASSES.index(name) if name else max(target.rank - 1, 0) if target.rank else target.class_index
    return common_pb2.Target(class_index=index)


def _card(name: str) -> models_pb2.Model:
    card = models_pb2.Model(
        name=name,
        builder="embedded",
        weights_digest="ab" * 32,
        classes=CLASSES,
        input_height=SIZE,
        input_width=SIZE,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        precisions=[common_pb2.PRECISION_EXACT],
        default_eps=8 / 255,
        grad_cam_layer="features.0",
        gflop=0.0125,
        notes=["only for tests"],
    )
    for method in METHODS:
        card.methods.add(method=method, applies=method != "deconvnet", reason="no ReLU" * (method == "deconvnet"))
    if name == "digits":
        card.methods.add(method="influence", applies=True)
    return card


def packed(code: int, text: str, *details: Any) -> bytes:
    """A google.rpc.Status with details, as it travels in the trailing metadata."""
    status = status_pb2.Status(code=code, message=text)
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        status.details.append(wrapped)
    return status.SerializeToString()


def _abort(context, code: grpc.StatusCode, text: str, *details: Any) -> None:
    trailing = [("grpc-status-details-bin", packed(code.value[0], text, *details)), ("x-request-id", "r-1")]
    context.set_trailing_metadata(trailing)
    context.abort(code, text)


_FAILURES: dict[str, tuple[Any, ...]] = {
    "missing": (
        grpc.StatusCode.NOT_FOUND,
        "no model 'missing'; nearest: tiny",
        error_details_pb2.ErrorInfo(reason="UNKNOWN_MODEL", domain="gradserve"),
    ),
    "invalid": (
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid request",
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in BAD_FIELDS
            ]
        ),
    ),
    "full": (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "the queue is full",
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="gradserve"),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)),
    ),
    "broken": (grpc.StatusCode.INTERNAL, "a fault"),
}
