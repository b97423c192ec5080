"""`gradserve predict`: the most probable classes of photos."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import connection, report, request
from gradserve.results import Prediction

Photos = Annotated[list[Path], typer.Argument(help="Picture files.", exists=True, dir_okay=False)]
TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="How many classes.")]


def predict(
    photos: Photos,
    model: request.Model = "",
    top_k: TopK = 5,
    preprocess: request.Preprocess = "model_default",
    priority: request.Priority = "interactive",
    precision: request.Precision = "auto",
    time_budget: request.TimeBudget = None,
    quick_decode: request.QuickDecode = False,
    alone: request.Alone = False,
    concurrency: request.Concurrency = 8,
    server: connection.Server = connection.ADDRESS,
    tls: connection.Tls = False,
    ca: connection.Ca = None,
    token: connection.Token = None,
    timeout: connection.Timeout = connection.SECONDS,
    as_json: connection.Json = False,
) -> None:
    """The most probable classes of photos.

    Example: `gradserve predict cat.jpg dog.jpg --model mobilenet_v2 --top-k 3`
    """
    predictions: list[Prediction] = []
    with connection.connect(server, tls, ca, token, timeout) as client:
        answers = client.predict_many(
            photos,
            concurrency=concurrency,
            model=model,
            top_k=top_k,
            preprocess=preprocess,
            priority=priority,
            precision=precision,
            time_budget=time_budget,
            quick_decode=quick_decode,
            alone=alone,
        )
        try:
            for _, each in report.progress(report.named(photos, answers, "predicting"), len(photos), "predict"):
                predictions.append(each)
        finally:
            if predictions:  # all, or what came before the error
                _print(photos, predictions, as_json)


def _print(photos: list[Path], predictions: list[Prediction], as_json: bool) -> None:
    report.warn(text for each in predictions for text in each.provenance.warnings)
    found = zip(photos, predictions, strict=False)
    if as_json:
        report.print_json({"predictions": [{"image": str(photo), **report.plain(each)} for photo, each in found]})
        return
    for photo, prediction in found:
        report.out().print(_table(photo, prediction))


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
