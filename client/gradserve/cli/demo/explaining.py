"""The demo's chapter "Why?": predictions and maps of the pixels that they depend on."""

from collections.abc import Sequence

from gradserve.arguments import Contrast, TargetLike
from gradserve.cli.demo.page import Figure, Mark
from gradserve.cli.demo.samples import SamplePicture, photos, stacked
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.client import Client
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.parameters.method import Method
from gradserve.results.dense import DenseMaps
from gradserve.results.explain import Explanation
from gradserve.results.models import ModelCard
from gradserve.results.predict import Prediction

_PARTS = ("football helmet", "space shuttle", "flagpole")  # Classes that are different places of one photo.
_JUDGED = ("grad_cam", "guided_grad_cam")  # The methods whose maps are judged and cut out.
SENTENCES = {  # What each method shows.
    "gradient": "Where a small change of a pixel would change the score most.",
    "gradient_x_input": "The gradient times the pixels' values.",
    "smooth_grad": "The gradient averaged over noisy copies of the photo.",
    "integrated_gradients": "The gradient summed on the way from black to the photo; the sum is the score's rise.",
    "guided_backprop": "The gradient with only what excites: ReLUs let nothing negative back.",
    "deconvnet": "The gradient with ReLUs applied on the way back: edges more than reasons.",
    "grad_cam": "Which parts of the last map speak for the class.",
    "guided_grad_cam": "Grad-CAM times guided backpropagation: where, in fine detail.",
    "layer_cam": "Which places of the last map speak for the class, each by its own gradient.",
    "lrp": "The score shared out among the pixels, layer by layer. Of a class alone it shows all there is.",
    "occlusion": "How much the score falls when a grey patch hides that place.",
    "rise": "How much the score rises with what 250 random masks show of that place.",
    "lime": "Which segments of the photo raise the score, by a linear model of which of them are shown.",
    "kernel_shap": "The score's rise above the mean colour, shared out fairly among segments: their Shapley values.",
    "gradient_shap": "The gradient on lines from many baselines, times the way from there.",
}


def prediction(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    """The photo with the five most probable classes, called right or wrong."""

    def draw(answer: Prediction) -> Sequence[Figure]:
        bars = [(score.class_name, score.probability) for score in answer]
        mark = verdict(card, picture, answer[0].class_name)
        return [Figure(f"{picture.name}: {answer[0].class_name}", [picture.open()], mark=mark, bars=bars)]

    return DemoRequest(
        card.name, picture.name, "predict", lambda client: client.predict(picture.data, top_k=5, model=card.name), draw
    )


def verdict(card: ModelCard, picture: SamplePicture, name: str) -> Mark:
    """Whether the name of a class is what is to be seen."""
    if name in picture.classes:
        return Mark("right", "good")
    reason = "" if any(each in card.classes for each in picture.classes) else ", for which it has no class"
    return Mark(f"wrong: this is {picture.content}{reason}", "bad")


def explanation(card: ModelCard, picture: SamplePicture, method: str) -> DemoRequest:
    """One method's map over the photo, for the top class."""

    def draw(answer: Explanation) -> Sequence[Figure]:
        value = f"{answer.target_name}: score {answer.target_value:.1f}"
        warnings = dict.fromkeys((*answer.warnings, *answer.provenance.warnings))
        text = SENTENCES.get(method, "")
        return [Figure(method, [answer.overlay()], text, value, warnings=tuple(warnings))]

    return DemoRequest(
        card.name,
        picture.name,
        method,
        lambda client: client.explain(picture.data, Method.named(method), model=card.name),
        draw,
        weight=2,
    )


def _target_maps(
    card: ModelCard, picture: SamplePicture, targets: Sequence[TargetLike], method: str, what: str
) -> DemoRequest:
    """A method's maps of one photo for several targets in one request."""

    def draw(answers: Sequence[Explanation]) -> Sequence[Figure]:
        return [
            Figure(f"{each.target_name}?", [each.overlay()], value=f"score {each.target_value:.1f}") for each in answers
        ]

    return DemoRequest(
        card.name,
        picture.name,
        f"{method} of {what}",
        lambda client: client.explain(picture.data, Method.named(method), target=list(targets), model=card.name),
        draw,
    )


def _two_things(card: ModelCard) -> list[Row]:
    """One picture with two things on it, and what speaks for one rather than the other; none where a class lacks."""
    pairs = [photos("cat"), photos("coffee")]
    names = [next((name for name in each.classes if name in card.classes), "") for pair in pairs for each in pair]
    if len(names) < len(pairs) or not all(names):
        return []
    picture = stacked(*(pair[0] for pair in pairs))
    a, b = names
    requests = [
        prediction(card, picture),
        *(
            _target_maps(card, picture, [a, Contrast(a, b), Contrast(b, a)], method, "one thing rather than the other")
            for method in ("lrp", "grad_cam")
        ),
        _places(card, picture, names),
    ]
    text = (
        "Relevance of a class alone shows both things, since both are seen. A contrast shows what speaks for one of "
        "them and against the other. Grad-CAM is shown beside it, and then where in the picture each of them scores "
        "high by itself."
    )
    return [Row(requests, "One picture, two things", text, columns=4)]


def _places(card: ModelCard, picture: SamplePicture, names: list[str]) -> DemoRequest:
    """Dense maps of named classes, with the picture twice as large as the network is used to."""

    def draw(answer: DenseMaps) -> Sequence[Figure]:
        return [Figure(f"where {each.score.class_name} is", [each.overlay()]) for each in answer]

    def ask(client: Client) -> DenseMaps:
        return client.dense(picture.data, names, model=card.name, size=2 * max(card.input_size))

    return DemoRequest(card.name, picture.name, f"dense: {' and '.join(names)}", ask, draw)


def _judged_maps(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    """Maps of the top class with a verdict on each, and the object that each lies on."""
    methods = [name for name in _JUDGED if card.applies(name)] or ["gradient"]

    def draw(answers: Sequence[Explanation]) -> Sequence[Figure]:
        return [figure for answer in answers for figure in _judged(answer)]

    return DemoRequest(
        card.name,
        picture.name,
        f"{' and '.join(methods)}, judged",
        lambda client: client.explain(
            picture.data, [Method.named(name) for name in methods], model=card.name, trust=True, segment=True
        ),
        draw,
        weight=6,
    )


def _judged(answer: Explanation) -> list[Figure]:
    trust, warnings = answer.trust, tuple(answer.warnings)
    mark = Mark("trusted", "good") if trust and trust.is_trusted else Mark("not trusted", "bad")
    figures = [Figure(answer.method, [answer.overlay()], trust.sentence if trust else "", mark=mark, warnings=warnings)]
    if answer.segment:
        figures.append(Figure("the object", [answer.cutout()], f"Cut out by the map of {answer.method}."))
    return figures


def chapter(card: ModelCard) -> Chapter:
    """Every method on one photo; one method for several photos, and for several classes."""
    rows = []
    for picture in photos("coffee"):
        requests = [
            prediction(card, picture),
            *(explanation(card, picture, method) for method in fields.names(EXPLAIN_METHOD)),
        ]
        text = "Every method for the top class of one photo. Methods that agree are worth more trust than one alone."
        rows.append(Row(requests, "One photo, every method", text, columns=5))
    parts = [name for name in _PARTS if name in card.classes] or list(card.classes[:3])
    for picture in photos("astronaut"):
        requests = [prediction(card, picture), _target_maps(card, picture, parts, "grad_cam", "several classes")]
        text = "Grad-CAM asked for classes by their names, in one request. It also tells what led to a wrong answer."
        rows.append(Row(requests, "One photo, several classes", text))
    rows += _two_things(card)
    for picture in photos("cat"):
        text = "Is a map better than chance, and than pointing at the middle? And which object does it lie on?"
        requests = [prediction(card, picture), _judged_maps(card, picture)]
        rows.append(Row(requests, "How far to trust a map", text, columns=5))
    requests = [
        request
        for picture in photos("rocket", "flower")
        for request in (prediction(card, picture), explanation(card, picture, "grad_cam"))
    ]
    rows.append(Row(requests, "More photos"))
    lead = "Maps of the pixels that a class's score depends on, laid over the part of the photo that the model sees."
    return Chapter("Why?", lead, rows, ("strength", "sign"))
