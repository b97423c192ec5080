"""Project through a real server: CIFAR-10 in the layers of a ResNet-20, and what is wrong with requests."""

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from picture_indexes import RESNET, build, digits_pictures, models_with_pictures
from PIL import Image
from serving import PATIENCE, Refused, Server, Stubs, picture, refused, tensor, values
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import influence_pb2, project_pb2
from gradserve_server.api.errors import RequestError, Violations
from gradserve_server.api.rpcs import project
from gradserve_server.methods.pictures import tsne
from gradserve_server.methods.pictures.index import PictureIndex, PictureLayer
from gradserve_server.methods.pictures.nearest import nearest, voted

LAYERS = ["relu", "layer1.2", "layer2.0", "layer2.2", "layer3.0", "layer3.1", "layer3.2"]
pytestmark = pytest.mark.timeout(1200)  # To index 5000 pictures takes a minute, and more where others compute too.
EXACT = {"precision": pb.PRECISION_EXACT}
NEW = 300  # Pictures that are placed.


class Cifar(NamedTuple):
    """A server with an index of 5000 training pictures, and pictures that are not among these."""

    stubs: Stubs
    index: PictureIndex
    images: np.ndarray
    labels: np.ndarray

    def ask(self, **fields: object) -> project_pb2.ProjectResponse:
        request = project_pb2.ProjectRequest(**{"model": "resnet20", "thumbnails": False, **fields})
        return self.stubs.gradients.Project(request, timeout=PATIENCE)

    def pictures(self, rows: range) -> list[pb.Image]:
        return [tensor(self.images[row]) for row in rows]


@pytest.fixture(scope="module")
def cifar(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cifar]:
    pytest.importorskip("openTSNE")
    folder = tmp_path_factory.mktemp("cifar")
    settings = RESNET.format(weights=data / "cifar10-resnet20.safetensors")
    (folder / "models.toml").write_text(settings)
    words = ("--model", "resnet20", "--config", folder / "models.toml", "--data", data / "cifar10-train-5000.npz")
    build(*words, "--layers", ",".join(LAYERS), "--tsne", "layer3.2", "--out", folder / "index")
    with np.load(data / "cifar10-test-1000.npz") as held_out:
        images, labels = held_out["images"], held_out["labels"]
    config = f'{settings}pictures = "{folder / "index"}"\n[models.digits]\n'
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        yield Cifar(Stubs.of(channel), PictureIndex(folder / "index"), images, labels)
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def digits() -> Iterator[Stubs]:
    with Server(models_with_pictures(), "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


def fails(stubs: Stubs, **fields: object) -> Refused:
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Project(project_pb2.ProjectRequest(**fields), timeout=PATIENCE)
    return refused(caught.value)


def test_classes_separate_more_with_depth(cifar: Cifar) -> None:
    """Over the index's own pictures, on which the network was trained, and over pictures that it has never seen."""
    reply = cifar.ask()
    assert [layer.name for layer in reply.layers] == LAYERS
    own = [layer.accuracy for layer in reply.layers]
    shuffled = [layer.shuffled_accuracy for layer in reply.layers]
    unseen = []
    for layer in LAYERS:
        found = [
            each.label
            for start in range(0, 1000, 500)
            for each in cifar.ask(layer=layer, images=cifar.pictures(range(start, start + 500))).pictures
        ]
        unseen.append(float(np.mean(np.array(found) == cifar.labels)))
    for name, curve in (("own", own), ("unseen", unseen), ("shuffled", shuffled)):
        print(name, *(f"{each:.3f}" for each in curve))
    for curve in (own, unseen):
        assert all(later > before - 0.03 for before, later in pairwise(curve))
        assert curve[-1] >= 0.88
        assert curve[0] < 0.4
    assert all(0.06 < each < 0.14 for each in shuffled)
    assert (reply.separability_neighbours, reply.separability_pictures, reply.total) == (10, 2000, 5000)


def test_neighbours_and_places_are_those_of_the_features(cifar: Cifar) -> None:
    """The features by Embed, the neighbours by scikit-learn, the axes by the index's own singular values."""
    pictures = cifar.pictures(range(8))
    reply = cifar.ask(images=pictures, neighbours=7)
    assert reply.layer == "layer3.2"
    asked = [
        influence_pb2.EmbedRequest(model="resnet20", image=each, layer="layer3.2", options=EXACT) for each in pictures
    ]
    features = np.stack([values(cifar.stubs.gradients.Embed(each).features) for each in asked]).astype(np.float64)
    known = np.array(cifar.index.features(LAYERS.index("layer3.2")), np.float64)
    distances, rows = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(known).kneighbors(features)
    for i, each in enumerate(reply.pictures):
        assert [neighbour.row for neighbour in each.neighbours] == rows[i].tolist()
        assert np.allclose([neighbour.distance for neighbour in each.neighbours], distances[i], rtol=1e-3)
        assert [neighbour.label for neighbour in each.neighbours] == cifar.index.labels[rows[i]].tolist()
        assert each.neighbours[0].label_name == reply.classes[each.neighbours[0].label]
        assert each.agreement == np.mean(cifar.index.labels[rows[i]] == each.label)
    _, sizes, axes = np.linalg.svd(known - known.mean(0), full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    places = (features - known.mean(0)) @ axes[:2].T
    assert np.allclose([(each.x, each.y) for each in reply.pictures], places, atol=1e-3 * np.abs(places).max())
    assert np.allclose(reply.explained, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-4)


def test_new_pictures_land_in_their_class_of_a_tsne(cifar: Cifar) -> None:
    reply = cifar.ask(images=cifar.pictures(range(NEW)), method=project_pb2.PROJECTION_METHOD_TSNE, points=5000)
    places = np.array([(each.x, each.y) for each in reply.pictures])
    points = np.array([(each.x, each.y) for each in reply.points], np.float32)
    labels = np.array([each.label for each in reply.points])
    assert labels.tolist() == cifar.index.labels.tolist()
    classes, _ = voted(labels[nearest(points, places.astype(np.float32), 10)[0]])
    ours = float((classes == cifar.labels[:NEW]).mean())
    sklearn = KNeighborsClassifier(10).fit(points, labels).score(places, cifar.labels[:NEW])
    print(f"of {NEW} new pictures in their class in two dimensions: {ours:.3f}; by scikit-learn {sklearn:.3f}")
    assert ours >= 0.85
    assert abs(ours - sklearn) < 0.02
    assert not reply.explained
    assert not tsne.missing()


def test_the_same_place_in_any_company(cifar: Cifar) -> None:
    method = project_pb2.PROJECTION_METHOD_TSNE
    together = cifar.ask(images=cifar.pictures(range(20)), method=method).pictures[3]
    alone = cifar.ask(images=cifar.pictures(range(3, 4)), method=method).pictures[0]
    scale = np.abs(cifar.index.tsne(LAYERS.index("layer3.2")).points).max()
    assert max(abs(together.x - alone.x), abs(together.y - alone.y)) < 1e-2 * scale


def test_points_and_thumbnails(cifar: Cifar) -> None:
    reply = cifar.ask(points=11, thumbnails=True, images=cifar.pictures(range(1)), neighbours=2)
    assert [each.row for each in reply.points] == [round(i * 499.9) for i in range(11)]
    point = reply.points[-1]
    assert point.name == cifar.index.name(4999)
    assert Image.open(io.BytesIO(point.thumbnail)).size == (32, 32)
    assert Image.open(io.BytesIO(reply.pictures[0].neighbours[1].thumbnail)).size == (32, 32)
    assert not cifar.ask(points=1, thumbnails=False).points[0].thumbnail
    assert not cifar.ask().points
    assert len(cifar.ask(points=10_000).points) == 5000


def test_what_is_wrong_is_told(cifar: Cifar) -> None:
    small = cifar.pictures(range(1))[0]
    many = fails(cifar.stubs, model="resnet20", images=[small] * 10_001)
    assert (many.code, many.violations) == ("INVALID_ARGUMENT", {"images": "must be 1 to 512, were 10001"})
    found = fails(
        cifar.stubs,
        model="resnet20",
        layer="layer9",
        method=9,
        neighbours=101,
        points=10_001,
        preprocess=9,
        images=[{"encoded": b"no picture"}],
    )
    assert found.code == "INVALID_ARGUMENT"
    assert set(found.violations) == {"layer", "method", "neighbours", "points", "preprocess", "images[0]"}
    assert "'layer9' is not in the index of pictures of resnet20, which has relu" in found.violations["layer"]
    assert found.violations["neighbours"] == "must be from 1 to 100, was 101"
    assert found.violations["points"] == "must be from 0 to 10000, was 10001"


def test_a_layer_without_a_tsne(cifar: Cifar) -> None:
    found = fails(cifar.stubs, model="resnet20", layer="relu", method=2)
    assert found.code == "INVALID_ARGUMENT"
    expected = "the index of resnet20 has no t-SNE of relu; it has those of layer3.2; build it with --tsne relu"
    assert expected in found.violations["method"]


def test_pictures_of_several_sizes(digits: Stubs) -> None:
    mixed = [picture(0, 8, 8), picture(1, 8, 16)]
    found = fails(digits, model="small", images=mixed, preprocess=pb.PREPROCESS_AS_IS)
    assert found.code == "INVALID_ARGUMENT"
    assert any(field.startswith("images[1]") for field in found.violations)
    placed = digits.gradients.Project(project_pb2.ProjectRequest(model="digits", images=mixed), timeout=PATIENCE)
    assert len(placed.pictures) == 2, "the model's preprocessing makes them one size"


def test_a_model_without_an_index(digits: Stubs) -> None:
    found = fails(digits, model="small", images=[picture(0, 64, 64)])
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert "gradserve index --kind pictures --model small" in found.text
    found = fails(digits, model="digits", method=project_pb2.PROJECTION_METHOD_TSNE)
    assert "it has none" in found.violations["method"]


def npz(path: Path, labels: list[int] | None) -> Path:
    """Twenty pictures of random colours."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(path, images=pixels, **({} if labels is None else {"labels": np.array(labels)}))
    return path


@pytest.mark.parametrize(
    ("labels", "said"), [([3] * 20, "the pictures are all of one class"), (None, "the pictures have no labels")]
)
def test_without_two_classes_there_is_no_separability(
    labels: list[int] | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("--model", "digits", "--data", npz(tmp_path / "data.npz", labels), "--out", tmp_path / "index")
    assert said in " ".join(capsys.readouterr().err.split())
    config = f'[models.digits]\npictures = "{tmp_path / "index"}"\n'
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        request = project_pb2.ProjectRequest(model="digits", images=[picture(0, 8, 8)], points=20)
        reply = Stubs.of(channel).gradients.Project(request, timeout=PATIENCE)
    assert reply.separability_pictures == 0
    assert not any(layer.HasField("accuracy") or layer.HasField("shuffled_accuracy") for layer in reply.layers)
    assert len(reply.points) == 20
    (placed,) = reply.pictures
    assert len(placed.neighbours) == 10
    assert placed.HasField("label") == (labels is not None)
    assert all(point.HasField("label") == (labels is not None) for point in reply.points)


def test_an_index_of_other_weights_is_refused_at_load(tmp_path: Path) -> None:
    build("--model", "digits", "--data", npz(tmp_path / "data.npz", None), "--out", tmp_path / "index")
    other = '[models.small]\nbuilder = "mobilenet_v2"\nweights = "random"\n'
    config = f'[models.digits]\n{other}pictures = "{tmp_path / "index"}"\n'
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        found = fails(Stubs.of(channel), model="small", images=[picture(0, 8, 8)])
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "MODEL_UNAVAILABLE")
    assert "is of weights" in found.text
    assert "gradserve index --kind pictures --model small" in found.text


def test_without_opentsne_new_pictures_are_refused_and_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index's own pictures need none."""
    layer = PictureLayer(name="conv1", channels=8, height=4, width=4, field=None, tsne=True)
    index: Any = SimpleNamespace(manifest=SimpleNamespace(layers=(layer,)))
    card: Any = SimpleNamespace(name="tiny")
    monkeypatch.setattr(tsne, "missing", lambda: tsne.EXTRA)
    for places in (False, True):
        violations = Violations()
        project._check_method("tsne", layer, index, places, card, violations)
        if not places:
            violations.check()
            continue
        with pytest.raises(RequestError) as caught:
            violations.check()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "pip install 'gradserve-server[tsne]'" in caught.value.text


def test_small_pictures_end_where_the_reply_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    index = PictureIndex(digits_pictures())
    sizes = [len(index.thumbnail(row)) for row in range(3)]
    monkeypatch.setattr(project, "MAX_THUMBNAIL_BYTES", sizes[0] + sizes[1])
    thumbnails = project._Thumbnails(project_pb2.ProjectRequest(), index)
    assert [bool(thumbnails.of(row)) for row in range(3)] == [True, True, False]
    assert thumbnails.left_out == 1
    none = project._Thumbnails(project_pb2.ProjectRequest(thumbnails=False), index)
    assert (none.of(0), none.left_out) == (b"", 0)
