"""`gradserve predict`: the most probable classes of photos."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gradserve.cli import options, output
from gradserve.results.common import Prediction

Photos = Annotated[list[Path], typer.Argument(help="Picture files.", exists=True, dir_okay=False)]
TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="How many classes.")]


def predict(
    photos: Photos,
    model: options.Model = "",
    top_k: TopK = 5,
    preprocess: options.Preprocess = "model_default",
    priority: options.Priority = "interactive",
    precision: options.Precision = "auto",
    time_budget: options.TimeBudget = None,
    quick_decode: options.QuickDecode = False,
    alone: options.Alone = False,
    concurrency: options.Concurrency = 8,
    server: options.Server = options.DEFAULT_ADDRESS,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The most probable classes of photos.

    Example: `gradserve predict cat.jpg dog.jpg --model mobilenet_v2 --top-k 3`
    """
    predictions: list[Prediction] = []
    with options.connect(server, tls, ca, token, timeout) as client:
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
            for _, each in output.progress(output.named(photos, answers, "predicting"), len(photos), "predict"):
                predictions.append(each)
        finally:
            if predictions:  # all, or what came before the error
                _print(photos, predictions, as_json)


def _print(photos: list[Path], predictions: list[Prediction], as_json: bool) -> None:
    output.warn(text for each in predictions for text in each.provenance.warnings)
    found = zip(photos, predictions, strict=False)
    if as_json:
        output.print_json({"predictions": [{"image": str(photo), **output.plain(each)} for photo, each in found]})
        return
    for photo, prediction in found:
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
