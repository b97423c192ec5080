"""Certify beside a plain script: the author's network, in torch as it is, with the same noise, picture by picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lengths import length
from paths import DATA
from scipy.stats import beta, norm
from serving import PATIENCE, Server

from gradserve import Client
from gradserve_server.models.embedded.cifar10 import network
from training.cifar10 import data, training

PHOTOS = DATA / "cifar10-test-1000.npz"
MODEL = "cifar10-robust"
WEIGHTS = Path(network.__file__).parent / f"{MODEL}.safetensors"
PICTURES = length(3, 200)
SIGMA, SELECTION, SAMPLES, ALPHA, SEED = 0.25, 100, 1000, 0.001, 7


def noise(sample: int) -> torch.Tensor:
    """Standard normal numbers [3, 32, 32] of a sample, as the server's documentation says that it draws them."""
    seed = int(np.random.SeedSequence([SEED, sample]).generate_state(1, np.uint64)[0]) >> 1
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))[0]


def plain(model: torch.nn.Module, image: torch.Tensor, noises: torch.Tensor) -> tuple[int, np.ndarray, float]:
    """The class (-1: abstains), the counts after the selection [10], and the radius (Cohen et al. 2019, CERTIFY)."""
    with torch.inference_mode():
        parts = [model(network.normalize(image + SIGMA * part)).argmax(1) for part in noises.split(200)]
    classes = torch.cat(parts).numpy()
    selection, counts = (np.bincount(each, minlength=10) for each in np.split(classes, [SELECTION]))
    candidate = int(selection.argmax())
    bound = beta.ppf(ALPHA, counts[candidate], SAMPLES - counts[candidate] + 1) if counts[candidate] else 0.0
    return (candidate, counts, SIGMA * norm.ppf(bound)) if bound > 0.5 else (-1, counts, 0.0)


@pytest.mark.timeout(length(300, 7200))
@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data")
def test_every_picture_has_the_plain_scripts_class_counts_and_radius() -> None:
    test = data.load(PHOTOS).take(np.arange(PICTURES))
    model = training.load_weights(WEIGHTS).eval()
    noises = torch.stack([noise(sample) for sample in range(SELECTION + SAMPLES)])
    arguments = {"model": MODEL, "sigma": SIGMA, "selection_samples": SELECTION, "samples": SAMPLES, "alpha": ALPHA}
    others = []
    radii = []
    with Server(f"[models.{MODEL}]\n", "--workers", "1") as server, Client(server.address, timeout=PATIENCE) as client:
        answers = client.certify_many(test.images, seed=SEED, preprocess="as_is", **arguments)
        pairs = zip(answers, data.to_tensor(test.images), strict=True)
        for picture, (answer, image) in enumerate(pairs):
            candidate, counts, radius = plain(model, image, noises)
            radii.append((candidate, radius))
            ours = -1 if answer.predicted is None else answer.predicted.class_index
            found = np.zeros(10, int)
            for each in answer.counts:
                found[each.class_index] = each.count
            if (ours, found.tolist()) != (candidate, counts.tolist()) or abs(answer.radius - radius) > 1e-12:
                others.append((picture, ours, candidate, found.tolist(), counts.tolist(), answer.radius, radius))
            assert answer.provenance.precision == "exact"
            assert answer.provenance.rows == 1 + SELECTION + SAMPLES
    right = [radius for (candidate, radius), label in zip(radii, test.labels, strict=True) if candidate == label]
    shares = {
        at: round(sum(float(radius) >= at for radius in right) / PICTURES, 4) for at in (0, 0.125, 0.25, 0.375, 0.5)
    }
    print(f"certified accuracy of {PICTURES} pictures: {shares}, {sum(c < 0 for c, _ in radii)} abstentions")
    assert not others, f"other than the plain script's: {others}"
