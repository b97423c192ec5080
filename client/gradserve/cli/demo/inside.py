"""The demo's chapter "What is inside?": filters, activation maps, and how far a unit sees."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from gradserve.cli.demo.page import Figure
from gradserve.cli.demo.samples import SamplePicture, photos
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.client import Client
from gradserve.results.inspect import Activations, ReceptiveField, Weights
from gradserve.results.models import ModelCard

_FILTERS, _MAPS = 64, 16
_FRAME_COLOUR = (255, 196, 0)  # The frame around what a unit sees.


def chapter(card: ModelCard, small: ModelCard | None) -> Chapter:
    """Filters, maps and receptive fields of the photos' model; filters and a field of a model of small pictures."""
    lead = "The filters that it has learnt, what they answer to a photo, and how much of it one unit sees."
    requests = [_filters(card)]
    for picture in photos("cat"):
        requests += [_maps(card, picture), _field(card, picture)]
    rows = [Row(requests, columns=3)]
    if small is not None:
        rows.append(Row([_filters(small)], small.name, columns=3))
    return Chapter("What is inside?", lead, rows)


def _filters(card: ModelCard) -> DemoRequest:
    def ask(client: Client) -> Weights:
        table = client.inspect("table", model=card.name)
        first = next((row for row in table if row.kind == "Conv2d"), table[0])
        return client.inspect("weights", first.name, model=card.name, count=_FILTERS)

    def draw(answer: Weights) -> Sequence[Figure]:
        shape = " x ".join(map(str, answer.shape))
        strongest = f"the {len(answer.channels)} strongest of {answer.shape[0]}"
        text = f"Weights of {answer.layer} ({shape}), {strongest}; grey is zero."
        return [Figure("its first filters", [_enlarged(answer.image)], text)]

    return DemoRequest(card.name, "", "inspect weights", ask, draw)


def _middle(client: Client, card: ModelCard) -> str:
    """A layer in the first half of the network, whose maps still show the photo; Grad-CAM's where there is none."""
    layers = [layer.name for layer in client.model(card.name).layers if min(layer.height, layer.width) > 1]
    return layers[len(layers) // 3] if layers else card.grad_cam_layer


def _maps(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    def ask(client: Client) -> Activations:
        return client.inspect("activations", _middle(client, card), picture.data, model=card.name, count=_MAPS)

    def draw(answer: Activations) -> Sequence[Figure]:
        text = f"The {len(answer.channels)} strongest of {answer.total} maps of {answer.layer}."
        return [Figure(f"what it answers to {picture.content}", [_enlarged(answer.image)], text)]

    return DemoRequest(card.name, picture.name, "inspect activations", ask, draw)


def _field(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    def ask(client: Client) -> ReceptiveField:
        return client.inspect("receptive_field", _middle(client, card), model=card.name)

    def draw(answer: ReceptiveField) -> Sequence[Figure]:
        size = "the whole picture" if answer.whole_picture else f"{answer.width} x {answer.height} pixels"
        least = "at least " if answer.at_least and not answer.whole_picture else ""
        text = f"The frame holds 90 % of what moves it: {answer.effective_size:.0f} pixels."
        value = f"{least}{size}"
        return [Figure(f"what a unit of {answer.layer} sees", [_framed(picture, card, answer)], text, value)]

    return DemoRequest(card.name, picture.name, "inspect receptive_field", ask, draw, weight=3)


def _framed(picture: SamplePicture, card: ModelCard, field: ReceptiveField) -> Image.Image:
    """The photo in the model's size, with a frame around what moves a unit in its middle."""
    height, width = card.input_size
    photo = picture.open().resize((width, height), Image.Resampling.LANCZOS)
    half = min(field.effective_size, height, width) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    ImageDraw.Draw(photo).rectangle(box, outline=_FRAME_COLOUR, width=2)
    return photo


def _enlarged(sheet: Image.Image, side: int = 224) -> Image.Image:
    """A sheet at least so large, each of its pixels as a square."""
    times = max(1, side // max(sheet.size))
    return sheet.resize((sheet.width * times, sheet.height * times), Image.Resampling.NEAREST)
