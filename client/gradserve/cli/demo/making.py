"""The demo's chapters of pictures that are made by the gradient: maximized classes, DeepDream, styles."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradserve.cli.demo.page import Figure
from gradserve.cli.demo.samples import SamplePicture, photos
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.messages.goals import Goal
from gradserve.results.models import ModelCard
from gradserve.results.pictures import MaximizedImage, StylizedImage

_CLASSES = ("king penguin", "giant panda", "goldfish", "flamingo")
_MAXIMIZE: Mapping[str, Any] = {"size": 192, "steps": 160, "total_variation": 0.005, "noise": 0.02, "seed": 1}
# Fourier coefficients keep the chequerboard of strided convolutions out of the picture.
_DREAM: Mapping[str, Any] = {
    "preset": "dream",
    "parameterization": "fourier",
    "optimizer": "adam",
    "rate": 0.05,
    "steps": 16,
    "octaves": 2,
    "jitter": 0.1,
    "size": 400,
}
_DREAM_LAYERS = ("blocks.5", "blocks.7", "blocks.9", "blocks.10")
_STYLE: Mapping[str, Any] = {
    "optimizer": "lbfgs",
    "size": 400,
    "coarse_steps": 70,
    "steps": 40,
    "content_weight": 0.01,
    "total_variation": 2.0,
}
_STYLED = (("temple", "coffee"), ("flower", "coffee"), ("coffee", "temple"), ("temple", "cat"))  # Contents, styles.
_STYLE_LAYERS = ("pixels", "stem.relu", "blocks.1.expand", "blocks.3.expand", "blocks.5.expand", "blocks.8.expand")


def maximization(card: ModelCard, names: Sequence[str], text: str = "") -> DemoRequest:
    """A picture of each class, made from noise."""

    def draw(answers: Sequence[MaximizedImage]) -> Sequence[Figure]:
        return [
            Figure(each.name, [each.image], text, f"seen as {_top(each)}" if each.top else "", warnings=each.warnings)
            for each in answers
        ]

    goals = [name for name in names if name in card.classes] or [card.classes[0]]
    return DemoRequest(
        card.name,
        "noise",
        f"maximize {', '.join(goals)}",
        lambda client: client.maximize_stream(goals, model=card.name, **_MAXIMIZE),
        draw,
        weight=5 * len(goals),
    )


def dream(card: ModelCard, picture: SamplePicture, layers: Sequence[str], text: str = "") -> DemoRequest:
    """What layers see in a photo, exaggerated."""

    def draw(answers: Sequence[MaximizedImage]) -> Sequence[Figure]:
        return [Figure(f"DeepDream of {each.name}", [each.image], text, warnings=each.warnings) for each in answers]

    known = {layer.name for layer in card.layers}
    goals = [Goal.layer(name) for name in layers if name in known] or [Goal.layer(card.grad_cam_layer)]
    return DemoRequest(
        card.name,
        picture.name,
        "DeepDream",
        lambda client: client.maximize_stream(goals, image=picture.data, model=card.name, **_DREAM),
        draw,
        weight=5 * len(goals),
    )


def stylization(card: ModelCard, content: SamplePicture, style: SamplePicture, text: str = "") -> DemoRequest:
    """A photo in the style of another picture, which stands beside it."""

    def draw(answer: StylizedImage) -> Sequence[Figure]:
        fall = answer.initial_losses["style"] / answer.losses["style"]
        value = f"style {fall:.0f} times as near as at first"
        title = f"{content.name} in the style of {style.name}"
        return [Figure(title, [answer.image], text, value, warnings=answer.warnings, inset=style.open())]

    known = {"pixels", *(layer.name for layer in card.layers)}
    layers = _STYLE_LAYERS if known.issuperset(_STYLE_LAYERS) else ()  # With none the server finds them.
    return DemoRequest(
        card.name,
        content.name,
        f"stylize: {style.name}",
        lambda client: client.stylize_stream(content.data, style.data, model=card.name, style_layers=layers, **_STYLE),
        draw,
        weight=15,
    )


def looks_for(card: ModelCard) -> Chapter:
    """Pictures of classes, and dreams of layers."""
    text = "Made from noise, step by step along the gradient, until the model is sure."
    rows = [Row([maximization(card, _CLASSES)], "What a class looks like to it", text)]
    text = "What a layer sees in a photo is exaggerated: early layers draw textures, later ones parts of animals."
    requests = [dream(card, picture, _DREAM_LAYERS) for picture in photos("temple")]
    rows.append(Row(requests, "What its layers see", text))
    lead = "The gradient can also change the picture until a class, a layer or a single unit answers to it most."
    return Chapter("What does it look for?", lead, rows)


def styles(card: ModelCard) -> Chapter:
    """Photos in the style of others."""
    requests = [
        stylization(card, content, style)
        for names in _STYLED
        for content, style in zip(photos(names[0]), photos(names[1]), strict=False)
    ]
    lead = "The content of one picture in the style of another (small): the statistics of several layers are matched."
    return Chapter("Another style", lead, [Row(requests)])


def _top(each: MaximizedImage) -> str:
    return f"{each.top[0].class_name}, {each.top[0].probability:.0%}"
