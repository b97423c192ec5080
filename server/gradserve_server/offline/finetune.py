"""`gradserve finetune`: a new last layer, or all weights, for one's own pictures; servable, with its index."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from gradserve.datasets import Dataset, open_dataset

from ..methods.indexes.sources import Report
from ..methods.influence.coverage import covered, last_linear
from ..methods.influence.gradients import Pass
from ..methods.influence.indexing.plan import IndexPlan
from ..methods.influence.layers import IndexedLayer
from ..models.catalogue import ModelSpec
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.preprocess import to_batch
from ..models.tables import toml_value
from . import training
from .command import Config, Device, Model, Threads, console, device_of, reporting, run, spec_of
from .examples import DatasetExamples, named_classes
from .index import build

BATCH_ROWS = 32
# Fields of the old catalogue entry that the new one does not copy; they describe the old weights.
REPLACED_FIELDS = {"name", "builder", "weights", "labels", "index", "pictures", "notes"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(finetune, "finetune", arguments)


def finetune(
    model: Model,
    data: Annotated[Path, typer.Option(help="pictures in class folders, with labels.csv, or an .npz")],
    out: Annotated[Path, typer.Option(help="folder for weights, labels, catalogue entry and index")],
    name: Annotated[str, typer.Option(help="name of the new model in requests; default: the folder's name")] = "",
    config: Config = None,
    weight_decay: Annotated[
        float, typer.Option(min=1e-8, help="L2, lambda of lambda/2 |theta|^2 beside the mean loss")
    ] = 1e-2,
    all_weights: Annotated[bool, typer.Option("--all", help="train all weights, not only a new last layer")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="with --all: passes over the pictures")] = 5,
    rate: Annotated[float, typer.Option(min=1e-8, help="with --all: learning rate at the start")] = 1e-3,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="share of the pictures that are held out, to measure the accuracy on")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="seed of the held-out share and of the order")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Fine-tune a model on your own pictures and write it ready to be served, with its influence index.

    By default a new last layer on the frozen network's features: L2-regularised multinomial logistic regression, to
    convergence, with features scaled to a mean squared norm of 16. There influence is exact.

    Example: gradserve finetune --model mobilenet_v2 --data pictures/ --out mine

    Then: gradserve serve --config mine/model.toml
    """
    spec, place = spec_of(model, config), device_of(device, threads)
    dataset = open_dataset(data)
    classes = named_classes(dataset)
    train, test = split(dataset.labelled_for(classes), held_out, seed)
    base = prepare(spec, place, fold=False)
    head = head_of(base)
    with reporting() as report:
        features, labels = features_of(base, head, DatasetExamples(train, base.card), report)
        weights, scale = training.head(features, labels, len(classes), weight_decay)
        network = with_head(base, head, weights)
        if all_weights:
            examples = DatasetExamples(train, base.card)
            training.descend(replace(base, network=network), examples, epochs, rate, weight_decay, seed, report)
    entry = write_model(network, spec, classes, out, name or out.name)
    tuned = prepare(entry, place, fold=False)
    if len(test):
        console.print(
            f"held-out accuracy {accuracy(tuned, DatasetExamples(test, tuned.card)):.1%} of {len(test)} pictures"
        )
    scale = 1.0 if all_weights else scale
    plan = IndexPlan(weight_decay, last_layer_only=not all_weights, seed=seed, feature_scale=scale)
    build(tuned, DatasetExamples(train, tuned.card), out / "index", plan)
    console.print(f"serve it:  gradserve serve --config {out / 'model.toml'}", markup=False)


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """The pictures to train on, and those held out, drawn at random."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    count = round(held_out * len(dataset))
    parts = [tuple(dataset[i] for i in sorted(rows)) for rows in (order[count:], order[:count])]
    return replace(dataset, examples=parts[0]), replace(dataset, examples=parts[1])


def head_of(model: Prepared) -> IndexedLayer:
    """The last layer. Raises ValueError where it is not a Linear, or not of classes that exclude each other."""
    if model.card.head != "softmax":
        what = f"{model.card.name} has the head {model.card.head}"
        raise ValueError(
            f"{what}, and fine-tuning trains classes that exclude each other; take a model of such classes"
        )
    head = last_linear(covered(model)[0])
    if head is None:
        what = f"{model.card.name} does not end in a Linear layer, which a new one could replace"
        raise ValueError(f"{what}; let its last layer be nn.Linear")
    return head


def features_of(
    model: Prepared, head: IndexedLayer, examples: DatasetExamples, report: Report
) -> tuple[Tensor, Tensor]:
    """What goes into the last layer, computed once: [N, D] float64, and the labels [N]."""
    features, labels = [], []
    report("features", 0, len(examples))
    for rows in batches(model, len(examples)):
        forward = Pass(model, to_batch(examples.images(rows), model.device, model.dtype), [head])
        features.append(head.features(forward.inputs[0]).double().cpu())
        labels.append(torch.from_numpy(examples.labels(rows)))
        report("features", rows.stop, len(examples))
    return torch.cat(features), torch.cat(labels)


def batches(model: Prepared, count: int) -> Iterator[range]:
    """The numbers 0 to count - 1 in batches that the model accepts."""
    size = 1 if model.card.unbatched else BATCH_ROWS
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def with_head(model: Prepared, head: IndexedLayer, weights: Tensor) -> nn.Module:
    """The network with a new last layer, weights [C, D + 1] with the bias last; changed in place."""
    linear = nn.Linear(weights.shape[1] - 1, len(weights), device=model.device, dtype=model.dtype)
    with torch.no_grad():
        linear.weight.copy_(weights[:, :-1])
        linear.bias.copy_(weights[:, -1])
    linear.requires_grad_(False)
    old = model.network.get_submodule(head.name)
    for parent in list(model.network.modules()):  # The layer may be a child of several modules.
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, linear)
    return model.network


def write_model(network: nn.Module, spec: ModelSpec, classes: Sequence[str], out: Path, name: str) -> ModelSpec:
    """Weights, labels and a catalogue of the new model in `out`; returns its entry."""
    out.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(state, out / "weights.safetensors")
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")
    kept = spec.model_dump(exclude=REPLACED_FIELDS, exclude_unset=True, exclude_none=True)
    files = {"weights": "weights.safetensors", "labels": "labels.txt", "index": "index"}
    table = {"builder": spec.source, **files, **kept}
    lines = [f"[models.{toml_value(name)}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    (out / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    entry = ModelSpec.model_validate({**kept, "name": name, "builder": spec.source, "labels": out / "labels.txt"})
    return entry.model_copy(update={"weights": str(out / "weights.safetensors")})


def accuracy(model: Prepared, examples: DatasetExamples) -> float:
    """Share of the pictures whose top class is the label."""
    right = 0
    for rows in batches(model, len(examples)):
        with torch.no_grad():
            logits = model(to_batch(examples.images(rows), model.device, model.dtype))
        right += int((logits.argmax(1).cpu() == torch.from_numpy(examples.labels(rows))).sum())
    return right / len(examples)
