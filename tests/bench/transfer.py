"""Black-box attacks: crafted on another network, or on a surrogate of the attacked one, and judged on it.

`python -m tests.bench.transfer --help`
"""

import asyncio
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gradserve import AsyncClient, Client, Method
from gradserve.cli.output import counter
from gradserve.datasets import Dataset, open_dataset
from gradserve.robustness.figures import counted
from gradserve.robustness.journal import Journal
from gradserve.robustness.plan import Plan, Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.run import Check

from . import report
from .faithfulness import DATA
from .gate import PICTURES, serving

TARGET, OTHER, SURROGATE = "resnet56", "resnet20", "resnet56-surrogate"
EPS, TRAIN = 8 / 255, "cifar10-train-5000.npz"


@dataclass(frozen=True)
class Left:
    """What an attack leaves of the test pictures that the target names rightly."""

    attack: str
    right: int
    of: int
    accuracy: float
    low: float
    high: float


def main(
    data: Annotated[Path, typer.Option(help="Folder with the weights and pictures.")] = DATA,
    folder: Annotated[Path, typer.Option(help="For the surrogate and the journal: a second run goes on there.")] = Path(
        "transfer-bench"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Of the surrogate's training.")] = 30,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many test pictures.")] = None,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """PGD-10 at 8/255 on resnet20, on a surrogate of resnet56, and on resnet56 itself, beside random signs.

    All judged on resnet56; the surrogate has seen its answers to 5000 training pictures, and nothing else of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = trained(data, folder, epochs)
    with serving(data, [TARGET, OTHER], folder, entry) as server:
        found = asyncio.run(judged(server.address, data / PICTURES, folder, limit))
    table = report.table(
        "Accuracy of resnet56 left at Linf 8/255, by where the attack comes from", ["attack"], ["left"]
    )
    for each in found:
        table.add_row(each.attack, f"{each.accuracy:.1%} ({each.low:.1%} to {each.high:.1%})")
    report.deliver({"transfer": [asdict(each) for each in found]}, [table], as_json, out)


def trained(data: Path, folder: Path, epochs: int) -> str:
    """The surrogate's catalogue entry; trained through the service if it is not there yet."""
    path = folder / f"{SURROGATE}.toml"
    if not path.exists():
        with tempfile.TemporaryDirectory() as temporary, serving(data, [TARGET], Path(temporary)) as server:
            asked = ["--server", server.address, "--model", TARGET, "--data", str(data / TRAIN), "--out", str(folder)]
            command = [sys.executable, "-m", "gradserve", "surrogate", *asked, "--epochs", str(epochs)]
            subprocess.run(command, check=True, stdout=sys.stderr)
    tomllib.loads(path.read_text())
    return "\n" + path.read_text()


async def judged(address: str, pictures: Path, folder: Path, limit: int | None) -> list[Left]:
    """Every attack on every picture, through the service; then random signs."""
    async with AsyncClient(address, timeout=600) as client:
        cards = [await client.model(name) for name in (TARGET, OTHER, SURROGATE)]
        dataset = open_dataset(pictures).labelled_for(cards[0].classes).take(limit)
        digests = {card.name: card.weights_digest for card in cards}
        heads = {card.name: card.head for card in cards}
        plan = Plan(TARGET, digests, heads, list(TRIALS.values()))
        with Journal(folder / "journal.jsonl", plan.described(dataset)) as journal:
            with counter("attacks", len(dataset) * (1 + len(TRIALS))) as told:
                await Check(client, plan, journal, told).run(dataset, 32)
            figures = counted(plan, dataset, journal)
    assert not figures.failed, figures.failed
    left = [_left("none", figures.clean), _left("random signs", signs(address, dataset))]
    return left + [_left(name, each.standing) for name, each in zip(TRIALS, figures.attacks, strict=True)]


def _transfer(surrogate: str) -> Trial:
    return Trial("transfer", "8/255", TARGET, Method("transfer", surrogate=surrogate), {"eps": EPS})


TRIALS = {
    "transfer from resnet20": _transfer(OTHER),
    "transfer from the surrogate": _transfer(SURROGATE),
    "PGD on resnet56 itself": Trial("pgd", "8/255", TARGET, Method("pgd"), {"eps": EPS, "first_success": True}),
}


def signs(address: str, dataset: Dataset) -> Proportion:
    """How many pictures the target still names rightly with random signs of the same size added."""
    rng = np.random.default_rng(0)
    noisy = [_signed(example.pixels(), rng) for example in dataset]
    with Client(address) as client:
        answers = client.predict_many(noisy, model=TARGET, top_k=1, concurrency=32)
        right = sum(found[0].class_index == each.label for found, each in zip(answers, dataset, strict=True))
    return Proportion(right, len(dataset))


def _signed(pixels: Any, rng: np.random.Generator) -> Any:
    change = 8 * rng.choice([-1, 1], pixels.shape)
    return np.clip(pixels.astype(int) + change, 0, 255).astype(np.uint8)


def _left(attack: str, share: Proportion) -> Left:
    low, high = share.interval
    return Left(attack, share.count, share.of, share.value, low, high)


if __name__ == "__main__":
    typer.run(main)
