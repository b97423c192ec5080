"""`gradserve models`: what a server serves."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import options, output
from gradserve.results.models import Layer, ModelCard
from gradserve.robustness.plan import eps_text

HEADS = {
    "softmax": "softmax: classes that exclude each other",
    "binary": "binary: one yes-or-no question",
    "multilabel": "multilabel: independent labels",
}
Name = Annotated[str, typer.Argument(help="A model's name, for its layers and methods; all models if left out.")]


@options.grouped
def models(
    name: Name = "",
    *,
    connection: options.Connection,
    as_json: options.Json = False,
) -> None:
    """The models of a server, or one model with its layers and the methods that apply to it.

    Example: `gradserve models`

    Example: `gradserve models imagenet`
    """
    with connection.client() as client:
        cards = [client.model(name)] if name else client.models()
        unavailable = {} if name else client.unavailable_models()
        default = "" if name else client.default_model()
    if as_json and name:
        output.print_json(cards[0].to_dict())
    elif as_json:
        plain = [card.to_dict() for card in cards]
        output.print_json({"models": plain, "unavailable": unavailable, "default_model": default})
    elif name:
        _print_card(cards[0])
    else:
        output.out().print(_overview(cards, default))
        for each, reason in unavailable.items():
            output.out().print(Text(f"{each}{_mark(each, default)} could not be loaded: {reason}", style="red"))


def _mark(name: str, default: str) -> str:
    return " (default)" if name == default else ""


def _overview(cards: Iterable[ModelCard], default: str) -> Table:
    table = Table(box=None)
    for column in ("model", "built by", "head", "precisions", "Grad-CAM layer", "does not apply"):
        table.add_column(column)
    for column in ("classes", "input", "GFLOP"):
        table.add_column(column, justify="right")
    for card in cards:
        missing = ", ".join(each.method for each in card.methods if not each.applies)
        numbers = (str(len(card.classes)), _input(card), f"{card.gflop:.3g}")
        name = card.name + _mark(card.name, default)
        table.add_row(name, card.builder, card.head, ", ".join(card.precisions), card.grad_cam_layer, missing, *numbers)
    return table


def _print_card(card: ModelCard) -> None:
    facts = Table(box=None, show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("model", card.name)
    facts.add_row("built by", card.builder)
    facts.add_row("weights", card.weights_digest)
    facts.add_row("input", _input(card) + (", or any other size" if card.any_size else ""))
    facts.add_row("classes", f"{len(card.classes)}: {', '.join(card.classes[:10])}{' ...' * (len(card.classes) > 10)}")
    facts.add_row("head", HEADS[card.head])
    facts.add_row("precisions", ", ".join(card.precisions))
    facts.add_row("forward pass", f"{card.gflop:.3g} GFLOP")
    facts.add_row("usual eps", eps_text(card.default_eps))
    for note in card.notes:
        facts.add_row("note", note)
    methods = Table(title="methods", title_justify="left", box=None, show_header=False)
    for each in card.methods:
        verdict = Text("applies", style="green") if each.applies else Text("does not apply", style="red")
        methods.add_row(each.method, verdict, each.reason)
    for part in (facts, methods, _layers(card.layers)):
        output.out().print(part)


def _layers(layers: Iterable[Layer]) -> Table:
    table = Table(title="layers, in the order in which they run", title_justify="left", box=None)
    table.add_column("layer")
    table.add_column("kind")
    table.add_column("channels", justify="right")
    table.add_column("map", justify="right")
    for layer in layers:
        extent = f"{layer.height} x {layer.width}" if layer.height else ""
        table.add_row(layer.name, layer.kind, str(layer.channels or ""), extent)
    return table


def _input(card: ModelCard) -> str:
    height, width = card.input_size
    return f"{height} x {width}"
