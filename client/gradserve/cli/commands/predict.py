"""`gradserve predict`: the most probable classes of photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import marks, options, output
from gradserve.client import Client
from gradserve.results.predict import Prediction

TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="How many classes.")]
Preprocess = Annotated[
    str,
    options.one_of(
        "--preprocess",
        names=options.PREPROCESS_NAMES,
        text=f"{options.PREPROCESS_TEXT}; left out: what a picture of `gradserve attack` says of itself.",
        rich_help_panel="Request",
    ),
]


@dataclass(frozen=True)
class PredictRequest(options.PhotosRequest):
    """What requests carry, where a picture may say itself how it is to be used."""

    preprocess: Preprocess = ""


@options.grouped
def predict(
    photos: options.Photos,
    *,
    model: options.Model = "",
    top_k: TopK = 5,
    request: PredictRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The most probable classes of photos.

    Example: `gradserve predict cat.jpg dog.jpg --top-k 3`

    Example: `gradserve predict adversarial.png --preprocess as_is --json`
    """
    predictions: list[Prediction] = []
    with connection.client(timeout) as client:
        answers = _predictions(client, photos, **{"model": model, "top_k": top_k, **vars(request)})
        try:
            for each in output.progress(answers, len(photos), "predict"):
                predictions.append(each)
        finally:
            if predictions:  # After an error, these are the predictions before it.
                _print(photos, predictions, as_json)


def _predictions(client: Client, photos: Sequence[Path], *, preprocess: str, **arguments: Any) -> Iterator[Prediction]:
    """The predictions in the photos' order, each photo used as the option says, or else as it says itself."""
    for marked, run in groupby(photos, lambda photo: not preprocess and marks.is_marked(photo)):
        pictures = list(run)
        if marked:
            names = ", ".join(picture.name for picture in pictures)
            output.err().print(f"{names}: used as_is, as the file says; --preprocess overrules it", soft_wrap=True)
        chosen: Any = marks.AS_IS if marked else preprocess or "model_default"
        yield from client.predict_many(pictures, preprocess=chosen, **arguments)


def _print(photos: list[Path], predictions: list[Prediction], as_json: bool) -> None:
    output.warn(text for each in predictions for text in each.provenance.warnings)
    pairs = zip(photos, predictions, strict=False)
    if as_json:
        output.print_json({"predictions": [{"image": str(photo), **each.to_dict()} for photo, each in pairs]})
        return
    for photo, prediction in pairs:
        output.out().print(_table(photo, prediction))


def _table(photo: Path, prediction: Prediction) -> Table:
    table = Table(title=f"{photo.name}  ({prediction.provenance.model})", title_justify="left", box=None)
    table.add_column("class")
    table.add_column("index", justify="right")
    table.add_column("probability", justify="right")
    table.add_column("logit", justify="right")
    table.add_column("")
    for score in prediction:
        bar = Text("█" * round(20 * score.probability), style="blue")
        table.add_row(score.class_name, str(score.class_index), f"{score.probability:.2%}", f"{score.logit:.3f}", bar)
    return table
