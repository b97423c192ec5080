"""Networks of timm by name: their own pipeline, labels and weights, and what is refused with which words."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_pictures import PHOTOS, logits_of_photo
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from torch import nn
from zoo import CPU

from gradserve_server.models import builders
from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import ModelSpec, read_catalogue
from gradserve_server.models.faults import faults_of
from gradserve_server.models.hubs import faults, timm_networks
from gradserve_server.models.hubs.names import TIMM_FUNCTION, hub_name
from gradserve_server.models.hubs.preset import HubFault
from gradserve_server.models.inputs import Geometry, geometry_of
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.preprocess import place

# The last has BatchNorm and ReLU in one module, timm's BatchNormAct2d.
NETWORKS = ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "regnetx_002"]


def spec(builder: str, **facts: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "builder": builder, "weights": "random", **facts})


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_timms_own_pipeline(name: str) -> None:
    entry = spec(f"timm:{name}", precisions=["exact"])
    source = load(entry)
    transform = create_transform(**resolve_model_data_config(source.network), is_training=False)
    with torch.no_grad():
        theirs = [source.network(transform(photo)[None])[0] for photo in PHOTOS]
    model = prepare_source(entry, source, CPU, torch.float32)
    for photo, right in zip(PHOTOS, theirs, strict=True):
        assert (logits_of_photo(model, photo) - right).abs().max() < 1e-5
    assert model.card.classes[281] == "tabby"
    assert model.card.mean == tuple(source.network.pretrained_cfg["mean"])
    assert not any("not given" in note for note in model.card.notes)


PUBLISHED = [
    {"crop_pct": 0.9, "interpolation": "bilinear"},
    {"crop_pct": 1.0, "interpolation": "bicubic"},
    {"crop_pct": 0.875, "crop_mode": "squash"},
    {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "nearest"},
    {"crop_pct": 0.95, "interpolation": "lanczos", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    {"input_size": (3, 96, 160), "crop_pct": 0.9},
    {"input_size": (3, 160, 96), "crop_pct": 1.0},
    {"input_size": (3, 96, 160), "crop_pct": 0.9, "crop_mode": "squash"},
]


def published(**facts: Any) -> Any:
    """A network as far as its preprocessing goes."""
    usual = {"input_size": (3, 64, 64), "interpolation": "bicubic", "num_classes": 5}
    return SimpleNamespace(num_classes=5, pretrained_cfg=usual | facts)


@pytest.mark.parametrize("facts", PUBLISHED, ids=str)
@pytest.mark.parametrize("size", [(75, 56), (500, 333), (31, 600), (97, 161)], ids=str)
def test_every_kind_of_crop_gives_timms_own_pixels(facts: dict[str, Any], size: tuple[int, int]) -> None:
    network = published(**facts)
    preset = timm_networks._preset(spec("timm:resnet18"), network)
    assert preset.geometry
    assert preset.colours
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8))
    config = resolve_data_config({}, pretrained_cfg=network.pretrained_cfg)
    theirs = create_transform(**config, is_training=False)(picture).permute(1, 2, 0).numpy()
    ours = place(picture, size, preset.geometry[:2], *preset.geometry[2:]).pixels / 255
    assert np.abs((ours - preset.colours.mean) / preset.colours.std - theirs).max() < 1e-5


def test_borders_are_refused_unless_the_entry_says_what_to_do() -> None:
    network = published(crop_mode="border")
    with pytest.raises(HubFault, match="crop_mode = 'border', which this server does not; give height, width, resize"):
        timm_networks._preset(spec("timm:resnet18"), network)
    given = spec("timm:resnet18", height=64, width=64, resize=64, interpolation="bilinear")
    assert timm_networks._preset(given, network).geometry is None


def test_one_channel_needs_a_normalisation_of_its_own() -> None:
    with pytest.raises(LoadError, match="is of 3 channels, and channels = 1; give mean and std, a number each"):
        load(spec("timm:resnet18", channels=1))
    source = load(spec("timm:resnet18", channels=1, mean=[0.4], std=[0.3]))
    assert (source.mean, source.std, source.resize.height) == ((0.4,), (0.3,), 235)
    assert load(spec("timm:vit_tiny_patch16_224", channels=1)).mean == (0.5,)


def test_weights_of_a_file_and_arguments(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = timm.create_model("resnet18", num_classes=4)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    entry = spec("timm:resnet18", weights=str(tmp_path / "w.safetensors"), arguments={"num_classes": 4})
    source = load(entry)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(source.network(images), network.eval()(images))
    assert source.labels == ()
    with pytest.raises(LoadError, match="has 3 labels, but the network has 4 classes; give one for each"):
        prepare_source(
            entry.model_copy(update={"labels": tuple("abc")}),
            source._replace(labels=tuple("abc"), labels_are_usual=False),
            CPU,
            torch.float32,
        )


def test_published_weights_are_read_by_timm_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    network = timm.create_model("resnet18").eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    asked = list[tuple[str, str | None]]()

    def fetched(repository: str, revision: str | None, *_: object) -> Path:
        asked.append((repository, revision))
        return tmp_path

    monkeypatch.setattr(timm_networks, "fetched", fetched)
    source = load(ModelSpec(name="m", builder="timm:resnet18"))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(source.network(images), network(images))
    assert any(
        note.startswith("revision is not given: its weights are those that timm/resnet18") for note in source.notes
    )
    commit = "0123456789" * 4
    assert not load(ModelSpec(name="m", builder="timm:resnet18", revision=commit)).notes
    assert asked == [("timm/resnet18.a1_in1k", None), ("timm/resnet18.a1_in1k", commit)]
    with pytest.raises(LoadError, match="are of 1000 classes, and num_classes = 7 would get a last layer of random"):
        load(ModelSpec(name="m", builder="timm:resnet18", arguments={"num_classes": 7}))


SAFE = {
    None: "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    "other.bin": "other.safetensors",
    "model-00001-of-00018.safetensors": "model-00001-of-00018.safetensors",
}


@pytest.mark.parametrize("name", SAFE)
def test_the_file_is_that_which_timm_would_take(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models._hub import HF_WEIGHTS_NAME, _get_safe_alternatives

    monkeypatch.setattr(timm_networks, "fetched", lambda repository, revision, needed: Path(*needed[0]))
    path, _ = timm_networks._weights(spec("timm:m"), {"hf_hub_id": "a/b", "hf_hub_filename": name})
    assert path.name == SAFE[name]
    assert list(_get_safe_alternatives(name or HF_WEIGHTS_NAME)) in ([SAFE[name]], [])
    with pytest.raises(HubFault, match=r"a/b has its weights as m\.pt; only safetensors files are loaded"):
        timm_networks._weights(spec("timm:m"), {"hf_hub_id": "a/b", "hf_hub_filename": "m.pt"})


def test_timms_function_goes_on_working_and_tells_its_normalisation() -> None:
    assert [hub_name(f"timm:{name}") for name in (TIMM_FUNCTION, "resnet18")] == [None, ("timm", "resnet18")]
    functions = {name for name in dir(timm) if isinstance(getattr(timm, name), type(load))}
    assert TIMM_FUNCTION in functions
    assert not functions & set(timm.list_models())
    entry = ModelSpec(name="m", builder="timm:create_model", arguments={"model_name": "vit_tiny_patch16_224"})
    (note, _) = load(entry).notes
    assert note.startswith("mean and std are not given: ImageNet's are used; timm says mean = [0.5, 0.5, 0.5]")
    assert load(entry.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})).notes[0].startswith("its weights are")


WRONG = {
    "timm:resnet81": "timm has no network 'resnet81'; nearest: resnet",
    "timm:creat_model": "nearest: create_model",
    "timm:models.resnet18": "timm has no network 'models.resnet18'; nearest: ",
    "timm:resnet18.a1_in2k": "timm has no weights 'a1_in2k' of resnet18; nearest: resnet18.a1_in1k",
    "timm:qqqqqqqq": "is written with its module before the colon, such as timm.models:resnet18",
}


@pytest.mark.parametrize("builder", WRONG)
def test_wrong_names(builder: str) -> None:
    with pytest.raises(LoadError, match=re.escape(WRONG[builder])):
        load(spec(builder))


def test_no_name_is_found_before_anything_is_loaded() -> None:
    assert faults_of([spec("timm:")]) == {"m": "timm: needs a name, such as timm:resnet18"}


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "find_spec", lambda name: None)
    assert faults_of([spec("timm:resnet18")]) == {"m": "timm is not installed; run: pip install 'gradserve[timm]'"}


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_arguments_that_choose_weights_are_refused(name: str) -> None:
    with pytest.raises(LoadError, match=f"arguments must not name {name}, which choose weights; write weights = "):
        load(spec("timm:resnet18", arguments={name: "w.pth"}))


def test_networks_without_classes_are_refused() -> None:
    with pytest.raises(LoadError, match="has no classes: it gives features; give weights"):
        load(spec("timm:resnet18", arguments={"num_classes": 0}))


TABLES = {
    'builder = "resnet18"\nrevision = "abc"': "revision is for names of a hub",
    'builder = "hf:./folder"\nrevision = "abc"': "revision is for names of a hub",
    'builder = "timm:resnet18"\nrevision = ""': "revision",
    'builder = "hf:a/b"\narguments = { x = 1 }': "arguments are for timm:NAME and for a builder of your own",
    "resize = 0": r"resize must be a number of pixels from 1 to 4096, or \[height, width\] of such",
    "resize = [1, 2, 3]": "resize must be a number of pixels",
}


@pytest.mark.parametrize("table", TABLES)
def test_wrong_tables(table: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(f"[models.m]\n{table}\n")
    with pytest.raises(ValueError, match=TABLES[table]):
        read_catalogue(tmp_path / "m.toml")


def test_a_size_to_stretch_to_and_one_that_is_too_small() -> None:
    entry = spec("timm:resnet18", height=32, width=48, resize=[40, 50])
    assert load(entry).resize == (40, 50, True, False)
    assert load(spec("timm:resnet18", height=32, width=48)).resize == (32, 48, False, False)
    with pytest.raises(LoadError, match=re.escape("resize is [30, 50], and must be at least height and width, 32x48")):
        load(entry.model_copy(update={"resize": (30, 50)}))


USUAL = Geometry(224, 208, Framing(256, 256, floored=True), "bicubic")
REPEATED: list[dict[str, Any]] = [
    {"height": 224},
    {"height": 224, "width": 208},
    {"resize": 256},
    {"height": 224, "width": 208, "resize": 256, "interpolation": "bicubic"},
]


@pytest.mark.parametrize("facts", REPEATED, ids=str)
def test_a_value_that_repeats_the_usual_one_changes_nothing(facts: dict[str, Any]) -> None:
    assert geometry_of(spec("timm:resnet18", **facts), USUAL) == USUAL
    stretched = USUAL._replace(resize=Framing(300, 310, stretched=True, floored=True))
    if "resize" not in facts:
        assert geometry_of(spec("timm:resnet18", **facts), stretched) == stretched
    assert geometry_of(spec("timm:resnet18", resize=[300, 310]), stretched) == stretched
    assert geometry_of(spec("timm:resnet18", **facts | {"width": 200}), USUAL) != USUAL


class Net(nn.Linear):
    """A network with a builder inside."""

    @classmethod
    def made(cls) -> nn.Module:
        return cls(3, 2)


def test_dotted_names_after_the_colon() -> None:
    assert isinstance(builders.build(spec(f"{__name__}:Net.made")), Net)
    with pytest.raises(builders.BuilderFault, match=f"{__name__}:Net has no function mad; nearest: made"):
        builders.build(spec(f"{__name__}:Net.mad"))
    with pytest.raises(builders.BuilderFault, match=f"{__name__} has no function Nett; nearest: Net"):
        builders.build(spec(f"{__name__}:Nett.made"))
