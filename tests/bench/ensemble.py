"""The standard ensemble and MALT on CIFAR-10, picture by picture beside the official AutoAttack's verdicts.

`python -m tests.bench.ensemble --help`
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchattacks
import typer
from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.attack import METHODS, AttackArguments, Attacked, Ball, GoalSpec, attack
from gradserve_server.methods.parameters import bind
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from ..reference import Wrapped
from . import report
from .faithfulness import DATA

CPU = torch.device("cpu")
BUDGETS = {"cifar10-robust": 8 / 255, "resnet20": 1 / 255}
L2 = 0.5
# The ensemble's stages, and their names in the official verdicts.
STAGES = {"apgd": "apgd-ce", "apgd_targeted": "apgd-t", "fab_targeted": "fab-t", "square": "square"}
REFERENCE = "torchattacks"
COMPARED = ("ensemble", "malt")
FOLDER = Path("ensemble-out")
GRADIENT_ROW = 3  # A gradient row costs as much as so many forward rows.


@dataclass(frozen=True)
class Verdict:
    """What became of one picture; `fallen` is judged on 8-bit pixels, alone."""

    picture: int
    right: bool
    fallen: bool = False
    stages: list[tuple[str, bool, int, int]] = field(default_factory=list)  # As in AttackResponse.
    queries: int = 0
    gradients: int = 0
    seconds: float = 0.0  # Of the processor, from the last verdict to this one.
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> float:
        """Its cost in gradient rows; the rows of gradients are among its queries."""
        return self.gradients + (self.queries - self.gradients) / GRADIENT_ROW

    def stands(self, stage: str = "square") -> bool:
        """Whether it stands after that stage of the ensemble; by default after all."""
        until = list(STAGES)[: list(STAGES).index(stage) + 1]
        fallen = self.fallen and stage == "square"
        return self.right and not fallen and not any(reached for name, reached, *_ in self.stages if name in until)


class Pictures:
    """A network with the first test pictures, uint8 [n, 3, H, W] in 255ths."""

    def __init__(self, name: str, count: int, data: Path) -> None:
        self.name, self.model = name, prepared(name, data)
        with np.load(data / "cifar10-test-1000.npz") as file:
            self.images = torch.from_numpy(file["images"][:count]).permute(0, 3, 1, 2).contiguous().float() / 255
            self.labels: list[int] = file["labels"][:count].tolist()

    def right(self, index: int, image: Tensor | None = None) -> bool:
        """Whether the network knows this picture, or another in its place, alone in its pass."""
        with torch.no_grad():
            x = self.images[index : index + 1] if image is None else image
            return int(self.model(x.contiguous(memory_format=torch.channels_last)).argmax()) == self.labels[index]


def prepared(name: str, data: Path) -> Prepared:
    """The network as the server serves it."""
    if name in EMBEDDED:
        return prepare(EMBEDDED[name], CPU)
    weights, facts = str(data / f"cifar10-{name}.safetensors"), {"height": 32, "width": 32, "resize": 32}
    return prepare(ModelSpec(name=name, builder=f"tests.networks:{name}", weights=weights, **facts), CPU)


def attacked(at: Pictures, indices: list[int], method: str, ball: Ball, in_flight: int) -> Iterator[Verdict]:
    """Attacks pictures that the network knows, so many at a time in one engine."""
    engine, waiting, began = Engine({at.name: at.model}), list(indices), time.process_time()

    def submit() -> None:
        if waiting:
            i = waiting.pop(0)
            spec = GoalSpec(at.labels[i], loss=METHODS[method].loss)
            arguments = AttackArguments(method, bind(METHODS[method].function, {}), spec, ball, at.model.card.std, True)
            x = at.images[i : i + 1]
            engine.submit(Job(f"{i}", at.name, lambda job: attack(job, x, arguments), seed=i))

    for _ in range(in_flight):
        submit()
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                submit()
                took, began = time.process_time() - began, time.process_time()
                yield judged(at, int(event.job.id), event.result, ball, took)


def judged(at: Pictures, index: int, found: Attacked, ball: Ball, seconds: float) -> Verdict:
    """The verdict on the encoded picture."""
    image = torch.from_numpy(found.pixels).permute(2, 0, 1)[None].contiguous().float() / 255
    change = (image - at.images[index : index + 1]).double()
    assert ball.holds(round(float(change.abs().max()) * 255) / 255, float(change.square().sum().sqrt()) - 1e-6)
    stages = [tuple(stage) for stage in found.notes.get("stages", [])]
    fallen = not at.right(index, image)
    codes = [text.split(":")[0] for text in found.warnings]
    return Verdict(index, True, fallen, stages, found.queries, found.gradients, seconds, codes)  # type: ignore[arg-type]


def by_reference(at: Pictures, indices: list[int], ball: Ball) -> Iterator[Verdict]:
    """The verdicts of torchattacks' AutoAttack, its pictures rounded to 8 bits within the budget."""
    norm, classes = {"linf": "Linf", "l2": "L2"}[ball.norm], len(at.model.card.classes)
    facts = {"norm": norm, "eps": ball.eps, "version": "standard", "n_classes": classes, "seed": 0}
    aa = torchattacks.AutoAttack(Wrapped(at.model), **facts)
    for i in indices:
        began, x = time.process_time(), at.images[i : i + 1]
        image = ball.encoded(aa(x, torch.tensor(at.labels[i : i + 1])), x).float() / 255
        yield Verdict(i, True, not at.right(i, image), seconds=time.process_time() - began)


def resumed(file: Path, at: Pictures, method: str, ball: Ball, in_flight: int) -> list[Verdict]:
    """All verdicts; those in the file are taken from there, and new ones are added to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    known = {each.picture: each for each in (Verdict(**json.loads(line)) for line in lines)}
    missing = [i for i in range(len(at.labels)) if i not in known]
    wrong = [Verdict(i, False) for i in missing if not at.right(i)]
    left = [i for i in missing if at.right(i)]
    new = by_reference(at, left, ball) if method == REFERENCE else attacked(at, left, method, ball, in_flight)
    with file.open("a") as out:
        for verdict in chain(wrong, new):
            known[verdict.picture] = verdict
            out.write(json.dumps(asdict(verdict)) + "\n")
            out.flush()
    return [known[i] for i in range(len(at.labels))]


def official(cases: Path, name: str, count: int) -> Mapping[str, list[bool]]:
    """Which pictures stand in 8 bits after each stage of the official code, where there are such verdicts."""
    for case in json.loads(cases.read_text()) if cases.exists() else []:
        if case["network"] == name:
            return {stage: [bool(s) for s in after["stands_8bit"][:count]] for stage, after in case["after"].items()}
    return {}


def compared(found: list[Verdict], theirs: Mapping[str, list[bool]]) -> list[dict[str, Any]]:
    """Counts after each stage, and the pictures on which the official verdict differs."""
    rows = []
    for stage, name in STAGES.items():
        stands = [each.stands(stage) for each in found]
        row: dict[str, Any] = {"after": stage, "stand": sum(stands)}
        if name in theirs:
            row |= {"official": sum(theirs[name]), "differ": [i for i, s in enumerate(theirs[name]) if s != stands[i]]}
        rows.append(row)
    return rows


def cost(found: list[Verdict]) -> dict[str, float]:
    """Rows, as gradient rows, and seconds of the processor."""
    return {
        "gradient_rows": sum(each.gradients for each in found),
        "forward_rows": sum(each.queries - each.gradients for each in found),
        "rows": round(sum(each.rows for each in found), 1),
        "seconds": round(sum(each.seconds for each in found), 1),
    }


def main(
    network: Annotated[list[str], typer.Option(help="Repeat for several.")] = list(BUDGETS),  # noqa: B006
    method: Annotated[list[str], typer.Option(help=f"Of Attack, or {REFERENCE}; repeat.")] = list(COMPARED),  # noqa: B006
    pictures: Annotated[int, typer.Option(min=1, max=200, help="Of the test pictures.")] = 200,
    l2: Annotated[bool, typer.Option("--l2", help=f"Within L2 {L2} instead of the network's Linf.")] = False,
    in_flight: Annotated[int, typer.Option(min=1, help="Pictures that are attacked at once.")] = 40,
    folder: Annotated[Path, typer.Option(file_okay=False, help="Verdicts; a run goes on with those.")] = FOLDER,
    data: Annotated[Path, typer.Option("--data", file_okay=False, help="Folder of weights and pictures.")] = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """What stands after each stage, beside the official verdicts or torchattacks', and what it costs.

    Example: python -m tests.bench.ensemble --network resnet20 --pictures 30
    """
    torch.set_num_threads(1)
    document: dict[str, Any] = {}
    for name in network:
        at, ball = Pictures(name, pictures, data), Ball("l2", L2) if l2 else Ball("linf", BUDGETS[name])
        theirs = {} if l2 else official(data.parent / "cases" / "autoattack.json", name, pictures)
        verdicts = {
            each: resumed(folder / f"{name}-{ball.norm}-{each}.jsonl", at, each, ball, in_flight) for each in method
        }
        for each, found in verdicts.items():
            entry: dict[str, Any] = {"stand": sum(v.stands() for v in found), **cost(found)}
            entry["standing"] = [v.picture for v in found if v.stands()]
            entry["warnings"] = {str(v.picture): v.warnings for v in found if v.warnings}
            if each == "ensemble":
                entry["stages"] = compared(found, theirs)
            document[f"{name} {ball.norm} {each}"] = entry
        document |= differences(name, ball.norm, verdicts)
    for key, entry in document.items():
        report.console.print(key, entry)
    report.deliver(document, [], as_json, out)


def differences(name: str, norm: str, verdicts: Mapping[str, list[Verdict]]) -> dict[str, Any]:
    """The pictures on which two methods differ, and the share of the first one's rows."""
    first, *others = verdicts
    document: dict[str, Any] = {}
    for other in others:
        a, b = verdicts[first], verdicts[other]
        only = [v.picture for v, w in zip(a, b, strict=True) if v.stands() and not w.stands()]
        more = [v.picture for v, w in zip(a, b, strict=True) if w.stands() and not v.stands()]
        share = round(cost(b)["rows"] / max(1, cost(a)["rows"]), 3)
        document[f"{name} {norm} {other} beside {first}"] = {"only_first": only, "only_other": more, "rows": share}
    return document


if __name__ == "__main__":
    typer.run(main)
