"""Networks of Hugging Face from folders that save_pretrained wrote: their own pipeline, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_pictures import PHOTOS, eight_bit_resizing, logits_of_photo  # noqa: F401  a fixture
from torchvision.transforms.v2.functional import _geometry
from zoo import CPU

from gradserve_server.models.catalogue import ModelSpec, read_catalogue
from gradserve_server.models.faults import faults_of
from gradserve_server.models.hubs import faults, hf_networks
from gradserve_server.models.hubs.preset import resizes_as_usual
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare

transformers = pytest.importorskip("transformers")
LABELS = {0: "cat", 1: "dog", 2: "cow"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16}


def vit(**facts: Any) -> Any:
    given = {"image_size": 64, "id2label": LABELS} | facts
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **given))


def resnet() -> Any:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, id2label=LABELS))


def swin() -> Any:
    sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "image_size": 64, "window_size": 4}
    return transformers.SwinForImageClassification(transformers.SwinConfig(**sizes, id2label=LABELS))


def sides(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


PROCESSORS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "resnet, cropped by a percentage": (resnet, "ConvNextImageProcessor", {"size": {"shortest_edge": 64}}),
    "resnet, stretched from 384 on": (resnet, "ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "vit, stretched": (vit, "ViTImageProcessor", {"size": sides(64)}),
    "vit, bicubic": (vit, "ViTImageProcessor", {"size": sides(64), "resample": 3}),
    "vit, nearest": (vit, "ViTImageProcessor", {"size": sides(64), "resample": 0}),
    "vit, without normalising": (vit, "ViTImageProcessor", {"size": sides(64), "do_normalize": False}),
    "vit, 0 to 255": (vit, "ViTImageProcessor", {"size": sides(64), "do_rescale": False, "do_normalize": False}),
    "vit, rescaled otherwise": (vit, "ViTImageProcessor", {"size": sides(64), "rescale_factor": 1 / 127.5}),
    "vit, rescaled to -1 to 1": (
        vit,
        "EfficientNetImageProcessor",
        {"size": sides(64), "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
    ),
    "vit, cropped": (vit, "BitImageProcessor", {"size": {"shortest_edge": 71}, "crop_size": sides(64)}),
    "vit, stretched and cropped": (vit, "DeiTImageProcessor", {"size": sides(73), "crop_size": sides(64)}),
    "vit, levit": (vit, "LevitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": sides(64)}),
    "swin": (swin, "ViTImageProcessor", {"size": sides(64)}),
}


def saved(folder: Path, network: Any, processor: str = "ViTImageProcessor", **settings: Any) -> Path:
    network.save_pretrained(folder)
    getattr(transformers, processor)(**{"size": sides(64), **settings}).save_pretrained(folder)
    return folder


def spec(folder: Path, **facts: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "builder": f"hf:{folder}", "precisions": ["exact"], **facts})


@pytest.mark.usefixtures("eight_bit_resizing")
@pytest.mark.parametrize("case", PROCESSORS)
def test_logits_are_those_of_transformers_own_pipeline(case: str, tmp_path: Path) -> None:
    make, kind, settings = PROCESSORS[case]
    torch.manual_seed(1)
    network = make().eval()
    folder = saved(tmp_path, network, kind, **settings)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = prepare(spec(folder), CPU)
    assert model.card.interpolation.startswith("torch_") == (settings.get("resample") != 0)
    assert model.card.classes == ("cat", "dog", "cow")
    assert model.card.builder == f"hf:{folder.name}"
    assert model.card.notes == ()
    for photo in PHOTOS:
        with torch.no_grad():
            right = network(**processor(images=photo, return_tensors="pt")).logits[0]
        assert (logits_of_photo(model, photo) - right).abs().max() < 1e-5 * max(1, float(right.abs().max()))


def test_processors_whose_torch_resizes_in_floats_are_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, vit())
    for eight_bits in (True, False):
        monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda _, native=eight_bits: native)
        assert resizes_as_usual("torch_bilinear") is eight_bits
        assert load(spec(folder)).interpolation == "torch_bilinear"


def test_a_processor_without_a_backend_of_torch_resizes_with_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, vit())
    made = hf_networks._processor
    monkeypatch.setattr(hf_networks, "_processor", lambda folder, backend=None: made(folder, "pil"))
    assert load(spec(folder)).interpolation == "bilinear"


def test_a_backend_that_does_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, vit())
    made = hf_networks._processor

    def wider(folder: Path, backend: str | None = None) -> Any:
        processor = made(folder, backend)
        if backend is None:
            processor.size = {"height": 64, "width": 72}
        return processor

    monkeypatch.setattr(hf_networks, "_processor", wider)
    with pytest.raises(LoadError, match=r"ViTImageProcessor.* does what this server does not"):
        load(spec(folder))


def test_one_channel(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit(num_channels=1), image_mean=[0.3], image_std=[0.2])
    with pytest.raises(LoadError, match="it takes 1 channels, and channels is 3; write channels = 1"):
        load(spec(folder))
    model = prepare(spec(folder, channels=1), CPU)
    assert (model.card.mean, model.card.std, model.card.channels) == ((0.3,), (0.2,), 1)


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit())
    first, same, other = (load(spec(folder, weights="random", seed=seed)).digest for seed in (1, 1, 2))
    assert first == same != other


def test_the_entry_decides_where_it_says_something(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit(), resample=2)
    source = load(spec(folder, interpolation="bicubic", mean=[0.1, 0.2, 0.3], labels=["x", "y", "z"]))
    assert (source.interpolation, source.mean, source.std) == ("bicubic", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert source.labels == ("x", "y", "z")
    with pytest.raises(LoadError, match="its entry has 2 labels, but the network has 3 classes"):
        prepare(spec(folder, labels=["x", "y"]), CPU)


ALL = {"height": 64, "width": 64, "resize": 64, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
ODD_PROCESSORS = {
    "ViTImageProcessor does what this server does not: it leaves pictures at their own size": (
        "ViTImageProcessor",
        {"do_resize": False},
    ),
    "MobileViTImageProcessor does what this server does not: do_flip_channel_order": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 71}, "crop_size": sides(64)},
    ),
    "BitImageProcessor does what this server does not": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 64, "longest_edge": 128}, "crop_size": sides(64)},
    ),
    "preprocessing pads pictures": ("ViTImageProcessor", {"size": sides(32), "do_pad": True, "pad_size": sides(64)}),
}


@pytest.mark.parametrize("text", ODD_PROCESSORS)
def test_what_this_server_does_not_do_is_refused(text: str, tmp_path: Path) -> None:
    kind, settings = ODD_PROCESSORS[text]
    folder = saved(tmp_path, vit(), kind, **settings)
    with pytest.raises(LoadError, match=f"{text}.*; give height, width, resize, interpolation, mean and std"):
        load(spec(folder))
    assert load(spec(folder, **ALL)).resize == (64, 64, False, False)


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    with pytest.raises(
        LoadError, match=r"has no preprocessor_config\.json, so that its preprocessing is not known; give"
    ):
        load(spec(tmp_path))


def pickled_only(folder: Path) -> None:
    torch.save(vit().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_a_head(folder: Path) -> None:
    transformers.ViTModel(vit().config).save_pretrained(folder)


def with_code_of_its_own(folder: Path) -> None:
    code = {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForImageClassification": "mine.Net"},
    }
    (folder / "config.json").write_text(json.dumps(code))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def of_timm(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 3}))


def of_timms_wrapper(folder: Path) -> None:
    facts = {"architecture": "resnet10t", "model_args": {"checkpoint_path": "w.pth"}, "model_type": "timm_wrapper"}
    (folder / "config.json").write_text(json.dumps(facts))


def with_a_kernel(folder: Path, key: str = "_attn_implementation", value: Any = "someone/kernel") -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, key: value}))


def with_a_kernel_of_a_part(folder: Path) -> None:
    with_a_kernel(folder, "vision_config", {"attn_implementation": {"": "someone/kernel"}})


def of_text(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def cut_off(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def a_part_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def damaged_config(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])


def config_of_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def config_of_bytes(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def odd_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": "many"}))


def damaged_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{")


FOLDERS = {
    a_part_is_missing: "has no model-00002-of-00002.safetensors, which its model.safetensors.index.json lists; copy",
    damaged_config: r"config.json in .* is cut off or damaged \(.*\); copy or download it again",
    config_of_a_list: r"config.json in .* has no \{...\}, names with their values; copy it again",
    config_of_bytes: r"config.json in .* is cut off or damaged \(.*\); copy or download it again",
    odd_config: r"transformers cannot read config.json in .* \(.*\); copy or download it again",
    damaged_processor: r"preprocessor_config.json in .* is cut off or damaged \(.*\); copy or download it again",
    pickled_only: "has its weights as pytorch_model.bin alone; only safetensors files are loaded",
    without_a_head: r"no weights that fit classifier.bias, classifier.weight, which would be random numbers",
    with_code_of_its_own: "it needs Python code of its repository, which is never run; write a builder of your own",
    of_timm: 'is a network of timm; write builder = "timm:resnet18" and weights = ".*model.safetensors"',
    of_timms_wrapper: 'is a network of timm; write builder = "timm:resnet10t" and weights = ".*model.safetensors"',
    with_a_kernel: "names someone/kernel of the hub for its attention, which is code, and is never fetched",
    with_a_kernel_of_a_part: "names someone/kernel of the hub for its attention, which is code, and is never fetched",
    of_text: "transformers has no image classification for networks of the kind bert",
    cut_off: "a file of weights in .* is cut off or damaged; copy it again",
}


@pytest.mark.parametrize("change", FOLDERS, ids=lambda change: change.__name__)
def test_folders_that_cannot_be_served(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = saved(tmp_path, vit())
    change(folder)
    with pytest.raises(LoadError, match=FOLDERS[change]):
        load(spec(folder))
    assert not (folder / "ran").exists()


def test_a_revision_is_not_ignored_for_a_folder_beside_the_file(tmp_path: Path) -> None:
    table = tmp_path / "m.toml"
    table.write_text('[models.m]\nbuilder = "hf:owner/net"\nrevision = "abc"\n')
    assert read_catalogue(table)[0].builder == "hf:owner/net"
    (tmp_path / "owner/net").mkdir(parents=True)
    text = (
        r"m.toml, \[models.m\]: revision is given, but the folder owner/net is beside the file; write hf:./owner/net "
    )
    with pytest.raises(ValueError, match=f"{text}without revision, or move it"):
        read_catalogue(table)


def test_names_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "my-vit", vit())
    shutil.copytree(tmp_path / "my-vit", tmp_path / "owner/net")
    (tmp_path / "empty").mkdir()
    builders = {
        "hf:./my-vti": f"there is no folder {tmp_path}/my-vti; nearest: my-vit; correct builder",
        "hf:my-vit": "",
        "hf:./owner/net": "",
        "hf:owner/net": "",
        "hf:./empty": f"{tmp_path}/empty has no config.json",
        "hf:owner/other": "revision is missing: what owner/other is on the hub may change; give revision",
        "hf:": "hf: needs a name or a folder",
    }
    tables = [f'[models.m{i}]\nbuilder = "{builder}"\n' for i, builder in enumerate(builders)]
    (tmp_path / "m.toml").write_text("".join(tables))
    found = faults_of(read_catalogue(tmp_path / "m.toml"))
    for i, text in enumerate(builders.values()):
        assert found.get(f"m{i}", "").startswith(text)
        assert bool(text) == (f"m{i}" in found)
    monkeypatch.setattr(faults, "find_spec", lambda name: None)
    assert set(faults_of(read_catalogue(tmp_path / "m.toml")).values()) == {faults.NO_TRANSFORMERS}
