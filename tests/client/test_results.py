"""Results as dictionaries, files of arrays with their provenance, colours and sheets."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import gradserve
from gradserve import Client, cli, colours, images
from gradserve.colours import Colormap

from .fake import FakeServer, ramp

COLORMAPS = get_args(Colormap)


def metadata(path: Path) -> Any:
    with np.load(path) as file:
        return json.loads(str(file["metadata"]))


# Trust


def test_a_map_says_how_far_to_trust_it(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    plain, judged = client.explain(photo, "gradient"), client.explain(photo, "gradient", trust=True)
    assert (plain.trust, plain.to_dict()["trust"]) == (None, None)
    assert judged.trust == gradserve.Trust(0.5, 0.0025, 0.25, "beats_both", judged.trust.sentence)
    assert judged.trust.is_trusted
    assert "beats_both" in repr(judged)
    assert metadata(judged.save(tmp_path / "map.npz"))["trust"]["chance_p"] == 0.0025
    (many,) = client.explain_many([photo], "gradient", curves=True)
    assert many.trust is not None
    assert many.trust.curves == gradserve.Curves((0.0, 0.5, 1.0), (1.0, 0.25, 0.0), 0.5, 0.375)
    assert many.to_dict()["trust"]["curves"]["insertion_area"] == 0.5


# Dictionaries


def test_every_result_is_what_json_takes(client: Client, photo: Image.Image) -> None:
    results: list[Any] = [
        client.predict(photo),
        client.explain(photo, "grad_cam", target=gradserve.Unit("features.0", 3, 1, 2)),
        client.explain(photo, ["gradient", "lrp"], target=[gradserve.Contrast(0, 1)]),
        client.attack(photo, "pgd", maps="grad_cam", perturbation=True),
        client.influence(photo),
        client.suspects(),
        client.exemplars(spectrum=True, values=True),
        client.project([photo], points=2),
        client.embed(photo),
        client.differentiate([photo]),
        client.maximize([0, 1]),
        client.stylize(photo, photo),
        client.model(""),
        client.load_model("digits"),
        *client.maximize_stream(0),
        *client.stylize_stream(photo, photo),
        gradserve.Progress(1, 2, {"style": 0.5}, (b"a picture",)),
    ]
    for result in results:
        found = result.to_dict()
        assert json.loads(json.dumps(found)) == found, type(result)


def test_a_dictionary_says_where_an_answer_comes_from(client: Client, photo: Image.Image) -> None:
    found = client.explain(photo, "smooth_grad", samples=25, target="tabby cat", seed=7).to_dict()
    assert (found["method"], found["parameters"], found["target_name"]) == ("smooth_grad", {"samples": 25}, "tabby cat")
    assert (found["provenance"]["seed"], found["provenance"]["weights_digest"]) == (7, "ab" * 32)
    assert found["region"]["image_width"] == 80
    assert found["map_size"] == [24, 24]
    assert not {"map", "coarse", "image", "served_overlay"} & found.keys()
    explanation, attack = client.explain(photo, "grad_cam"), client.attack(photo, "pgd", perturbation=True)
    assert not {"adversarial", "perturbation", "patch"} & attack.to_dict().keys()
    assert dataclasses.replace(attack, map_before=explanation).to_dict()["map_before"] == explanation.to_dict()
    assert not {"png", "stretched", "snapshots"} & client.maximize(0).to_dict().keys()
    (progress, *_) = client.maximize_stream(0)
    assert progress.to_dict() == {"step": progress.step, "steps": progress.steps, "losses": progress.losses}
    assert client.embed(photo).to_dict()["values"] == [1.0, 2.0]
    batch = client.differentiate([photo, photo]).to_dict()
    assert len(batch["values"]) == 2
    assert not {"gradient", "logits"} & batch.keys()


# Files of arrays


def test_a_map_is_saved_with_its_provenance(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    found = client.explain(photo, "grad_cam")
    path = found.save(tmp_path / "map.npz")
    with np.load(path) as file:
        assert sorted(file) == ["coarse", "map", "metadata"]
        assert np.array_equal(file["map"], ramp(signed=False))
        assert np.array_equal(file["coarse"], np.eye(3))
    assert metadata(path).items() >= found.to_dict().items()
    assert metadata(path)["request"]["methods"] == [{"grad_cam": {}}]
    with np.load(client.explain(photo, "gradient").save(tmp_path / "MAP.NPZ")) as file:
        assert sorted(file) == ["map", "metadata"]


def test_maps_are_saved_together(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    found = client.explain(photo, ["gradient", "integrated_gradients"], target=[0, 1])
    with np.load(found.save(tmp_path / "maps.npz")) as file:
        assert file["maps"].shape == (4, 24, 24)
        assert np.array_equal(file["maps"][2], found[2].map)
    assert [each["method"] for each in metadata(tmp_path / "maps.npz")["explanations"]] == [e.method for e in found]
    assert np.array_equal(np.load(found.save(tmp_path / "maps.npy")), [each.map for each in found])


def test_gradients_and_features_are_saved(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    gradients = client.differentiate([photo, photo])
    with np.load(gradients.save(tmp_path / "gradients.npz")) as file:
        assert sorted(file) == ["gradient", "logits", "metadata", "values"]
        assert np.array_equal(file["gradient"], gradients.gradient)
    features = client.embed(photo)
    with np.load(features.save(str(tmp_path / "features.npz"))) as file:
        assert np.array_equal(file["values"], features.values)
    for result in (gradients, features):
        assert metadata(result.save(tmp_path / "x.npz"))["provenance"] == dataclasses.asdict(result.provenance) | {
            "warnings": []
        }
        with pytest.raises(ValueError, match=r"x\.bin: arrays with their provenance are saved as \.npz"):
            result.save(tmp_path / "x.bin")


# Colours and sheets


@pytest.mark.parametrize("name", COLORMAPS)
def test_colormaps_are_those_of_matplotlib(name: Colormap) -> None:
    """To 14 of 255 levels, since few points are kept of each."""
    matplotlib = pytest.importorskip("matplotlib")
    level = np.linspace(-1 if name == "RdBu_r" else 0, 1, 256)[None]
    ours = colours.coloured(level, signed=name == "RdBu_r", colormap=name).astype(float)
    theirs = 255 * matplotlib.colormaps[name](np.linspace(0, 1, 256))[None, :, :3]
    assert np.abs(ours - theirs).max() < 14


def test_a_map_is_shown_in_the_colours_that_are_named(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    found = client.explain(photo, "gradient")
    pictures = {name: found.heatmap(name).tobytes() for name in COLORMAPS}
    assert len(set(pictures.values())) == len(COLORMAPS)
    assert found.heatmap().tobytes() == pictures["inferno"]
    assert client.explain(photo, "integrated_gradients").heatmap() == images.heatmap(ramp(signed=True), "RdBu_r")
    assert found.overlay(colormap="viridis") != found.overlay()
    with Image.open(found.save(tmp_path / "map.png", colormap="viridis")) as saved:
        assert saved.tobytes() == found.overlay(colormap="viridis").tobytes()


def test_zero_is_white_in_a_diverging_colormap_of_a_map_without_signs() -> None:
    zero, most = colours.coloured(np.array([[0.0, 1.0]]), signed=False, colormap="RdBu_r")[0]
    assert zero.tolist() == [247, 247, 247]
    assert most.tolist() == [103, 0, 31]
    middle = colours.coloured(np.array([[0.0]]), signed=True, colormap="gray")[0, 0]
    assert middle.tolist() == [128, 128, 128]


def test_an_unknown_colormap_names_the_others(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    maps = client.explain(photo, ["gradient"])
    text = "colormap must be one of inferno, magma, plasma, viridis, gray, RdBu_r; not 'jet'"
    one: Any = maps[0]
    for call in (one.heatmap, lambda name: one.overlay(colormap=name), lambda name: maps.sheet(colormap=name)):
        with pytest.raises(ValueError, match=text):
            call("jet")
    with pytest.raises(ValueError, match=text):
        one.save(tmp_path / "map.png", colormap="jet")
    assert not list(tmp_path.glob("map*"))


def test_explanations_stand_on_a_sheet(client: Client, photo: Image.Image, tmp_path: Path) -> None:
    found = client.explain(photo, ["gradient", "grad_cam"], target=[0, 1])
    width, height = found[0].overlay().size
    sheet = found.sheet()
    assert (sheet.width // 2 >= width, sheet.height // 2 >= height) == (True, True)
    assert found.sheet(columns=4).width > 4 * width > sheet.width
    corner = sheet.crop((0, 0, width, height))
    assert corner.tobytes() == found[0].overlay().tobytes()
    with Image.open(found.save(tmp_path / "sheet.png")) as saved:
        assert saved.tobytes() == sheet.tobytes()


def test_the_command_takes_a_colormap_and_saves_arrays(server: FakeServer, photo_path: Path, tmp_path: Path) -> None:
    words = ["explain", str(photo_path), "--server", server.target, "--method", "gradient", "--colormap", "viridis"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--out", str(tmp_path / "v.png"), "--save-map", str(tmp_path / "v.npz")])
    assert not ended.value.code
    with Client(server.target) as client, Image.open(tmp_path / "v.png") as saved:
        want = client.explain(photo_path, "gradient").overlay(colormap="viridis")
        assert saved.convert("RGB").tobytes() == want.tobytes()
    assert metadata(tmp_path / "v.npz")["method"] == "gradient"
