"""Concepts: from its request to a task, from the outcome to its reply."""

from collections.abc import Mapping, Sequence

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import concepts_pb2

from ...engine.costs import passes_cost
from ...engine.job import TimeUp
from ...engine.objective import NotApplicable
from ...methods.concepts import ConceptsArguments
from ...methods.concepts.analysis import ConceptDirection, Sensitivity, analysed, gflop
from ...methods.targets import Target
from ...models.card import Layer, ModelCard
from ...pool.wire import Failure, Outcome
from ..arguments.batches import batch_of_fields, read_pictures
from ..arguments.targets import has_channels, known_layer, single_target
from ..directions import check_name, kept_direction, timestamp
from ..errors import Violations, failure, inapplicable
from ..fields import choice
from ..pictures.images import ModelInput
from ..reply import provenance, target_message
from ..request import PREPROCESSES, Bound, CallContext, area, check_options, in_exact, model_of, task_of

MIN_IMAGES, MAX_CONCEPTS, MAX_NEGATIVES, MAX_CLASS_IMAGES = 3, 128, 256, 128
ADVISED_IMAGES = 10  # With fewer the answer has a warning.
MAX_CLASSES = 16
MAX_GRADIENTS = 16384  # Classes times pictures.
RANDOM_DIRECTIONS, MAX_RANDOM_DIRECTIONS = 20, 500  # The default, which is also the least allowed, and the most.
MIN_ACCURACY = 0.7  # Below it the answer has a warning.
# The kinds of layers that may lie between a layer and the one that gives the logits, if what goes into that one is to
# be the averaged channels of the first.
LINEAR_KINDS = frozenset({"AdaptiveAvgPool2d", "AvgPool2d", "Dropout", "Dropout2d", "Flatten", "Identity"})
VERDICTS = (concepts_pb2.CONCEPT_VERDICT_AGAINST, concepts_pb2.CONCEPT_VERDICT_FOR)


def bind(request: concepts_pb2.ConceptsRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    options = in_exact(check_options("concepts", request.options, card, at, violations), "Concepts", violations)
    pictures = _pictures(request, card, at, violations)
    batch = batch_of_fields(pictures, violations)
    layer = _layer(request, card, violations)
    by_weights = not request.class_images
    if layer is not None and by_weights and not card.positions and not gives_averages(layer, card):
        text = f"are needed at {layer.name}, since its averaged channels are not what goes into the layer that gives "
        usual = card.layer(last_layer(card))
        other = ", or leave layer out" if usual is not None and gives_averages(usual, card) else ""
        violations.add("class_images", f"{text}the logits; send some (of anything){other}")
    classes = _classes(request, card, violations)
    count = RANDOM_DIRECTIONS
    if request.HasField("random_directions"):
        count = request.random_directions
    if not RANDOM_DIRECTIONS <= count <= MAX_RANDOM_DIRECTIONS:
        text = f"must be from {RANDOM_DIRECTIONS} to {MAX_RANDOM_DIRECTIONS}, was {count}"
        violations.add("random_directions", text, for_every_model=True)
    if request.keep_as:
        check_name(request.keep_as, "keep_as", violations)
    if card.no_gradient:
        violations.not_applicable(f"Concepts does not apply to {card.name}: {card.no_gradient}")
    violations.check()
    # Without decoding this runs on the event loop, which should not read files.
    if request.keep_as and layer is not None and at.decode:
        at.directions.check_room(request.keep_as, layer.channels)
    assert layer is not None, "only a violation leaves it out"
    arguments = ConceptsArguments(
        layer.name,
        len(request.concept_images),
        len(request.negative_images),
        classes,
        not request.classes,
        count,
        card.logits_layer if by_weights else "",
    )
    first = next(iter(pictures.values()))[0]
    task = task_of(options, card, batch, arguments, _cost(arguments, batch, card), at)
    return Bound(task, card, first, ("concepts",), reply_gflop=gflop(arguments), directions=at.directions)


def _pictures(
    request: concepts_pb2.ConceptsRequest, card: ModelCard, at: CallContext, violations: Violations
) -> dict[str, list[ModelInput]]:
    """The pictures by field; concept and negative pictures that are all the same are violations."""
    choice(pb.Preprocess.DESCRIPTOR, request.preprocess, "preprocess", violations)
    how = PREPROCESSES.get(request.preprocess, pb.PREPROCESS_MODEL_DEFAULT)
    quick = request.options.quick_decode
    pictures = dict[str, list[ModelInput]]()
    for path, most in (("concept_images", MAX_CONCEPTS), ("negative_images", MAX_NEGATIVES)):
        before, images = len(violations.invalid), getattr(request, path)
        own = read_pictures(images, path, most, how, card, at, violations, quick=quick, least=MIN_IMAGES)
        if at.decode and len(violations.invalid) == before and _all_the_same(own):
            text = f"are {len(own)} times the same picture; send different ones"
            violations.add(path, text, for_every_model=True)
        pictures[path] = own
    if request.class_images:
        pictures["class_images"] = read_pictures(
            request.class_images, "class_images", MAX_CLASS_IMAGES, how, card, at, violations, quick=quick
        )
    return pictures


def _all_the_same(pictures: Sequence[ModelInput]) -> bool:
    first = pictures[0].pixels
    return all(each.pixels.shape == first.shape and np.array_equal(each.pixels, first) for each in pictures[1:])


def _layer(request: concepts_pb2.ConceptsRequest, card: ModelCard, violations: Violations) -> Layer | None:
    """The layer, or None with a violation."""
    layer = known_layer(request.layer or last_layer(card), card, "layer", violations)
    if layer is None or not has_channels(layer, card, "layer", violations):
        return None
    if not card.reaches(layer):
        violations.add("layer", f"the logits do not depend on what {layer.name} gives; name another")
        return None
    return layer


def last_layer(card: ModelCard) -> str:
    """The name of the default layer.

    That of Grad-CAM, if its averaged channels go into the layer that gives the logits; else the last layer of which
    that is true; where there is none, that of Grad-CAM after all, or the last of all layers.
    """
    usual = card.layer(card.grad_cam_layer) if card.grad_cam_layer else None
    if usual is not None and gives_averages(usual, card):
        return usual.name
    last = [layer for layer in card.layers if gives_averages(layer, card)]
    named = last[-1] if last else usual
    return card.layers[-1].name if named is None else named.name


def gives_averages(layer: Layer, card: ModelCard) -> bool:
    """Whether a layer's averaged channels may be what goes into the layer that gives the logits.

    What lies between is judged by its kinds; the worker looks at a gradient too.
    """
    logits = card.layer(card.logits_layer) if card.logits_layer else None
    if logits is None or layer.layout not in ("vector", "nchw", "nhwc"):
        return False
    begin, end = card.order(layer.name), card.order(logits.name)
    between = card.layers[begin + 1 : end]
    kept = all(each.kind in LINEAR_KINDS or layer.name.startswith(f"{each.name}.") for each in between)
    return begin < end and kept and int(np.prod(logits.weight[1:])) == layer.channels


def _classes(request: concepts_pb2.ConceptsRequest, card: ModelCard, violations: Violations) -> tuple[Target, ...]:
    """The classes, all of them if none is named; nothing, with a violation, where they are at fault."""
    if len(request.classes) > MAX_CLASSES:
        text = f"must be at most {MAX_CLASSES}, were {len(request.classes)}; name none for all"
        violations.add("classes", text, for_every_model=True)
        return ()
    found = list[Target]()
    for i, message in enumerate(request.classes):
        path, kind = f"classes[{i}]", message.WhichOneof("kind")
        if kind not in ("class_index", "class_name", "rank"):
            violations.add(path, "must be a class's index or name, or a rank", for_every_model=True)
        elif kind == "rank" and not request.class_images:
            text = "a rank is that of pictures; send class_images, or name the class"
            violations.add(path, text, for_every_model=True)
        elif target := single_target(message, card, path, True, violations):
            found.append(target)
    found = found or ([] if request.classes else [Target(label=i) for i in range(len(card.classes))])
    gradients = len(found) * len(request.class_images)
    if gradients > MAX_GRADIENTS:
        text = f"of {len(found)} classes make {gradients} gradients, and at most {MAX_GRADIENTS} are allowed"
        violations.add("class_images", f"{text}; send fewer, or name classes")
    return tuple(found)


def _cost(arguments: ConceptsArguments, batch: np.ndarray, card: ModelCard) -> float:
    """The cost in GFLOP: a forward pass for each picture of the concept and negatives, and the gradients."""
    shown = arguments.concepts + arguments.negatives
    gradients = (len(batch) - shown) * len(arguments.classes) or 1
    return (shown + gradients) * passes_cost(card.gflop, "taps") * area(batch[0], card)


def reply(request: concepts_pb2.ConceptsRequest, bound: Bound, outcome: Outcome) -> concepts_pb2.ConceptsResponse:
    """The direction, which is kept where that is asked for, and the classes. Raises RequestError.

    The regressions take long where pictures and random directions are many, so that callers take turns.
    """
    task, arguments = bound.task, bound.task.arguments
    try:
        found = analysed(outcome.result, arguments, task.seed, task.deadline)
    except NotApplicable as error:
        raise inapplicable(str(error)) from error
    except TimeUp as error:
        raise failure(Failure("deadline", ""), task) from error
    message = concepts_pb2.ConceptsResponse(
        direction=pb.Direction(layer=arguments.layer, vector=found.vector.tolist(), name=request.keep_as),
        accuracy=found.accuracy,
        classes=[_class(row, found.threshold, bound.card) for row in found.classes],
        z_threshold=found.threshold,
        random_directions=arguments.random_directions,
        by_weights=bool(arguments.logits_layer),
        warnings=_warnings(request, found),
        provenance=provenance(bound, outcome),
    )
    if request.keep_as:
        kept = bound.directions.keep(kept_direction(request.keep_as, bound.card, arguments.layer, found.vector))
        message.expires.CopyFrom(timestamp(kept.expires))
    return message


def _class(row: Sensitivity, threshold: float, card: ModelCard) -> concepts_pb2.ClassSensitivity:
    verdict = VERDICTS[row.z > 0] if abs(row.z) >= threshold else concepts_pb2.CONCEPT_VERDICT_INSIGNIFICANT
    target = pb.Target(rank=row.target.rank) if row.target.rank else target_message(row.target)
    name = f"rank {row.target.rank}" if row.target.rank else card.classes[row.target.label or 0]
    return concepts_pb2.ClassSensitivity(
        target=target, name=name, derivative=row.derivative, z=row.z, rank=row.rank, verdict=verdict
    )


def _warnings(request: concepts_pb2.ConceptsRequest, found: ConceptDirection) -> list[str]:
    fields: Mapping[str, int] = {
        path: len(getattr(request, path)) for path in ("concept_images", "negative_images", "class_images")
    }
    few = [f"{count} {path}" for path, count in fields.items() if 0 < count < ADVISED_IMAGES]
    warnings = [f"FEW_PICTURES: {', '.join(few)}; at least {ADVISED_IMAGES} are advised"] if few else []
    if found.accuracy < MIN_ACCURACY:
        share = f"{found.accuracy:.0%} of pictures that were left out are told right"
        warnings.append(f"NOT_SEPARATED: only {share}, where guessing has 50 %: the layer may not have this concept")
    return warnings
