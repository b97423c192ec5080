"""Indexes of pictures: equal to brute force, gone on with after a kill, refused when damaged or of something else."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from PIL import Image

from gradserve_server.methods.indexes import writer
from gradserve_server.methods.indexes.folder import IndexFault
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.pictures.boxes import boxes
from gradserve_server.methods.pictures.index import PictureIndex, Reach
from gradserve_server.methods.pictures.indexing.fields import reach_of
from gradserve_server.methods.pictures.indexing.plan import MAX_DEFAULT_LAYERS, default_layers, layers_of
from gradserve_server.methods.pictures.indexing.selection import MAXIMUM, select, spectrum_places
from gradserve_server.methods.pictures.serving import check, with_pictures
from gradserve_server.models.preparation import prepare

from . import sets

NETWORKS = {  # Maps, tokens, maps with channels last, and vectors.
    "trained-resnet20": sets.RESNET20,
    "vit_b_32": ("encoder.layers.encoder_layer_3", "heads"),
    "swin_t": ("features.1", "features.5"),
    "alexnet": ("features.2", "classifier.4"),
}
# Side and stride of the receptive field; one that is larger than 64 pixels covers all 32 from wherever it is looked at.
FIELDS = {
    "bn1": (3, 1),
    "layer1.0": (7, 1),
    "layer2.1": (29, 2),
    "layer3.1": (65, 4),
    "layer3.2": (81, 4),
    "linear": (99, 1),
}

MOST_MEMORY_GROWTH = 4 << 20  # Bytes between 500 pictures and 5000; they differ by about 1 MiB.
# The C library's own choice of what it keeps of freed memory hangs on the order of events.
GIVES_BACK_AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
ROOT = Path(__file__).resolve().parents[3]


class Killed(Exception):
    """As a SIGKILL would."""


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "whole"
    sets.built(zoo.prepared("trained-resnet20"), sets.cifar(data, 300), out, sets.RESNET20)
    return out


def examples_for(name: str, data: Path) -> sets.ArrayExamples:
    card = zoo.prepared(name).card
    return sets.cifar(data, 300) if name == "trained-resnet20" else sets.noise(40, card.height, card.width)


@pytest.mark.parametrize("name", NETWORKS)
def test_exemplars_and_spectrum_are_those_of_brute_force(name: str, data: Path, tmp_path: Path) -> None:
    model, examples = zoo.prepared(name), examples_for(name, data)
    index = sets.built(model, examples, tmp_path / "it", NETWORKS[name])
    batch = sets.builder(model, examples).batch
    ties = 0
    for i, layer in enumerate(index.manifest.layers):
        acts = sets.activations(model, examples, layer.name, batch)
        assert np.allclose(index.features(i), acts.mean(2, dtype=np.float64), rtol=1e-5, atol=1e-5)
        for channel in range(layer.channels):
            pictures, values, places = sets.strongest(acts, channel)
            for table, at in (
                (index.exemplars(i), slice(0, 9)),
                (index.spectrum(i), spectrum_places(len(examples), 9)),
            ):
                row = table[channel]
                assert row["picture"].tolist() == pictures[at].tolist()
                assert row["value"].tolist() == values[at].tolist()
                assert (row["y"].astype(int) * max(1, layer.width) + row["x"]).tolist() == places[at].tolist()
            ties += int((np.diff(values[:10]) == 0).any())
    assert ties


def test_values_are_those_of_the_untouched_network(data: Path, whole: Path) -> None:
    index, examples = PictureIndex(whole), sets.cifar(data, 300)
    images = torch.from_numpy(examples.images(range(300))).permute(0, 3, 1, 2).float() / 255
    network, kept = zoo.unmodified("trained-resnet20"), {}
    for name in sets.RESNET20:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: kept.update({name: out.clone()})
        )
    network(zoo.normalised(images))
    for i, layer in enumerate(index.manifest.layers):
        maxima = sets.channels_first(kept[layer.name], layer_of(layer.name)).amax(2).numpy()
        table = index.exemplars(i)
        for channel in range(layer.channels):
            truth = maxima[table[channel]["picture"], channel]
            assert np.allclose(table[channel]["value"], truth, rtol=1e-4, atol=1e-4)
            assert truth.min() >= np.sort(maxima[:, channel])[-9] - 1e-4


def layer_of(name: str) -> object:
    return zoo.prepared("trained-resnet20").card.layer(name)


@pytest.mark.parametrize(("phase", "at"), [("pictures", 200), ("layers", 3), ("patches", 5)])
def test_a_killed_build_goes_on_to_the_same_files(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, at: int
) -> None:
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)
    model, examples, out = zoo.prepared("trained-resnet20"), sets.cifar(data, 300), tmp_path / "it"

    def killing(what: str, done: int, _: int) -> None:
        if what == phase and done >= at:
            raise Killed

    with pytest.raises(Killed):
        sets.builder(model, examples, sets.RESNET20, killing).run(out)
    assert not out.exists()
    seen: list[tuple[str, int]] = []
    sets.builder(model, examples, sets.RESNET20, lambda what, done, _: seen.append((what, done))).run(out)
    assert seen[0] == ("pictures", 256 if phase == "pictures" else 300)
    assert PictureIndex(out).manifest == PictureIndex(whole).manifest  # It has the digests of all other files.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it"]
    assert not list(out.glob("maxima*"))


def test_another_plan_begins_anew(data: Path, tmp_path: Path) -> None:
    model, examples, seen = zoo.prepared("trained-resnet20"), sets.cifar(data, 300), []

    def killing(what: str, done: int, _: int) -> None:
        if what == "layers":
            raise Killed

    with pytest.raises(Killed):
        sets.builder(model, examples, ["layer3"], killing).run(tmp_path / "it")
    sets.builder(model, examples, ["layer3"], lambda *facts: seen.append(facts), top=4).run(tmp_path / "it")
    assert seen[0] == ("pictures", 0, 300)
    assert PictureIndex(tmp_path / "it").exemplars(0).shape == (64, 4)


def test_patches_are_what_the_units_see(data: Path, whole: Path) -> None:
    """A patch has the pixels of the receptive field, as arithmetic has it, cut off at the border."""
    index, examples = PictureIndex(whole), sets.cifar(data, 300)
    for i, layer in enumerate(index.manifest.layers):
        side, stride = FIELDS[layer.name]
        begins = -(side // 2)  # Padded by half a kernel, unit (0, 0) of every layer is centred on pixel (0, 0).
        expected = Reach(height=side, width=side, stride_y=stride, stride_x=stride, offset_y=begins, offset_x=begins)
        assert layer.field == (expected if side < 2 * 32 else None)
        for table in (index.exemplars(i), index.spectrum(i)):
            for patch in table.ravel()[:: max(1, table.size // 40)]:
                y, x = int(patch["y"]), int(patch["x"])
                lines = [range(begins + stride * at, begins + stride * at + side) for at in (y, x)]
                rows, columns = ([k for k in line if 0 <= k < 32] for line in lines)
                truth = examples.images([int(patch["picture"])])[0][rows][:, columns]
                picture = Image.open(io.BytesIO(index.patch(i, int(patch["patch"])))).convert("RGB")
                assert picture.size == (len(columns), len(rows))
                if max(picture.size) <= 16:  # Larger ones are JPEG.
                    assert np.array_equal(np.asarray(picture), truth)
                else:
                    assert np.abs(np.asarray(picture).astype(float) - truth).mean() < 20


def test_a_field_that_fits_twice_the_input_but_for_its_neighbours_is_told() -> None:
    """On 56 pixels that of layer3.0 has four before it and three behind, which is less than its stride."""
    spec = zoo.SPECS["trained-resnet20"].model_copy(update={"height": 28, "width": 28})
    model = prepare(spec, torch.device("cpu"))
    layers = {name: model.card.layer(name) for name in ("layer3.0", "layer3.1")}
    expected = Reach(height=49, width=49, stride_y=4, stride_x=4, offset_y=-24, offset_x=-24)
    assert [reach_of(model, layer) for layer in layers.values()] == [expected, None]


def test_each_patch_is_kept_once(whole: Path) -> None:
    index = PictureIndex(whole)
    for i in range(len(index.manifest.layers)):
        both = np.concatenate([index.exemplars(i).ravel(), index.spectrum(i).ravel()])
        field = index.manifest.layers[i].field
        keys = np.column_stack([both["picture"].astype(int), boxes(field, both["y"], both["x"], (32, 32))])
        assert len(np.unique(keys, axis=0)) == len(np.unique(both["patch"])) == both["patch"].max() + 1


def test_boxes_by_hand() -> None:
    field = Reach(height=7, width=5, stride_y=2, stride_x=4, offset_y=-3, offset_x=0)
    y, x = np.array([0, 1, 5, 90], np.uint16), np.array([0, 3, 4, 1], np.uint16)
    expected = [[0, 0, 4, 5], [0, 12, 6, 16], [7, 15, 12, 16], [11, 4, 12, 9]]
    assert boxes(field, y, x, (12, 16)).tolist() == expected
    assert boxes(None, y, x, (12, 16)).tolist() == [[0, 0, 12, 16]] * 4


def test_the_selection_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is room for one channel at a time, and where batches do not come out even."""
    rng = np.random.default_rng(0)
    maxima = np.zeros((50, 6), MAXIMUM)
    maxima["value"], maxima["y"] = rng.integers(0, 5, (50, 6)), rng.integers(0, 9, (50, 6))
    batches = np.concatenate([maxima[start : start + 8].T.ravel() for start in range(0, 50, 8)])
    places = (np.arange(4), spectrum_places(50, 3))
    assert places[1].tolist() == [0, 24, 49]
    tables = []
    for budget in (1, 1 << 20):
        monkeypatch.setattr("gradserve_server.methods.pictures.indexing.selection.BUDGET", budget)
        parts = list(select(batches, 50, 6, 8, places))
        assert len(parts) == (6 if budget == 1 else 1)
        tables.append([np.concatenate(each) for each in zip(*parts, strict=True)])
    for first, second in zip(*tables, strict=True):
        assert np.array_equal(first, second)
    for channel in range(6):
        order = sorted(range(50), key=lambda i: (-maxima["value"][i, channel], i))
        assert tables[0][0][channel]["picture"].tolist() == order[:4]
        assert tables[0][1][channel]["picture"].tolist() == [order[i] for i in places[1]]


MEASURE = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
import zoo
from methods.pictures import sets

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

model, out, count = zoo.prepared("trained-resnet20"), Path(sys.argv[2]), int(sys.argv[3])
pixels = np.load(sys.argv[1], mmap_mode="r")[:count]  # What lies in a file counts as no anonymous memory.
examples = sets.ArrayExamples(pixels, np.arange(count) % 10)
peak, ended = anonymous(), False

def watch():
    global peak
    while not ended:
        peak = max(peak, anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
sets.builder(model, examples, sets.RESNET20).run(out)
ended = True
thread.join()
print(json.dumps(peak))
"""


@pytest.mark.timeout(900)
def test_building_takes_the_same_memory_for_ten_times_the_pictures(data: Path, tmp_path: Path) -> None:
    peaks, file = {}, tmp_path / "pixels.npy"
    np.save(file, sets.cifar(data, 5000).images(range(5000)))
    for count in (500, 5000):
        command = [sys.executable, "-c", MEASURE, str(file), str(tmp_path / str(count)), str(count)]
        folders = [str(ROOT / name) for name in ("client", "server", "tests")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **GIVES_BACK_AT_ONCE}
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
        assert done.returncode == 0, done.stderr
        peaks[count] = int(done.stdout)
    print({count: f"{peak / 2**20:.1f} MiB" for count, peak in peaks.items()})
    assert abs(peaks[5000] - peaks[500]) < MOST_MEMORY_GROWTH


def purities(index: PictureIndex) -> dict[str, float]:
    """The mean purity of each layer's channels: the share of the commonest class among their exemplars."""
    found = {}
    for i, layer in enumerate(index.manifest.layers):
        labels = index.labels[index.exemplars(i)["picture"]]
        found[layer.name] = float(np.mean([np.bincount(row).max() / len(row) for row in labels]))
    return found


def test_the_last_layer_is_purer_than_the_first(data: Path, tmp_path: Path) -> None:
    index = sets.built(zoo.prepared("trained-resnet20"), sets.cifar(data, 5000), tmp_path / "it", sets.RESNET20)
    purity = purities(index)
    print(purity)
    assert purity["layer3.2"] >= 0.65
    assert purity["bn1"] <= 0.5


@pytest.mark.parametrize("name", ["exemplars-0.bin", "features-2.bin", "labels.bin", "patches-1.bin", "names.idx"])
def test_damage_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(IndexFault, match=f"{name} is damaged"):
        PictureIndex(folder).verify()
    (folder / name).write_bytes(content[:-3])
    with pytest.raises(IndexFault, match=f"{name} has {len(content) - 3} bytes and must have {len(content)}"):
        PictureIndex(folder)
    (folder / name).unlink()
    with pytest.raises(IndexFault, match=f"{name} is missing"):
        PictureIndex(folder)


def test_an_index_of_something_else_is_refused(whole: Path, tmp_path: Path) -> None:
    card, manifest = zoo.prepared("trained-resnet20").card, PictureIndex(whole).manifest
    check(manifest, card, whole)
    with pytest.raises(IndexFault, match=r"is of weights .* gradserve index --kind pictures --model trained-resnet20"):
        check(manifest, replace(card, digest="0" * 64), whole)
    with pytest.raises(IndexFault, match="is of other input than"):
        check(manifest, replace(card, mean=(0.0, 0.0, 0.0)), whole)
    with pytest.raises(IndexFault, match=r"is of the layer layer3\.2, which"):
        check(manifest, replace(card, layers=[each for each in card.layers if each.name != "layer3.2"]), whole)
    with pytest.raises(IndexFault, match="cannot be read"):
        Index(whole)
    changed = tmp_path / "other"
    shutil.copytree(whole, changed)
    text = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**text, "version": 99}))
    with pytest.raises(IndexFault, match="has version 99"):
        PictureIndex(changed)


def test_a_model_names_its_index_in_its_card(whole: Path) -> None:
    model = zoo.prepared("trained-resnet20")
    spec = zoo.SPECS["trained-resnet20"].model_copy(update={"pictures": whole})
    card = with_pictures(spec, model).card
    assert (card.pictures, card.pictures_digest) == (str(whole), PictureIndex(whole).digest)
    assert with_pictures(zoo.SPECS["trained-resnet20"], model) is model


def test_layers_that_cannot_be_indexed_are_refused() -> None:
    card = zoo.prepared("trained-resnet20").card
    with pytest.raises(IndexFault, match=r"has no layer 'layer9'; it has bn1, relu, "):
        layers_of(card, ["layer9"])
    with pytest.raises(IndexFault, match="conv1 is folded into bn1; use that name"):
        layers_of(card, ["conv1"])
    odd = replace(card, layers=[replace(each, layout="other") for each in card.layers])
    with pytest.raises(IndexFault, match="is no map or vector of each picture"):
        layers_of(odd, ["layer1.0"])
    assert [layer.name for layer in layers_of(card, ["linear", "layer1.0", "linear"])] == ["layer1.0", "linear"]


@pytest.mark.parametrize("name", [name for name in zoo.SPECS if name != "linear"])
def test_default_layers_are_few_and_on_every_path(name: str) -> None:
    card = zoo.prepared(name).card
    layers = default_layers(card)
    print(name, [layer.name for layer in layers])
    assert 1 <= len(layers) <= MAX_DEFAULT_LAYERS
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        later = [each for each in card.layers if each.number > layer.number and card.reaches(each)]
        assert all(card.reaches(layer, each) for each in later)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = zoo.prepared("squeezenet1_1")
    examples = sets.noise(4, 64, 96)
    broken = replace(model, mean=model.mean * torch.nan)
    with pytest.raises(IndexFault, match=r"the picture 0 gives values in .* that are not finite"):
        sets.builder(broken, examples).run(tmp_path / "it")
