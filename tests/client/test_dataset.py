import csv

import numpy as np
import pytest
from PIL import Image

from gradserve.datasets import Unreadable, open_dataset

from .conftest import jpeg

RED = Image.new("RGB", (8, 6), (200, 0, 0))
BLUE = Image.new("RGB", (6, 8), (0, 0, 200))


@pytest.fixture
def folders(tmp_path):
    """Two classes; a deeper folder, a note and a hidden file, and a picture cut short."""
    for name in ("tabby_cat/a.png", "tabby_cat/more/b.png", "espresso/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (RED if "cat" in name else BLUE).save(tmp_path / name)
    (tmp_path / "espresso/cut.jpg").write_bytes(jpeg(BLUE)[:300])
    (tmp_path / "espresso/notes.txt").write_text("bitter")
    (tmp_path / "espresso/._c.png").write_text("left by a Mac")
    return tmp_path


def test_class_folders(folders):
    found = open_dataset(folders)
    assert found.classes == ("espresso", "tabby_cat")
    assert [(each.id, each.label, each.class_name) for each in found] == [
        ("espresso/c.png", 0, "espresso"),
        ("espresso/cut.jpg", 0, "espresso"),
        ("tabby_cat/a.png", 1, "tabby_cat"),
        ("tabby_cat/more/b.png", 1, "tabby_cat"),
    ]
    assert found[0].image == folders / "espresso/c.png"


def test_unreadable_pictures_come_apart(folders):
    decoded = list(open_dataset(folders).decoded())
    assert [example.id for example, pixels in decoded if isinstance(pixels, Unreadable)] == ["espresso/cut.jpg"]
    pixels = {example.id: pixels for example, pixels in decoded}
    assert pixels["tabby_cat/a.png"].shape == (6, 8, 3)
    assert pixels["espresso/c.png"][0, 0].tolist() == [0, 0, 200]
    assert "truncated" in pixels["espresso/cut.jpg"].reason.lower()


def test_labels_as_a_model_numbers_them(folders):
    found = open_dataset(folders).labelled_for(["goldfish", "Tabby cat", "espresso"])
    assert [each.label for each in found] == [2, 2, 1, 1]
    assert found[2].class_name == "Tabby cat"


def test_folders_that_the_model_does_not_know(folders):
    with pytest.raises(ValueError, match=r"no class 'tabby_cat'; nearest: tabby$"):
        open_dataset(folders).labelled_for(["espresso", "tabby", "dog"])
    by_order = open_dataset(folders).labelled_for(["n01", "n02"])
    assert [each.label for each in by_order] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="no class 'espresso'"):
        open_dataset(folders).labelled_for(["n01", "n02"], by_order=False)


def test_folders_named_by_numbers(tmp_path):
    for name in ("3", "10"):
        (tmp_path / name).mkdir()
        RED.save(tmp_path / name / "a.png")
    found = open_dataset(tmp_path).labelled_for([f"class {i}" for i in range(11)])
    assert {each.id: each.label for each in found} == {"10/a.png": 10, "3/a.png": 3}


def table(folder, rows):
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_of_labels(tmp_path):
    RED.save(tmp_path / "a.png")
    table(
        tmp_path, [{"file": "a.png", "class_index": 1, "class_name": "crane"}, {"file": "gone.png", "class_index": 0}]
    )
    found = open_dataset(tmp_path)
    assert [(each.id, each.label) for each in found] == [("a.png", 1), ("gone.png", 0)]
    assert [each.label for each in found.labelled_for(["crane", "crane"])] == [1, 0]
    assert found[0].pixels().shape == (6, 8, 3)
    with pytest.raises(Unreadable, match=r"gone\.png: there is no such file"):
        found[1].pixels()


def test_a_table_of_names(tmp_path):
    RED.save(tmp_path / "a.png")
    table(tmp_path, [{"filename": "a.png", "label": "goldfish"}])
    assert [each.label for each in open_dataset(tmp_path).labelled_for(["dog", "goldfish"])] == [1]


@pytest.mark.parametrize(
    "row", [{"file": "", "label": "1"}, {"file": "a.png", "class_index": "one"}, {"file": "a.png"}]
)
def test_a_table_with_a_bad_line(tmp_path, row):
    table(tmp_path, [row])
    with pytest.raises(ValueError, match=r"labels\.csv, line 2"):
        open_dataset(tmp_path)


def test_pictures_without_labels(tmp_path):
    RED.save(tmp_path / "a.png")
    found = open_dataset(tmp_path)
    assert not found.labelled
    with pytest.raises(ValueError, match="no labels"):
        found.labelled_for(["dog"])


def test_npz_of_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=[0, 1, 1, 0, 2], classes=["cat", "dog"], names=list("vwxyz"))
    found = open_dataset(tmp_path / "a.npz")
    assert [(each.id, each.label, each.class_name) for each in found[1:5:3]] == [("w", 1, "dog"), ("z", 2, "")]
    assert np.array_equal(found[3].pixels(), pixels[3])
    with pytest.raises(ValueError, match="z has the label 2, but the model has 2 classes"):
        found.labelled_for(["cat", "dog"])
    assert [each.label for each in found.labelled_for(["cat", "b", "c"])] == [0, 1, 1, 0, 2]
    assert [each.label for each in found.labelled_for(["class 0", "class 1", "class 2"])] == [0, 1, 1, 0, 2]
    with pytest.raises(ValueError, match="no class"):
        found.labelled_for(["goldfish", "tench", "shark"])


def test_npz_of_files(tmp_path):
    files = [jpeg(RED), b"nothing", jpeg(BLUE)]
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(tmp_path / "a.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=[1, 0, 1])
    found = open_dataset(tmp_path / "a.npz")
    assert found[2].image == files[2]
    assert [isinstance(pixels, Unreadable) for _, pixels in found.decoded()] == [False, True, False]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"labels": [1]}, "neither images nor jpeg"),
        ({"images": np.zeros((2, 4, 4, 3))}, "uint8"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [1]}, "2 whole numbers"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "labels": [-1]}, "start at 0"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "holds no pictures"),
    ],
)
def test_npz_that_makes_no_sense(tmp_path, arrays, complaint):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=complaint):
        open_dataset(tmp_path / "a.npz")


def test_places_without_pictures(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match="holds no pictures"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(ValueError, match="not an npz file"):
        open_dataset(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        open_dataset(tmp_path / "none")


def test_a_random_part_is_the_same_by_seed(folders):
    found = open_dataset(folders)
    assert found.take(None) is found
    part = found.take(2, seed=3)
    assert len(part) == 2
    assert part.examples == found.take(2, seed=3).examples
    assert len({found.take(2, seed=seed).examples for seed in range(10)}) > 1


def test_damaged_pictures_are_told_from_odd_ones(data):
    with (data / "odd-images/expected.csv").open() as lines:
        expected = {row["file"]: row["should_decode"] for row in csv.DictReader(lines)}
    found = open_dataset(data / "odd-images")
    for example, pixels in found.decoded():
        if expected[example.id] != "either":
            assert isinstance(pixels, Unreadable) == (expected[example.id] == "no"), example.id


def test_the_real_sets(data):
    photos = open_dataset(data / "images")
    assert len(photos) == 48
    assert photos[0].label == 1
    assert photos[0].class_name == "goldfish"
    train = open_dataset(data / "cifar10-train-jpeg.npz")
    assert (len(train), len(train.classes)) == (50_000, 10)
    assert train[49_999].pixels().shape == (32, 32, 3)
