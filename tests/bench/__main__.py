"""`python -m tests.bench`: the quick measurements, in a few minutes."""

from dataclasses import asdict
from typing import Annotated

import typer

from . import faithfulness, report, throughput
from .throughput import Plan


def main(
    photos: Annotated[int, typer.Option(min=0, help="Photos for each model in faithfulness; 0 leaves it out.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of raw loop and service in turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement in a round.")] = 3.0,
    data: faithfulness.Data = faithfulness.DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """How fast the service is beside plain torch, and whether its maps are faithful, on a few photos.

    The single benchmarks measure longer: python -m tests.bench.throughput, python -m tests.bench.faithfulness.
    Without the photos and weights faithfulness is left out.
    """
    loads, lones = throughput.measure(
        throughput.MODELS, Plan(callers=16, rounds=rounds, seconds=seconds, lone=20), None
    )
    document = {"throughput": [asdict(each) for each in loads], "lone_caller": [asdict(each) for each in lones]}
    tables = [throughput.load_table(loads), throughput.lone_table(lones)]
    if photos and data.is_dir():
        plan = faithfulness.Plan(photos=photos)
        found = [summary for model in faithfulness.MODELS for summary in faithfulness.measure(model, plan, data)]
        document["faithfulness"] = [asdict(each) for each in found]
        tables.append(faithfulness.table(found))
    elif photos:
        report.console.print(f"[yellow]no data in {data}: faithfulness is left out[/]")
    report.deliver(document, tables, as_json, out)


if __name__ == "__main__":
    typer.run(main)
