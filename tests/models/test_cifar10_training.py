"""The training of the embedded photo models: it learns, stops and goes on; the weights do what their card says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lengths import length
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from gradserve_server.models.embedded.cifar10 import network
from training.cifar10 import adversary, data, evaluate, train, training

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
WEIGHTS = Path(network.__file__).parent
SETTINGS = training.Settings(epochs=1, batch=8, rate=0.05, held_out=8)
NAMED, ATTACKED = length(250, 1000), length(40, 200)  # Numbers of test images.


@pytest.fixture(scope="module")
def pictures() -> data.Dataset:
    """Ten colours with noise: enough to see a loss fall."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 72)
    colours = rng.integers(40, 216, (10, 1, 1, 3))
    noisy = colours[labels] + rng.normal(0, 20, (72, 32, 32, 3))
    return data.Dataset(np.clip(noisy, 0, 255).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def npz(pictures: data.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cifar10") / "pictures.npz"
    np.savez(path, images=pictures.images, labels=pictures.labels)
    return path


def run_train(npz: Path, out: Path, *options: str) -> None:
    common = ["--data", str(npz), "--out", str(out), "--batch", "8", "--held-out", "8", "--epochs", "0.75"]
    result = CliRunner().invoke(train.app, [*common, *options])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", [(), ("--robust",)], ids=["plain", "robust"])
def test_a_stopped_run_gives_the_same_weights(npz: Path, tmp_path: Path, kind: tuple[str, ...]) -> None:
    run_train(npz, tmp_path / "whole.safetensors", *kind)
    run_train(npz, tmp_path / "parts.safetensors", *kind, "--stop-after", "3")
    assert not (tmp_path / "parts.safetensors").exists()
    run_train(npz, tmp_path / "parts.safetensors", *kind, "--resume")
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert records[-1]["kind"] == "held_out"
    assert ("pgd" in records[-1]) == bool(kind)


def test_a_run_by_the_clock_ends(npz: Path, tmp_path: Path) -> None:
    run_train(npz, tmp_path / "timed.safetensors", "--minutes", "0.03")
    training.load_weights(tmp_path / "timed.safetensors")


def test_the_loss_falls(pictures: data.Dataset) -> None:
    run = training.Run(replace(SETTINGS, epochs=3, disturb=0), pictures)
    losses = [run.train_step(*batch)["loss"] for batch in run.batches()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_folded_twin_is_the_network(pictures: data.Dataset) -> None:
    model = network.cifar10()
    images = data.to_tensor(pictures.images)
    model.train()(network.normalize(images))  # This gives it running statistics of its own.
    twin = adversary.FoldedTwin(model)
    twin.refresh()
    expected = model.eval()(network.normalize(images)).detach()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in twin.twin.modules())
    assert torch.allclose(twin(images), expected, atol=0.1 * float(expected.std()) + 0.02)


@pytest.mark.parametrize("attack", ["pgd", "noisy_fgsm"])
def test_attacks_keep_their_budget_and_raise_the_loss(pictures: data.Dataset, attack: str) -> None:
    torch.manual_seed(0)
    model = network.cifar10().eval()
    images, labels = data.to_tensor(pictures.images[:16]), torch.from_numpy(pictures.labels[:16])

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model(network.normalize(x))

    generator = torch.Generator().manual_seed(0)
    if attack == "pgd":
        hostile = adversary.pgd(logits, images, labels, eps=0.03, step=0.01, steps=5, generator=generator)
        budget = 0.03
    else:
        hostile = adversary.noisy_fgsm(logits, images, labels, eps=0.03, noise=0.06, generator=generator)
        budget = 0.09
    assert float((hostile - images).abs().max()) <= budget + 1e-6
    assert torch.equal(hostile, hostile.clamp(0, 1))
    loss = torch.nn.functional.cross_entropy
    assert loss(logits(hostile), labels) > loss(logits(images), labels)


def test_jpeg_twins_of_lossless_pictures_go(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (12, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    files = [data.reencode(image, 75) for image in rough]
    np.savez(tmp_path / "all.npz", images=np.stack(files), labels=np.arange(12) % 10)
    np.savez(tmp_path / "some.npz", images=rough[4:7], labels=np.arange(4, 7))
    both = data.load_all([tmp_path / "all.npz", tmp_path / "some.npz"])
    assert len(both) == 12
    assert np.array_equal(both.images[-3:], rough[4:7])
    assert list(both.labels[-3:]) == [4, 5, 6]


def test_folders_and_jpeg_files_load_alike(tmp_path: Path, pictures: data.Dataset) -> None:
    blobs = []
    for i, (image, label) in enumerate(zip(pictures.images[:6], pictures.labels[:6], strict=True)):
        folder = tmp_path / "photos" / network.LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.jpg")
        blobs.append((folder / f"{i}.jpg").read_bytes())
    offsets = np.cumsum([0, *map(len, blobs)])
    jpeg = np.frombuffer(b"".join(blobs), np.uint8)
    np.savez(tmp_path / "files.npz", jpeg=jpeg, offsets=offsets, labels=pictures.labels[:6])
    folder, npz = data.load(tmp_path / "photos"), data.load(tmp_path / "files.npz")
    order = np.argsort(npz.labels, kind="stable")
    assert np.array_equal(folder.images, npz.images[order])
    assert np.array_equal(folder.labels, npz.labels[order])


def test_the_network_fits_and_takes_any_size(tmp_path: Path) -> None:
    model = network.cifar10().eval()
    training.export(model, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size <= 6e6
    assert all(model(torch.zeros(1, 3, *size)).shape == (1, 10) for size in [(32, 32), (96, 57), (224, 224)])
    again = training.load_weights(tmp_path / "weights.safetensors")
    assert torch.allclose(again(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32)), atol=1e-2)


@pytest.mark.skipif(not DATA.exists(), reason="needs CIFAR-10's test images in ../shared/data")
@pytest.mark.parametrize(
    ("name", "clean", "jpeg", "robust"), [("cifar10", 0.92, 0.91, 0.0), ("cifar10-robust", 0.72, 0.71, 0.40)]
)
def test_the_weights_do_what_the_card_says(name: str, clean: float, jpeg: float, robust: float) -> None:
    model, test = training.load_weights(WEIGHTS / f"{name}.safetensors"), data.load(DATA / "cifar10-test-1000.npz")
    test = test.take(np.arange(NAMED))
    images, labels = data.to_tensor(test.images), torch.from_numpy(test.labels)
    reencoded = data.to_tensor(np.stack([data.reencode(image, 75) for image in test.images]))
    assert training.accuracy(model, images, labels) >= clean
    assert training.accuracy(model, reencoded, labels) >= jpeg
    few = slice(0, ATTACKED)
    attack = {"eps": 8 / 255, "step": 2 / 255, "steps": 10, "restarts": 1, "seed": 0}
    left = evaluate.standing(model, images[few], labels[few], **attack)
    assert left >= robust - 0.05 if robust else left <= 0.05
