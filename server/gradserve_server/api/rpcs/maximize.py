"""Maximize: from its request to a task, from the outcome to its reply."""

from typing import Any

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import maximize_pb2

from ...config import LimitSettings
from ...engine.costs import passes_cost
from ...methods.maximize import PRESETS, MaximizeArguments, Maximized, MaximizeSettings, octave_sizes
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..errors import Violations
from ..fields import choice, enum_name, from_dict, parse_fields
from ..pictures.images import ModelInput, fits, png, sizes_taken
from ..progress import check_snapshots, curves, snapshots
from ..reply import best, provenance, scores
from ..request import Bound, CallContext, check_options, model_of, task_of
from .canvas import canvas, picture
from .goals import goal_name, goal_reply, goals_of

PHOTO_SIDE, CANVAS_SIDE = 448, 160  # Default pixels of the longer side.
MAX_STEPS = 16384  # The most steps of a request, summed over its goals and octaves.
TOP_CLASSES = 5


def bind(request: maximize_pb2.MaximizeRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    options = check_options("maximize", request.options, card, at, violations)
    photo = picture(request.image, "image", at, violations) if request.HasField("image") else None
    settings = _settings(request, violations)
    pixels = canvas(photo, request.size, CANVAS_SIDE if photo is None else PHOTO_SIDE, card, at, violations)
    size = (pixels.shape[0], pixels.shape[1])
    sizes = _sizes(settings, size, card, at.limits, violations)
    own_size = set(sizes) == {(card.height, card.width)}
    goals = goals_of(request.goals, card, own_size, photo is not None, at, violations)
    steps = settings.total * len(goals)
    if steps > MAX_STEPS:
        text = f"with octaves and goals make {steps}; at most {MAX_STEPS} are allowed"
        violations.add("settings.steps", text, for_every_model=True)
    snapshot_steps = check_snapshots(request.snapshots, settings.total, violations)
    if card.no_gradient:
        violations.not_applicable(f"Maximize does not apply to {card.name}: {card.no_gradient}")
    violations.check()
    area = sum(height * width for height, width in sizes) / (card.height * card.width)
    cost = passes_cost(card.gflop, "image") * settings.steps * len(goals) * area
    arguments = MaximizeArguments(goals, settings, snapshot_steps)
    task = task_of(options, card, pixels, arguments, cost, at)
    return Bound(task, card, ModelInput(pixels, pb.Region()), (preset_of(request),))


def preset_of(request: maximize_pb2.MaximizeRequest) -> str:
    """The name of the preset in effect, or a word that names none where the number is unknown."""
    named = enum_name(maximize_pb2.MaximizePreset.DESCRIPTOR, request.preset)
    return named if named != "unspecified" else "dream" if request.HasField("image") else "strong"


def _settings(request: maximize_pb2.MaximizeRequest, violations: Violations) -> MaximizeSettings:
    name, has_image = preset_of(request), request.HasField("image")
    preset: dict[str, Any] = dict(PRESETS.get(name, {}))  # type: ignore[call-overload]
    choice(maximize_pb2.MaximizePreset.DESCRIPTOR, request.preset, "preset", violations)
    if has_image:
        preset["start"] = "image"
    parameters = parse_fields(MaximizeSettings, request.settings, "settings", violations, preset)
    settings = MaximizeSettings(**parameters or preset)
    if has_image and settings.start != "image":
        violations.add(
            "settings.start",
            f"must be IMAGE where a picture is given, was {settings.start.upper()}",
            for_every_model=True,
        )
    if not has_image and settings.start == "image":
        violations.add(
            "image", "is needed to start from it: set image, or another start or preset", for_every_model=True
        )
    return settings


def _sizes(
    settings: MaximizeSettings, size: tuple[int, int], card: ModelCard, limits: LimitSettings, violations: Violations
) -> list[tuple[int, int]]:
    """Height and width that the model will see in every octave."""
    pads = [round(settings.pad * min(octave)) for octave in octave_sizes(settings, size)]
    octaves = zip(octave_sizes(settings, size), pads, strict=True)
    sizes = [(height + 2 * pad, width + 2 * pad) for (height, width), pad in octaves]
    if not card.any_size and set(sizes) != {(card.height, card.width)}:
        only = f"{card.name} accepts one size only"
        violations.add("settings", f"{only}: octaves must be 1 and pad 0, were {settings.octaves} and {settings.pad:g}")
    elif unfit := next((size for size in sizes if not fits(*size, card, limits)), None):
        height, width = unfit
        accepted = sizes_taken(card, limits)
        violations.add("settings.octaves", f"with pad make {width}x{height}, and {card.name} takes {accepted}")
    return sizes


def reply(request: maximize_pb2.MaximizeRequest, bound: Bound, outcome: Outcome) -> maximize_pb2.MaximizeResponse:
    """One picture for each goal."""
    arguments: MaximizeArguments = bound.task.arguments
    settings = arguments.settings
    first: Maximized = outcome.result[0]
    message = maximize_pb2.MaximizeResponse(
        images=[_image(goal_reply(each.goal), each, bound.card) for each in outcome.result],
        asked=first.asked,
        done=first.done,
        completed_fraction=first.done / first.asked,
        warnings=first.warnings,
        provenance=provenance(bound, outcome),
    )
    from_dict(message, {"preset": preset_of(request)})
    from_dict(message.settings, {name: getattr(settings, name) for name in settings.__slots__})
    return message


def _image(goal: maximize_pb2.Goal, maximized: Maximized, card: ModelCard) -> maximize_pb2.Maximized:
    return maximize_pb2.Maximized(
        goal=goal,
        name=goal_name(goal, card),
        png=png(maximized.pixels),
        display=b"" if maximized.display is None else png(maximized.display),
        value=maximized.value,
        top=[] if maximized.logits is None else scores(maximized.logits, best(maximized.logits, TOP_CLASSES), card),
        curves=curves(maximized.curves),
        snapshots=snapshots(maximized.snapshots),
    )
