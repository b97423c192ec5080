"""How near the gradients of BALANCED and FAST are to EXACT's, on real weights and photos.

`python -m tests.bench.agreement --help`
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import decode, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import ranked
from gradserve_server.engine.query import Answer, Part, Query
from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import report
from .faithfulness import DATA, MODELS, Data

PRECISIONS: tuple[Precision, ...] = ("balanced", "fast")
ROWS = 8


@dataclass(frozen=True)
class Agreement:
    """Of all photos: cosine of the gradients of the top class, equal signs, equal top classes."""

    model: str
    precision: str
    photos: int
    lowest_cosine: float
    mean_cosine: float
    equal_signs: float
    same_top_class: float


def main(
    photos: Annotated[int, typer.Option(min=1, help="The first so many.")] = 48,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Gradients of the top class by the pixels, BALANCED and FAST against EXACT."""
    found = []
    for name in MODELS:
        model = prepare(ModelSpec(name=name, weights=str(data / f"{name}-imagenet.safetensors")), torch.device("cpu"))
        found += measure(model, pictures(model, data, photos))
    report.deliver({"agreement": [asdict(each) for each in found]}, [table(found)], as_json, out)


def pictures(model: Prepared, data: Path, count: int) -> Tensor:
    """The first photos as the server would see them."""
    limits, seen = LimitSettings(), []
    for path in sorted((data / "images").glob("*.JPEG"))[:count]:
        picture = decode(pb.Image(encoded=path.read_bytes()), limits)
        pixels, _ = preprocess(picture, model.card, pb.PREPROCESS_MODEL_DEFAULT, limits)
        seen.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    return torch.stack(seen)


def measure(model: Prepared, images: Tensor) -> list[Agreement]:
    """All photos in batches; EXACT's top class is everybody's target."""
    exact: list[Answer] = []
    others: dict[Precision, list[Answer]] = {precision: [] for precision in PRECISIONS}
    for part in track(images.split(ROWS), model.card.name, console=report.console, transient=True):
        query = Query(part, ranked(1), "image")
        for precision, answers in {"exact": exact, **others}.items():
            answers += differentiate(model.at(precision), [Part(query, range(len(part)))])
    return [agreement(model.card.name, precision, answers, exact) for precision, answers in others.items()]


def agreement(model: str, precision: str, ours: list[Answer], exact: list[Answer]) -> Agreement:
    """Row by row. Where the top class differs, so does the gradient's target: that counts in full."""
    a, b = (
        torch.cat([each.image_grad for each in answers if each.image_grad is not None]) for answers in (ours, exact)
    )
    tops = [torch.cat([each.logits for each in found if each.logits is not None]).argmax(1) for found in (ours, exact)]
    cosines = F.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())
    return Agreement(
        model=model,
        precision=precision,
        photos=len(a),
        lowest_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        equal_signs=float((a.sign() == b.sign()).double().mean()),
        same_top_class=float((tops[0] == tops[1]).double().mean()),
    )


def table(found: list[Agreement]) -> Table:
    """One line for each network and precision."""
    columns = ["photos", "lowest cosine", "mean cosine", "equal signs", "same top class"]
    made = report.table("Gradients of the top class against EXACT's", ["model", "precision"], columns)
    for each in found:
        shares = (f"{each.equal_signs:.1%}", f"{each.same_top_class:.1%}")
        cosines = (f"{each.lowest_cosine:.5f}", f"{each.mean_cosine:.5f}")
        made.add_row(each.model, each.precision, str(each.photos), *cosines, *shares)
    return made


if __name__ == "__main__":
    typer.run(main)
