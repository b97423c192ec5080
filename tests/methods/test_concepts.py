"""Concepts against scikit-learn and plain torch, and what it says of concepts that are known."""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from zoo import in_double, inputs, normalised, pictures, prepared, unmodified

from gradserve import patterns
from gradserve_server.api.rpcs.concepts import gives_averages, last_layer
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, TimeUp
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.methods.concepts import ConceptFeatures, ConceptsArguments, analysis, concepts
from gradserve_server.methods.concepts.analysis import ConceptDirection, analysed
from gradserve_server.methods.concepts.regression import accuracy, centred, direction, fitted, halves
from gradserve_server.methods.concepts.significance import scores_of, threshold_of
from gradserve_server.methods.targets import Target
from gradserve_server.models.prepared import Prepared

REAL = ["trained-squeezenet1_0", "trained-mobilenet_v2", "imagenet"]


def found(model: Prepared, x: Tensor, arguments: ConceptsArguments, seed: int = 0) -> ConceptDirection:
    """What the server makes of what a worker answers; raises what ended the job."""
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", lambda job: concepts(job, x, arguments), seed=seed))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return analysed(ended.result, arguments, seed)  # type: ignore[arg-type]


def along(features: np.ndarray, labels: np.ndarray) -> Any:
    """The direction between features."""
    return direction(features, labels, features @ features.T)


def pooled(model: Prepared, layer: str, x: Tensor) -> np.ndarray:
    """The layer's averaged channels, [n, C], by a hook."""
    kept = list[Tensor]()
    handle = model.network.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(out.clone()))
    with torch.no_grad():
        for part in x.split(32):
            model(part)
    handle.remove()
    return torch.cat(kept).mean((2, 3)).double().numpy()


def every_class(model: Prepared) -> tuple[Target, ...]:
    return tuple(Target(label=i) for i in range(len(model.card.classes)))


def by_weights(model: Prepared, concept: Tensor, negatives: Tensor, *classes: Target, seed: int = 0) -> Any:
    """At the last layer, without class pictures."""
    card = model.card
    arguments = ConceptsArguments(
        last_layer(card),
        len(concept),
        len(negatives),
        classes or every_class(model),
        not classes,
        20,
        card.logits_layer,
    )
    return found(model, torch.cat([concept, negatives]), arguments, seed)


# The regression


@pytest.mark.parametrize(("seed", "scale", "counts"), [(0, 1.0, (12, 30)), (1, 10.0, (5, 5)), (2, 0.05, (40, 20))])
def test_the_direction_is_that_of_scikit_learn(seed: int, scale: float, counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat([1.0, -1.0], counts)
    features = scale * (rng.normal(size=(sum(counts), 90)) + 0.3 * labels[:, None] * rng.normal(size=90))
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(features, labels)
    features = centred(features)
    factors, _ = fitted(features @ features.T, labels)
    np.testing.assert_allclose(features.T @ factors, reference.coef_[0], rtol=1e-3, atol=1e-5)
    expected = reference.coef_[0] / np.linalg.norm(reference.coef_[0])
    assert along(features, labels) @ expected == pytest.approx(1, abs=1e-7)


def test_features_of_very_large_scale_end_too() -> None:
    rng = np.random.default_rng(0)
    features = centred(1e4 * rng.normal(size=(30, 8)))
    labels = np.where(rng.random(30) < 0.5, 1.0, -1.0)
    vector = along(features, labels)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_the_same_features_have_no_direction() -> None:
    features = np.ones((8, 5)) * np.arange(5)
    assert along(centred(features), np.repeat([1.0, -1.0], 4)) is None


@pytest.mark.parametrize(("shift", "least", "most"), [(6.0, 0.95, 1.0), (0.0, 0.3, 0.7)])
def test_accuracy_is_that_of_pictures_that_were_left_out(shift: float, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1.0, -1.0], [30, 60])
    features = centred(rng.normal(size=(90, 400)) + shift * labels[:, None] * np.eye(400)[0])
    assert least <= accuracy(features @ features.T, labels, np.random.default_rng(1)) <= most


@pytest.mark.parametrize("counts", [(7, 5), (6, 5), (4, 8)])
def test_halves_have_half_of_each_group(counts: tuple[int, int]) -> None:
    drawn = np.stack([halves(counts, np.random.default_rng(i)) for i in range(50)])
    own, other = (drawn[:, : counts[0]] > 0).sum(1), (drawn[:, counts[0] :] > 0).sum(1)
    assert set(own) == {counts[0] // 2}
    assert set(other) == {(counts[1] + 1) // 2}
    assert len({tuple(row) for row in drawn}) > 15


# Significance


def test_z_by_hand() -> None:
    random = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    assert scores_of(np.array([4.0, 9.0]), random).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("classes", [1, 30])
def test_one_more_random_direction_is_significant_in_a_twentieth(classes: int) -> None:
    rng = np.random.default_rng(classes)
    flagged = 0
    for _ in range(400):
        random = rng.normal(2, 3, (classes, 21))
        z = scores_of(random[:, 0], random[:, 1:])
        flagged += bool((np.abs(z) >= threshold_of(random[:, 1:])).any())
    assert flagged / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert flagged or classes > 1


def test_the_threshold_nears_that_of_a_normal_distribution() -> None:
    random = np.random.default_rng(0).normal(size=(1, 20_000))
    assert threshold_of(random) == pytest.approx(norm.ppf(0.975), abs=1e-3)


def test_the_threshold_is_at_least_the_largest_z_among_the_others() -> None:
    random = np.random.default_rng(3).standard_t(2, (40, 25)) + 5
    random[7] = 0.1
    random[8] = np.eye(25)[3]  # The others are the same.
    rest = [np.delete(random, i, 1) for i in range(25)]
    largest = max(np.abs(scores_of(random[:, i], rest[i])).max() for i in range(25))
    assert threshold_of(random) == pytest.approx(largest, rel=1e-9)
    assert largest > 10


def test_the_threshold_of_many_directions_takes_little_memory() -> None:
    random = np.random.default_rng(0).normal(size=(1000, 500))
    tracemalloc.start()
    threshold_of(random)
    assert tracemalloc.get_traced_memory()[1] < 10 * random.nbytes
    tracemalloc.stop()


def test_the_regressions_end_with_the_time() -> None:
    rng = np.random.default_rng(0)
    found = ConceptFeatures(rng.normal(size=(20, 6)), rng.normal(size=(3, 6)))
    arguments = ConceptsArguments("layer", 8, 12, tuple(Target(label=i) for i in range(3)), True, 20)
    assert len(analysed(found, arguments, 0).classes) == 3
    with pytest.raises(TimeUp):
        analysed(found, arguments, 0, time.monotonic())


def test_the_price_of_the_regressions_grows_with_pictures_and_directions() -> None:
    few = analysis.gflop(ConceptsArguments("layer", 10, 10, (), True, 20))
    many = analysis.gflop(ConceptsArguments("layer", 128, 256, (), True, 500))
    assert many > 20 * 19**3 * few * 0.95
    assert 100 < many < 1000


# Derivatives


def plain_derivatives(
    name: str, layer: str, x: Tensor, vector: np.ndarray, score: Callable[[Tensor], Tensor]
) -> Tensor:
    """The mean over pictures of the derivative by a step along the vector at every position, by hooks and autograd."""
    network, kept = unmodified(name, torch.float64), list[Tensor]()

    def keep(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().clone().requires_grad_())
        return kept[0] + 0  # What runs after it may work in place.

    network.get_submodule(layer).register_forward_hook(keep)
    score(network(normalised(x))).sum().backward()
    along = torch.einsum("nc...,c->n...", kept[0].grad, torch.from_numpy(vector).double())  # type: ignore[arg-type]
    return along.flatten(1).sum(1).mean()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("squeezenet1_1", "features.12"),
        ("squeezenet1_1", "features.7"),
        ("resnet18", "layer4"),
        ("resnet18", "layer2.1"),
    ],
)
def test_derivatives_are_those_of_plain_torch(name: str, layer: str) -> None:
    model = in_double(name)
    x = pictures(model, 14)
    classes = (Target(label=5), Target(label=700), Target(rank=1))
    answer = found(model, x, ConceptsArguments(layer, 4, 6, classes, False, 20))
    scores: dict[Target, Callable[[Tensor], Tensor]] = {
        classes[0]: lambda z: z[:, 5],
        classes[1]: lambda z: z[:, 700],
        classes[2]: lambda z: z.amax(1),
    }
    derivatives = {row.target: row.derivative for row in answer.classes}
    for target, score in scores.items():
        expected = plain_derivatives(name, layer, x[10:], answer.vector, score)
        assert derivatives[target] == pytest.approx(expected.item(), rel=1e-5)
    assert [row.rank for row in answer.classes] == [None] * 3


def test_all_classes_at_a_middle_layer() -> None:
    model = in_double("trained-resnet20")
    x = pictures(model, 13)
    answer = found(model, x, ConceptsArguments("layer2.1", 4, 6, every_class(model), True, 20))
    for row in answer.classes:
        expected = plain_derivatives(
            "trained-resnet20", "layer2.1", x[10:], answer.vector, lambda z, label=row.target.label: z[:, label]
        )
        assert row.derivative == pytest.approx(expected.item(), rel=1e-5)
    assert [row.rank for row in answer.classes] == list(range(1, 11))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "imagenet"])
def test_weights_are_the_derivatives_where_all_is_linear(name: str) -> None:
    model = prepared(name)
    x = pictures(model, 12)
    layer, label = last_layer(model.card), 17
    answer = by_weights(model, x[:4], x[4:10], Target(label=label))
    own = found(model, x, ConceptsArguments(layer, 4, 6, (Target(label=label),), False, 20))
    assert answer.classes[0].derivative == pytest.approx(own.classes[0].derivative, rel=1e-3)


def test_weights_are_refused_where_something_is_not_linear() -> None:
    model = prepared("squeezenet1_1")
    x = pictures(model, 10)
    with pytest.raises(NotApplicable, match="is not linear"):
        found(model, x, ConceptsArguments("features.11", 4, 6, (Target(label=3),), False, 20, "classifier.1"))


LAST = {
    "resnet18": "layer4",
    "squeezenet1_1": "features",
    "mobilenet_v2": "features",
    "alexnet": "classifier.5",
    "vgg11_bn": "classifier.5",
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_layer_is_the_one_whose_average_gives_the_logits(name: str) -> None:
    card = prepared(name).card
    named = last_layer(card)
    assert (named, gives_averages(card.layer(named), card)) == (LAST[name], True)  # type: ignore[arg-type]


# Concepts that are known


@cache
def photos() -> dict[str, Image.Image]:
    if not DATA.is_dir():
        pytest.skip("needs the pictures in ../shared/data")
    return {path.stem: Image.open(path).convert("RGB") for path in sorted((DATA / "images").glob("*.JPEG"))}


def without(*words: str) -> list[Image.Image]:
    """The photos whose names have none of the words."""
    return [photo for name, photo in photos().items() if not any(word in name for word in words)]


def crops(sources: Sequence[Image.Image], count: int, seed: int) -> list[Image.Image]:
    """Random squares of them, of 0.4 to 0.9 of their shorter sides."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        photo = sources[rng.integers(len(sources))]
        side = int(min(photo.size) * rng.uniform(0.4, 0.9))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        out.append(photo.crop((left, top, left + side, top + side)))
    return out


def as_inputs(model: Prepared, images: Sequence[Image.Image]) -> Tensor:
    card, out = model.card, []
    for image in images:
        scale = card.resize.height / min(image.size)
        width, height = (round(length * scale) for length in image.size)
        left, top = (width - card.width) // 2, (height - card.height) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        out.append(np.asarray(resized.crop((left, top, left + card.width, top + card.height))))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).to(model.dtype) / 255


@pytest.mark.parametrize("name", REAL)
def test_zebras_depend_on_black_and_white_stripes(name: str) -> None:
    model = prepared(name)
    stripes = as_inputs(model, patterns.stripes(40, colours="black_white"))
    negatives = as_inputs(model, crops(without("zebra"), 60, 5))
    answer = by_weights(model, stripes, negatives)
    zebra = model.card.classes.index("zebra")
    (row,) = [row for row in answer.classes if row.target.label == zebra]
    top = [model.card.classes[each.target.label or 0] for each in answer.classes[:5]]
    print(f"{name}: zebra rank {row.rank}, z {row.z:.1f}; top {', '.join(top)}")
    assert row.rank is not None
    assert row.rank <= 3
    assert row.z > 2
    assert answer.accuracy > 0.9


@pytest.mark.parametrize("name", REAL)
def test_what_depends_on_red_and_blue_is_printed(name: str) -> None:
    model = prepared(name)
    negatives = as_inputs(model, without())
    for colour, expected in {"red": ("red wine", "theater curtain", "fire engine"), "blue": ("jellyfish",)}.items():
        tinted = as_inputs(model, patterns.tinted(without(), colour))
        answer = by_weights(model, tinted, negatives)
        places = {model.card.classes[row.target.label or 0]: row for row in answer.classes}
        top = ", ".join(f"{word} {row.z:.1f}" for word, row in list(places.items())[:8])
        print(f"{name}, {colour}: {top}")
        assert min(places[word].rank or 0 for word in expected) <= 25


def test_concepts_of_random_pictures_are_insignificant() -> None:
    model, pool = inputs("trained-resnet20", 1000)
    rng, insignificant = np.random.default_rng(0), 0
    for seed in range(20):
        drawn = pool[torch.from_numpy(rng.permutation(len(pool))[:60])]
        answer = by_weights(model, drawn[:20], drawn[20:], seed=seed)
        insignificant += all(abs(row.z) < answer.threshold for row in answer.classes)
    print(f"trained-resnet20: insignificant for all of 10 classes: {insignificant} of 20")
    assert insignificant >= 18


@pytest.mark.parametrize(("name", "draws"), [("trained-squeezenet1_0", 20), ("trained-resnet20", 200)])
def test_few_concepts_of_random_pictures_are_significant(name: str, draws: int) -> None:
    """For a class that was named before, and for any of all classes."""
    model = prepared(name)
    layer = last_layer(model.card)
    weights = model.weights(model.card.logits_layer).double().flatten(1).numpy()
    images = inputs(name, 1000)[1] if name == "trained-resnet20" else as_inputs(model, crops(without(), 300, 11))
    pool = pooled(model, layer, images)
    rng, alone = np.random.default_rng(0), threshold_of(np.eye(1, 20))  # That for one class depends on no values.
    named = anything = 0.0
    for _ in range(draws):
        features = centred(pool[rng.permutation(len(pool))[:80]])
        kernel = features @ features.T
        vector = direction(features, np.repeat([1.0, -1.0], (20, 60)), kernel)
        random = weights @ np.stack([direction(features, halves((20, 60), rng), kernel) for _ in range(20)]).T
        z = np.abs(scores_of(weights @ vector, random))
        named += (z >= alone).mean() / draws
        anything += (z >= threshold_of(random)).any() / draws
    print(f"{name}: significant for one class {named:.1%}, for any of {len(z)} {anything:.1%}, of {draws} draws")
    assert named <= 0.1
    assert anything <= 0.1
