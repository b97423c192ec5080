"""What a name that is unknown is answered with: names that contain it first, else those spelt alike."""

from types import SimpleNamespace
from typing import Any

import pytest

from gradserve_server.api import errors
from gradserve_server.api.arguments.targets import class_named, known_layer
from gradserve_server.api.errors import Violations, hints, near

CLASSES = [
    *("tench", "goldfish", "toucan", "tabby", "tiger cat", "Persian cat", "Egyptian cat", "polecat", "catamaran"),
    *("coat", "lab coat", "hat", "car", "house finch", "greenhouse", "mouse"),
]
LAYERS = [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("cat", CLASSES, "tiger cat, Persian cat, Egyptian cat, catamaran, polecat"),
        ("CAT", CLASSES, "tiger cat, Persian cat, Egyptian cat, catamaran, polecat"),
        ("house", CLASSES, "house finch, greenhouse"),
        ("goldfihs", CLASSES, "goldfish"),
        ("tabby cat", CLASSES, "tabby, lab coat, tiger cat"),
        ("layer4", LAYERS, "layer4.0.conv1, layer4.0.conv2, layer4.1.conv1, layer4.1.conv2"),
        ("conv2", LAYERS, "layer1.0.conv2, layer1.1.conv2, layer2.0.conv2, layer2.1.conv2, layer3.0.conv2"),
        ("layer4.1.conv3", LAYERS, "layer4.1.conv2, layer4.1.conv1, layer4.0.conv2"),
        ("c++ (", ["c++ (x)", "other"], "c++ (x)"),
    ],
)
def test_names_that_contain_it_come_first(name: str, known: list[str], hint: str) -> None:
    assert near(name, known) == f"nearest: {hint}"


@pytest.mark.parametrize("name", ["", "  ", "q"])
def test_what_every_name_might_contain_finds_none(name: str) -> None:
    assert near(name, CLASSES) == f"there are {len(CLASSES)}: {', '.join(CLASSES[:6])}, ..."


def test_hints_stay_short() -> None:
    known = [f"cat {'x' * 400} {i}" for i in range(20)]
    assert len(near("cat", known).encode()) <= errors.MAX_NEAREST_BYTES + len("nearest: ")


def test_classes_and_layers_alike() -> None:
    layers = [SimpleNamespace(name=name) for name in LAYERS]
    card: Any = SimpleNamespace(name="net", classes=CLASSES, layers=layers, folded={}, listed=str, layer=lambda _: None)
    violations = Violations()
    assert class_named("cat", card, "targets[0]", violations) is None
    assert known_layer("layer3", card, "layer", violations) is None
    assert violations.invalid == [
        (
            "targets[0].class_name",
            "net has no class 'cat'; nearest: tiger cat, Persian cat, Egyptian cat, catamaran, polecat",
        ),
        (
            "layer",
            "net has no layer 'layer3'; nearest: layer3.0.conv1, layer3.0.conv2, layer3.1.conv1, layer3.1.conv2",
        ),
    ]


def test_hints_are_looked_for_a_few_times_only() -> None:
    with hints(2):
        found = [near(f"cat{i}", CLASSES) for i in range(4)]
    assert all("nearest: " in each for each in found[:2])
    assert found[2:] == [f"there are {len(CLASSES)}"] * 2
    assert "nearest: " in near("cat9", CLASSES)
