"""Pictures per processor second of the standard ensemble and of MALT beside torchattacks' AutoAttack, in turn.

`python -m tests.bench.ensemble_pace --help`
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torchattacks
import typer
from rich.progress import track

from gradserve_server.methods.attack import Ball

from ..reference import Wrapped
from . import report
from .ensemble import BUDGETS, COMPARED, REFERENCE, Pictures, attacked
from .faithfulness import DATA

OFFICIAL_STEPS = 100  # Of APGD, targeted APGD and FAB.


def main(
    network: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}, within its own Linf budget.")],
    block: Annotated[int, typer.Option(min=1, help="Pictures of a block, all of which the network knows.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Blocks; each goes through all methods.")] = 3,
    data: Annotated[Path, typer.Option("--data", file_okay=False, help="Folder of weights and pictures.")] = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Each method attacks the pictures of a block together, on one thread; which one begins changes with each block."""
    torch.set_num_threads(1)
    at, ball = Pictures(network, 1000, data), Ball("linf", BUDGETS[network])
    known = [i for i in range(len(at.labels)) if at.right(i)][: block * rounds]
    methods: dict[str, Callable[[list[int]], None]] = {name: ours(at, name, ball) for name in COMPARED}
    methods[REFERENCE] = reference(at, ball)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for place in track(range(rounds), console=report.console):
        names = list(methods)[place % len(methods) :] + list(methods)[: place % len(methods)]
        for name in names:
            began = time.process_time()
            methods[name](known[place * block : (place + 1) * block])
            seconds[name].append(time.process_time() - began)
    paces = {name: [block / each for each in values] for name, values in seconds.items()}
    table, document = (
        report.table(f"{network}, blocks of {block}", ["method"], ["pictures/s", "of the reference's"]),
        {},
    )
    for name, values in paces.items():
        ratios = [own / theirs for own, theirs in zip(values, paces[REFERENCE], strict=True)]
        spreads = {"pace": report.Spread.of(values), "ratio": report.Spread.of(ratios)}
        document[name] = {key: vars(spread) for key, spread in spreads.items()}
        table.add_row(name, *(report.shown(spread, 3) for spread in spreads.values()))
    report.deliver({network: document}, [table], as_json, out)


def ours(at: Pictures, method: str, ball: Ball) -> Callable[[list[int]], None]:
    """Attacks these pictures in one engine, all at once."""

    def attack(indices: list[int]) -> None:
        assert len(list(attacked(at, indices, method, ball, len(indices)))) == len(indices)

    return attack


def reference(at: Pictures, ball: Ball) -> Callable[[list[int]], None]:
    """Attacks these pictures as one batch, in as many steps as the official code and ours."""
    facts = {"norm": "Linf", "eps": ball.eps, "version": "standard", "n_classes": len(at.model.card.classes), "seed": 0}
    attack = torchattacks.AutoAttack(Wrapped(at.model), **facts)
    for part in attack._autoattack.attacks:
        if hasattr(part, "steps"):
            part.steps = OFFICIAL_STEPS  # By default it takes 10.

    def run(indices: list[int]) -> None:
        attack(at.images[indices].contiguous(), torch.tensor([at.labels[i] for i in indices]))

    return run


if __name__ == "__main__":
    typer.run(main)
