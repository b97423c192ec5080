"""`gradserve predict`: the most probable classes of photos."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import options, output
from gradserve.results.predict import Prediction

TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="How many classes.")]


@options.grouped
def predict(
    photos: options.Photos,
    *,
    model: options.Model = "",
    top_k: TopK = 5,
    request: options.PhotosRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The most probable classes of photos.

    Example: `gradserve predict cat.jpg dog.jpg --model mobilenet_v2 --top-k 3`
    """
    predictions: list[Prediction] = []
    with connection.client(timeout) as client:
        answers = client.predict_many(photos, model=model, top_k=top_k, **vars(request))
        try:
            for _, each in output.progress(output.named(photos, answers, "predicting"), len(photos), "predict"):
                predictions.append(each)
        finally:
            if predictions:  # After an error, these are the predictions before it.
                _print(photos, predictions, as_json)


def _print(photos: list[Path], predictions: list[Prediction], as_json: bool) -> None:
    output.warn(text for each in predictions for text in each.provenance.warnings)
    pairs = zip(photos, predictions, strict=False)
    if as_json:
        output.print_json({"predictions": [{"image": str(photo), **output.plain(each)} for photo, each in pairs]})
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
