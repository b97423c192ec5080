"""The demo's chapters of pictures that are made by the gradient: Maximize, DeepDream, Stylize."""

from collections.abc import Sequence

from gradserve.cli import drawing, page
from gradserve.cli.demo import samples
from gradserve.cli.demo.session import Session
from gradserve.messages.goals import Goal, GoalLike
from gradserve.results.models import ModelCard
from gradserve.results.pictures import MaximizedImage, MaximizedImages, StylizedImage, opened

_MAX_CLASSES_SHOWN = 10  # With no more classes than this, each gets a picture.
_STEPS, _SNAPSHOTS = 128, (0, 8, 32, 128)
_DREAM, _STYLED, _STYLED_SMALL = 256, 320, 384  # Pixels of the longer side; the last is for small inputs.
_SMALL_INPUT = 64
_COARSE, _FINE = 60, 20  # Steps at half and at full resolution.
_MIN_INPUT_SIDE = 16  # Models with smaller inputs get no DeepDream and no style.


def maximized(demo: Session, card: ModelCard) -> page.Section:
    """A picture of each class, or of those that the model sees in the sample pictures."""
    goals = _goals(demo, card)
    result, seconds = demo.timed(
        f"{card.name}: maximize {len(goals)} classes",
        lambda: demo.client.maximize(goals, model=card.name, steps=_STEPS, snapshots=_SNAPSHOTS),
    )
    assert isinstance(result, MaximizedImages)
    origin = result[0].provenance
    demo.note("noise", f"maximize {len(goals)} classes", seconds, origin, "; ".join(map(_top_class, result)))
    facts = [f"{result[0].preset}", f"{result[0].done} steps", f"{seconds:.1f} s", f"{origin.rows} rows"]
    figures = [page.Figure(each.name, [each.image], _top_class(each), (), each.warnings) for each in result]
    way = [opened(png) for png in result[0].snapshots.values()]
    figures.append(page.Figure(f"{result[0].name}, after {', '.join(map(str, result[0].snapshots))} steps", way))
    figures.append(page.Figure(f"{result[0].name}: its course", [drawing.curves(result[0].curves)]))
    lead = "Made from noise, step by step along the gradient, towards each class; under each what the model sees in it."
    return page.Section(f"{card.name}: maximized", lead, [page.Story("from noise", result.sheet(), (), facts, figures)])


def dreamt(demo: Session, card: ModelCard) -> page.Section:
    """More and more of what the last layer with a map sees in a photo."""
    stories = []
    for picture in _photos(card)[:1]:
        goal = Goal.layer(card.grad_cam_layer)
        result, seconds = demo.timed(
            f"{card.name}: {picture.name}: dream",
            lambda picture=picture, goal=goal: demo.client.maximize(  # type: ignore[misc]
                goal, image=picture.data, model=card.name, preset="dream", size=_DREAM
            ),
        )
        assert isinstance(result, MaximizedImage)
        demo.note(picture.name, "dream", seconds, result.provenance, f"{result.name} = {result.value:.3g}")
        facts = [f"{result.done} steps in {result.settings['octaves']} octaves", f"{seconds:.1f} s"]
        figures = [page.Figure(result.name, [result.image], f"mean square {result.value:.3g}", facts, result.warnings)]
        stories.append(page.Story(picture.name, picture.open(), figures=figures))
    lead = "What a layer sees in a photo, exaggerated in four octaves."
    return page.Section(f"{card.name}: DeepDream", lead, stories)


def stylized(demo: Session, card: ModelCard) -> page.Section:
    """A photo in the style of another picture."""
    stories = []
    size = _STYLED_SMALL if min(card.input_size) <= _SMALL_INPUT else _STYLED
    for picture in _photos(card)[:1]:
        figures = []
        for style in samples.styles():
            result, seconds = demo.timed(
                f"{card.name}: {picture.name} in the style of {style.name}",
                lambda picture=picture, style=style: demo.client.stylize(  # type: ignore[misc]
                    picture.data, style.data, model=card.name, size=size, coarse_steps=_COARSE, steps=_FINE
                ),
            )
            fall = result.initial_losses["style"] / result.losses["style"]
            answer = f"style loss {fall:.0f} times smaller"
            demo.note(picture.name, f"stylize: {style.name}", seconds, result.provenance, answer)
            figures += _style_figures(result, style, answer, seconds)
        stories.append(page.Story(picture.name, picture.open(), figures=figures))
    lead = "The content of one picture with the style of another: Gram matrices of several layers are matched."
    return page.Section(f"{card.name}: stylized", lead, stories)


CHAPTERS = (maximized, dreamt, stylized)


def requests(card: ModelCard) -> int:
    """How many requests these chapters make for a model."""
    photos = min(len(_photos(card)), 1)
    predictions = 0 if len(card.classes) <= _MAX_CLASSES_SHOWN else len(samples.pictures(card, 4))
    return 1 + predictions + photos * (1 + len(samples.styles()))


def _goals(demo: Session, card: ModelCard) -> list[GoalLike]:
    if len(card.classes) <= _MAX_CLASSES_SHOWN:
        return list(range(len(card.classes)))
    labels = []
    for picture in samples.pictures(card, 4):
        what = f"{card.name}: {picture.name}: predict"
        prediction, _ = demo.timed(what, lambda picture=picture: demo.client.predict(picture.data, model=card.name))  # type: ignore[misc]
        labels.append(prediction[0].class_index)
    return list(dict.fromkeys(labels)) or [0]


def _photos(card: ModelCard) -> Sequence[samples.SamplePicture]:
    """Photos, where the model is one for photos of any size."""
    return samples.pictures(card, 1) if card.any_size and min(card.input_size) >= _MIN_INPUT_SIDE else ()


def _top_class(each: MaximizedImage) -> str:
    return f"{each.top[0].class_name} {each.top[0].probability:.1%}" if each.top else f"{each.value:.3g}"


def _style_figures(
    result: StylizedImage, style: samples.SamplePicture, answer: str, seconds: float
) -> list[page.Figure]:
    facts = [f"{result.done} steps", f"{seconds:.1f} s", f"content loss {result.losses['content']:.2f}"]
    return [
        page.Figure(f"in the style of {style.name}", [result.image, style.open()], answer, facts, result.warnings),
        page.Figure(f"{style.name}: its course", [drawing.curves(result.curves)]),
    ]
