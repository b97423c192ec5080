"""`gradserve influence` and `gradserve suspects`: training examples behind a prediction, and doubtful labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import drawing, options, output, parse
from gradserve.messages import fields
from gradserve.messages.influence import INFLUENCE_METHOD
from gradserve.parameters.influence import SuspectOrder
from gradserve.parameters.method import Method
from gradserve.results.common import to_dict
from gradserve.results.influence import Influence, Reweighting, Suspects, TrainingExample
from gradserve.v1 import influence_pb2

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Picture of the examples.", rich_help_panel="Output")]
SuspectTop = Annotated[int, typer.Option("--top", "-k", min=1, max=1000, help="How many examples are listed.")]
Order = Annotated[
    str, options.one_of("--order", names=fields.choices(influence_pb2.SuspectOrder.DESCRIPTOR), text="{}.")
]


@dataclass(frozen=True)
class Question:
    """The method, the prediction that is explained, and the changes of the training set that are asked about."""

    method: Annotated[
        str | None,
        options.one_of("--method", names=fields.names(INFLUENCE_METHOD), text="{}; the index's own if left out."),
    ] = None
    label: Annotated[
        str | None, typer.Option("--label", help="True class: index, name or rank:2; the predicted one if left out.")
    ] = None
    goal: Annotated[
        str,
        options.one_of(
            "--goal",
            names=fields.choices(influence_pb2.InfluenceGoal.DESCRIPTOR),
            text="The number whose change is predicted: {}.",
        ),
    ] = "loss"
    top: Annotated[int, typer.Option("--top", "-k", min=1, max=100, help="How many helpful and harmful examples.")] = 8
    remove: Annotated[
        list[str],
        typer.Option(
            "--remove", metavar="ROWS", help="What if these rows were removed: 3 or 3,17,40. May be repeated."
        ),
    ] = field(default_factory=list)
    double: Annotated[
        list[str], typer.Option("--double", metavar="ROWS", help="What if these rows counted twice. May be repeated.")
    ] = field(default_factory=list)
    ensemble: Annotated[
        list[str],
        typer.Option("--ensemble", metavar="MODEL", help="Average over this model too, trained on the same examples."),
    ] = field(default_factory=list)
    no_newton: Annotated[
        bool, typer.Option("--no-newton", help="With last_layer: no Newton step, first order only.")
    ] = False

    def chosen(self) -> Method | None:
        """The method as the client takes it; None for the index's own."""
        if self.no_newton and self.method not in (None, "last_layer"):
            raise typer.BadParameter(f"{self.method} takes no Newton step", param_hint="--no-newton")
        if self.no_newton:
            return Method("last_layer", newton=False)
        return Method.named(self.method) if self.method else None

    def arguments(self) -> dict[str, Any]:
        """What the client's `influence` takes beside the picture and the method."""
        removed = [Reweighting(_rows("--remove", text)) for text in self.remove]
        doubled = [Reweighting(_rows("--double", text), 1.0) for text in self.double]
        return {
            "label": None if self.label is None else parse.target(self.label),
            "goal": self.goal,
            "top": self.top,
            "what_if": removed + doubled,
            "ensemble": self.ensemble,
        }


@options.grouped
def influence(
    photo: options.Photo,
    *,
    question: Question,
    model: options.Model = "",
    out: Out = None,
    request: options.PhotoRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The training examples that most helped and most harmed a prediction.

    The model must be served with an index of its training set: `gradserve index` builds one; `digits` has one.

    Example: `gradserve influence digit.png --model digits --top 8 --out examples.png`
    """
    arguments = question.arguments()
    with connection.client(timeout) as client, output.waiting("influence"):
        result = client.influence(photo, question.chosen(), model=model, **arguments, **vars(request))
    if out:
        drawing.influence(result, photo).save(out)
    output.warn(result.provenance.warnings)
    if as_json:
        output.print_json({"image": str(photo), **result.to_dict(), "picture": str(out) if out else None})
        return
    _print_influence(photo, result, arguments["what_if"])
    if out:
        output.out().print(f"the examples are on {out}")


@options.grouped
def suspects(
    *,
    model: options.Model = "",
    top: SuspectTop = 20,
    order: Order = "rank_sum",
    out: Out = None,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The training examples whose labels are most likely wrong.

    Ordered by self-influence and by how many of an example's nearest ones have another label, or by --order.

    Example: `gradserve suspects --model digits --top 20 --out suspects.png`
    """
    with connection.client(timeout) as client, output.waiting("suspects"):
        result = client.suspects(model=model, top=top, order=cast(SuspectOrder, order))
    if out:
        drawing.suspects(result).save(out)
    output.warn(result.provenance.warnings)
    if as_json:
        examples = [each.to_dict() for each in result]
        output.print_json({"examples": examples, "total": result.total, "provenance": to_dict(result.provenance)})
        return
    output.out().print(_suspects_table(result))
    if not any(map(_stands_out, result)):
        output.out().print(
            "Nothing stands out: the model predicts the label of each of these, and at least half of their nearest "
            "examples have it too.",
            soft_wrap=True,
        )
    if out:
        output.out().print(f"the examples are on {out}")


def _stands_out(each: TrainingExample) -> bool:
    """Whether the model or most of the nearest examples contradict its label."""
    return each.predicted_name != each.label_name or each.disagreement > 0.5


def _rows(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"write rows as 3 or 3,17,40, not {text!r}", param_hint=option) from None


def _print_influence(photo: Path, result: Influence, questions: Sequence[Reweighting]) -> None:
    title = f"{photo.name}: {result.goal} of {result.label_name} is {result.value:.4g}  ({result.method})"
    output.out().print(Text(title, style="bold"))
    if result.method == "neighbours":
        output.out().print(_table("similar training examples", result.helpful))
    else:
        output.out().print(_table("helpful: without them it would be worse", result.helpful))
        output.out().print(_table("harmful: without them it would be better", result.harmful))
    for question, change in zip(questions, result.what_if, strict=True):
        what = "without" if question.weight < 0 else "with twice the weight of"
        rows = ", ".join(map(str, question.rows))
        output.out().print(f"{what} {rows}: the {result.goal} changes by {change:+.3g}, to {result.value + change:.4g}")


def _table(title: str, examples: Sequence[TrainingExample]) -> Table:
    columns: list[tuple[str, Any]] = [
        ("row", lambda each: str(each.row)),
        ("name", lambda each: each.name),
        ("label", lambda each: each.label_name),
        ("predicted", lambda each: each.predicted_name),
    ]
    if any(each.similarity is not None for each in examples):
        columns.append(("similarity", lambda each: f"{each.similarity:.3f}"))
    else:
        columns.append(("change if removed", lambda each: f"{each.change:+.3g}"))
    if any(each.newton_change is not None for each in examples):
        columns.append(("Newton step", lambda each: f"{each.newton_change:+.3g}"))
    columns.append(("own loss", lambda each: f"{each.loss:.3g}"))
    return _filled(title, columns, examples)


def _suspects_table(result: Suspects) -> Table:
    columns = [
        ("row", lambda each: str(each.row)),
        ("name", lambda each: each.name),
        ("label", lambda each: each.label_name),
        ("predicted", lambda each: each.predicted_name),
        ("suspicion", lambda each: f"{each.suspicion:.3f}"),
        ("self-influence", lambda each: f"{each.self_influence:.3g}"),
        ("neighbours disagree", lambda each: f"{each.disagreement:.0%}"),
        ("loss", lambda each: f"{each.loss:.3g}"),
    ]
    return _filled(f"{len(result)} of {result.total} training examples of {result.provenance.model}", columns, result)


def _filled(title: str, columns: Sequence[tuple[str, Any]], examples: Sequence[TrainingExample]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for name, _ in columns:
        table.add_column(name, justify="left" if name in ("name", "label", "predicted") else "right")
    for each in examples:
        table.add_row(*(cell(each) for _, cell in columns))
    return table
