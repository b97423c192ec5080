"""What attacks leave standing: real networks and pictures, attacked by a real server, beside torchattacks.

`python -m tests.bench.attacks --help`
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchattacks
import typer
from PIL import Image
from rich.progress import track

from gradserve import Attack, Client, Pick
from gradserve.cli.demo.local_server import launched
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from ..reference import Wrapped
from . import report
from .faithfulness import DATA, RESIZE, photo_names
from .gate import TABLE

LINF = tuple(n / 255 for n in (1, 2, 8))
L2 = 0.5
BATCH = 100  # Pictures that torchattacks attacks at once.
TINY = 1e-30  # It replaces torchattacks' 1e-10 beside a gradient's norm, which stops it on sure pictures.
NETWORKS = ("resnet20", "resnet56")
CPU = torch.device("cpu")
AT_ONCE = 32  # Attacks that are under way at once.
PHOTOS = """
[pool]
queue_seconds = 36000  # whatever else the machine does, nothing may be refused
[models.mobilenet_v2]
weights = "{weights}"
resize = {resize}
"""
Json = dict[str, Any]


class Setting:
    """The data, a server over it, and how much of it to take."""

    def __init__(self, data: Path, client: Client, images: int, networks: Sequence[str]) -> None:
        self.data, self.client, self.count, self.networks = data, client, images, networks
        with np.load(data / "cifar10-test-1000.npz") as file:
            self.pictures, self.labels = file["images"][:images], file["labels"][:images]

    def attacks(self, model: str, method: str, count: int | None = None, **facts: Any) -> list[Attack]:
        """One attack on each CIFAR picture, with its true label."""
        chosen = list(zip(self.pictures[:count], self.labels[:count], strict=True))
        labels = iter(int(label) for _, label in chosen)
        found = attack_each(self.client, [p for p, _ in chosen], labels, model, method, facts)
        return list(track(found, f"{model} {method}", len(chosen), console=report.console, transient=True))

    def prepared(self, name: str) -> Prepared:
        """The same network in this process."""
        weights = self.data / f"cifar10-{name}.safetensors"
        facts = {"height": 32, "width": 32, "resize": 32}
        return prepare(ModelSpec(name=name, builder=f"tests.networks:{name}", weights=str(weights), **facts), CPU)


def attack_each(
    client: Client, pictures: Sequence[Any], labels: Iterator[int], model: str, method: str, facts: Json
) -> Iterator[Attack]:
    """Attacks in order, many at once, each with its own label and seed."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [
            pool.submit(client.attack, picture, method, label=label, model=model, **{"seed": i, **facts})
            for i, (picture, label) in enumerate(zip(pictures, labels, strict=True))
        ]
        for each in begun:
            yield each.result()


def standing(found: Sequence[Attack]) -> float:
    """Percent of all pictures that are still classified right."""
    broken = sum(each.certificate.verdict in ("found", "already_misclassified") for each in found)
    assert all(each.certificate.within_budget for each in found)
    return 100 * (1 - broken / len(found))


def accuracy(at: Setting) -> Json:
    """Accuracy left on CIFAR-10, without random start, beside torchattacks on the same network and pictures."""
    rows = []
    for name in at.networks:
        reference = Reference(at, name)
        for norm, eps in [*(("linf", eps) for eps in LINF), ("l2", L2)]:
            for method in ("fgsm", "pgd"):
                if (norm, method) == ("l2", "fgsm"):
                    continue  # There is none in torchattacks.
                facts: Json = {"random_start": False} if method == "pgd" else {}
                facts |= {"step": 0.2} if norm == "l2" else {}
                start = time.perf_counter()
                found = at.attacks(name, method, norm=norm, eps=eps, **facts)
                took = time.perf_counter() - start
                start = time.perf_counter()
                theirs = reference.standing(method, norm, eps)
                seconds = {"seconds": round(took, 1), "torchattacks_seconds": round(time.perf_counter() - start, 1)}
                row = {"model": name, "attack": f"{method} {norm} {budget(norm, eps)}", "pictures": len(found)}
                rows.append({**row, "left": round(standing(found), 1), "torchattacks_left": theirs, **seconds})
                report.console.print(rows[-1])
    return {"accuracy": rows}


def budget(norm: str, eps: float) -> str:
    """8/255, or 0.5."""
    return f"{eps * 255:g}/255" if norm == "linf" else f"{eps:g}"


class Reference:
    """torchattacks on the server's own network."""

    def __init__(self, at: Setting, name: str) -> None:
        self._network = Wrapped(at.prepared(name))
        self._images = torch.from_numpy(at.pictures).permute(0, 3, 1, 2).contiguous().float() / 255
        self._labels = torch.from_numpy(at.labels)

    def standing(self, method: str, norm: str, eps: float) -> float:
        """Percent that it leaves, judged on its float pictures."""
        if method == "fgsm":
            attack: Any = torchattacks.FGSM(self._network, eps=eps)
        elif norm == "linf":
            attack = torchattacks.PGD(self._network, eps=eps, alpha=eps / 4, steps=10, random_start=False)
        else:
            facts: Json = {"eps_for_division": TINY, "random_start": False}
            attack = torchattacks.PGDL2(self._network, eps=eps, alpha=eps / 5, steps=10, **facts)
        right, size = 0, BATCH if norm == "linf" else 1
        for part in range(0, len(self._labels), size):
            images, labels = self._images[part : part + size], self._labels[part : part + size]
            with torch.no_grad():
                clean = self._network(images).argmax(1) == labels
            if clean.any():
                images, labels = images[clean], labels[clean]
                adversarial = attack(images, labels)
                with torch.no_grad():
                    right += int((self._network(adversarial).argmax(1) == labels).sum())
        return round(100 * right / len(self._labels), 1)


def photos(at: Setting) -> Json:
    """mobilenet_v2 on the photos: PGD, its verdicts judged again by plain code, and random points as far away."""
    names = photo_names(at.data)[: at.count]
    paths = [at.data / "images" / name for name in names]
    labels = [found[0].class_index for found in at.client.predict_many(paths, model="mobilenet_v2")]
    ask: Callable[..., list[Attack]] = lambda method, **facts: list(  # noqa: E731
        attack_each(at.client, paths, iter(labels), "mobilenet_v2", method, facts)
    )
    found = ask("pgd", eps=4 / 255)
    document: Json = {"photos": len(found), "fallen": sum(each.found for each in found)}
    document["verdicts_agree"] = sum(agrees(at, each) for each in found)
    document["largest_linf_levels"] = max(each.certificate.linf * 255 for each in found)
    in_l2 = ask("pgd", norm="l2", eps=2.0, step=0.2)
    document["l2_fallen"] = sum(each.found for each in in_l2)
    document["l2_largest"] = max(each.certificate.l2 for each in in_l2)
    document["l2_verdicts_agree"] = sum(agrees(at, each) for each in in_l2)
    document["sphere_changed"] = []
    for draw in range(3):
        changed = 0
        for i, (path, each) in enumerate(zip(paths, found, strict=True)):
            facts: Json = {"points": 1, "radius": each.certificate.l2, "seed": 1000 * draw + i, "label": labels[i]}
            changed += at.client.attack(path, "sphere", model="mobilenet_v2", **facts).found
        document["sphere_changed"].append(changed)
    report.console.print(document)
    return {"photos": document}


def agrees(at: Setting, attack: Attack) -> bool:
    """Pillow's decoding and torchvision's own unfolded network give the certificate's verdict."""
    with Image.open(io.BytesIO(attack.adversarial)) as picture:
        image = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float().unsqueeze(0) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        label = int(plain_mobilenet(at.data)((image - mean) / std).argmax())
    return (label != attack.certificate.label) == attack.found


def plain_mobilenet(data: Path, kept: dict[Path, Any] = {}) -> Any:  # noqa: B006  loaded once
    """torchvision's network with the weights loaded by safetensors."""
    if data not in kept:
        from safetensors.torch import load_file
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2()
        network.load_state_dict(load_file(data / "mobilenet_v2-imagenet.safetensors"))
        kept[data] = network.eval()
    return kept[data]


def targeted(at: Setting) -> Json:
    """Targeted PGD to a random class on the photos at 8/255, 40 steps."""
    paths = [at.data / "images" / name for name in photo_names(at.data)[: at.count]]
    facts: Json = {"target": Pick.RANDOM, "eps": 8 / 255, "steps": 40, "step": 0.125, "trajectory": True}
    found = list(attack_each(at.client, paths, iter([None] * len(paths)), "mobilenet_v2", "pgd", facts))  # type: ignore[list-item]
    sure = [goal_probability(each) for each in found]
    document = {
        "photos": len(found),
        "within_10": sum((each.certificate.first_success or 99) <= 10 for each in found),
        "found": sum(each.found for each in found),
        "least_probability_within_40": min(sure),
        "above_99": sum(p > 0.99 for p in sure),
    }
    report.console.print(document)
    return {"targeted": document}


def goal_probability(attack: Attack) -> float:
    """The largest probability of the target on the way."""
    target = attack.certificate.target
    return max((s.predicted.probability for s in attack.trajectory if s.predicted.class_index == target), default=0.0)


def queries(at: Setting) -> Json:
    """Score-only attacks on resnet20: one pixel on 100 pictures that are classified right, Square on 200."""
    right = [p.top[0].class_index for p in at.client.predict_many(list(at.pictures[:150]), model="resnet20")]
    chosen = [i for i, label in enumerate(right) if label == at.labels[i]][: min(100, at.count)]
    facts: Json = {"population": 100, "generations": 30}
    pictures, labels = [at.pictures[i] for i in chosen], iter(int(at.labels[i]) for i in chosen)
    ones = list(attack_each(at.client, pictures, labels, "resnet20", "one_pixel", facts))
    document: Json = {"one_pixel_pictures": len(ones), "one_pixel_fallen": sum(each.found for each in ones)}
    report.console.print(document)
    squares = at.attacks("resnet20", "square", min(200, at.count), eps=8 / 255, queries=2000)
    asked = [each.certificate.queries for each in squares if each.certificate.verdict != "already_misclassified"]
    document |= {"square_pictures": len(squares), "square_left": standing(squares)}
    document["square_queries"] = round(float(np.mean(asked)), 1)
    report.console.print(document)
    return {"queries": document}


def precisions(at: Setting) -> Json:
    """What PGD-10 leaves of resnet20 at 1/255 in EXACT and FAST, by cross-entropy and by margin."""
    document: Json = {"pictures": len(at.pictures)}
    for loss in ("cross_entropy", "margin"):
        for precision in ("exact", "fast"):
            found = at.attacks("resnet20", "pgd", eps=1 / 255, loss=loss, precision=precision)
            document[f"{loss} {precision}"] = round(standing(found), 1)
            report.console.print(document)
    return {"precisions": document}


PARTS: Mapping[str, Callable[[Setting], Json]] = {
    "photos": photos,
    "targeted": targeted,
    "accuracy": accuracy,
    "queries": queries,
    "precisions": precisions,
}


@contextmanager
def serving(data: Path, workers: int | None) -> Iterator[Client]:
    """A server with the networks of the data."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.toml"
        text = PHOTOS.format(weights=(data / "mobilenet_v2-imagenet.safetensors").resolve(), resize=RESIZE)
        config.write_text(text + "".join(TABLE.format(name=name, data=data.resolve()) for name in NETWORKS))
        arguments = ["--config", str(config), *(["--workers", str(workers)] if workers else [])]
        log = Path(folder) / "server.log"
        with launched(arguments, log, 600) as address, Client(address, timeout=36000) as client:
            yield client


def main(
    only: Annotated[list[str], typer.Option(help=f"One of {', '.join(PARTS)}; repeat for several.")] = list(PARTS),  # noqa: B006
    images: Annotated[int, typer.Option(min=1, max=1000, help="CIFAR pictures, or photos, at most.")] = 1000,
    network: Annotated[list[str], typer.Option(help="Of accuracy; repeat for several.")] = list(NETWORKS),  # noqa: B006
    workers: Annotated[int | None, typer.Option(min=1, help="The server's; default: one per core.")] = None,
    data: Annotated[Path, typer.Option("--data", file_okay=False, help="Folder of weights and pictures.")] = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Accuracy left by attacks, and certificates judged again by plain code.

    Example: python -m tests.bench.attacks --only photos --images 6
    """
    torch.set_num_threads(1)
    document: Json = {}
    with serving(data, workers) as client:
        at = Setting(data, client, images, network)
        for name in only:
            document |= PARTS[name](at)
            report.deliver(document, [], as_json and name == only[-1], out)


if __name__ == "__main__":
    typer.run(main)
