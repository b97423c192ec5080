"""`python -m tests.bench.influence` (`make bench-influence`): everything, with what was retrained kept in --cache."""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # The folder that pytest adds too.

from .. import faithfulness, report
from . import counterfactual, head, latency, lds, mislabels
from .truth import Retrained

CACHE = Path(tempfile.gettempdir()) / "gradserve-influence"
SEEDS = 4  # Trainings without the removed examples, of the part counterfactual.
PARTS = ("head", "lds", "counterfactual", "mislabels", "latency")


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; all of them if left out.")] = None,
    subsets: Annotated[int, typer.Option(min=2, max=400, help="LDS: halves to train on.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="LDS: trainings of each half.")] = 2,
    models: Annotated[int, typer.Option(min=1, help="LDS: independent models, alone and averaged.")] = 5,
    draws: Annotated[int, typer.Option(min=1, help="Mislabels: draws of wrong labels.")] = 2,
    tests: Annotated[int, typer.Option(min=1, max=100, help="Counterfactual: test images.")] = 12,
    examples: Annotated[list[int], typer.Option(help="Latency: sizes of the training set.")] = [1000, 5000, 50000],  # noqa: B006
    cache: Annotated[Path, typer.Option(help="Where trained networks and indexes are kept.")] = CACHE,
    data: faithfulness.Data = faithfulness.DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Influence estimates beside real retraining, beside cheaper scores, and what queries cost.

    The first run trains about 300 small networks: minutes on a free core. What needs ../shared/data
    is left out without it.
    """
    torch.set_num_threads(1)
    truth, indexes = Retrained(cache), cache / "indexes"
    photos = data if data.is_dir() else None
    wanted = part or PARTS
    document: dict[str, Any] = {}
    tables = []
    if "head" in wanted and photos is not None:
        heads = [head.measure(photos, indexes, decay) for decay in (1e-2, 1e-3)]
        document["head"] = [asdict(each) for each in heads]
        tables.append(head.table(heads))
    if "lds" in wanted:
        scores, agreement = lds.measure(truth, indexes, subsets, seeds, models)
        document["lds"] = {"scores": [asdict(each) for each in scores], "agreement_of_seeds": agreement}
        tables.append(lds.table(scores, agreement, subsets, seeds, models))
    if "counterfactual" in wanted:
        removed = counterfactual.measure(truth, indexes, tests, SEEDS)
        document["counterfactual"] = [asdict(each) for each in removed]
        tables.append(counterfactual.table(removed, SEEDS))
    if "mislabels" in wanted:
        wrong = mislabels.measure(truth, photos, indexes, draws)
        document["mislabels"] = [asdict(each) for each in wrong]
        tables.append(mislabels.table(wrong, draws))
    if "latency" in wanted:
        queries = latency.measure(examples, indexes)
        document["latency"] = [asdict(each) for each in queries]
        tables.append(latency.table(queries))
    report.deliver(document, tables, as_json, out)


if __name__ == "__main__":
    typer.run(main)
