"""Networks of hubs behind a server: predicted, explained and attacked, against their libraries and plain autograd."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from hub_pictures import PHOTOS, eight_bit_resizing, encoded  # noqa: F401  a fixture
from PIL import Image
from safetensors.torch import save_file
from serving import PATIENCE, Server, Stubs, methods, values
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from gradserve.v1 import attack_pb2, explain_pb2, models_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

LABELS = {0: "cat", 1: "dog", 2: "cow"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16}


class Library(NamedTuple):
    """A network, and its library's own way from a photo to its input [1, 3, h, w]."""

    network: nn.Module
    transform: Callable[[Image.Image], Tensor]
    std: Tensor


def of_timm(folder: Path) -> Library:
    torch.manual_seed(5)
    network = timm.create_model("resnet18", num_classes=3).eval()
    save_file(network.state_dict(), folder / "resnet.safetensors")
    config = resolve_model_data_config(network)
    transform = create_transform(**config, is_training=False)
    return Library(network, lambda photo: transform(photo)[None], torch.tensor(config["std"]))


def of_transformers(folder: Path) -> Library:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(6)
    config = transformers.ViTConfig(**SMALL, image_size=64, id2label=LABELS)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder / "vit")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "vit")
    return Library(network, lambda photo: processor(photo, return_tensors="pt")["pixel_values"], torch.full((3,), 0.5))


pytestmark = pytest.mark.usefixtures("eight_bit_resizing")
TABLES = {
    "resnet": '[models.resnet]\nbuilder = "timm:resnet18"\nweights = "{folder}/resnet.safetensors"\n'
    'arguments = {{ num_classes = 3 }}\nlabels = ["cat", "dog", "cow"]\nprecisions = ["exact"]\n',
    "vit": '[models.vit]\nbuilder = "hf:{folder}/vit"\nprecisions = ["exact"]\n',
}
MISSPELT = '[models.misspelt]\nbuilder = "timm:resnet81"\n'


@pytest.fixture(scope="module", params=TABLES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any, Stubs]]:
    name, folder = request.param, tmp_path_factory.mktemp("hub")
    library = of_timm(folder) if name == "resnet" else of_transformers(folder)
    config = TABLES[name].format(folder=folder) + MISSPELT
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        yield name, library, Stubs.of(channel)


def test_predictions_are_those_of_the_library(served: tuple[str, Library, Stubs]) -> None:
    _, library, stubs = served
    for photo in PHOTOS:
        reply = stubs.gradients.Predict(predict_pb2.PredictRequest(image=encoded(photo)), timeout=PATIENCE)
        with torch.no_grad():
            output = library.network(library.transform(photo))
        right = output if isinstance(output, Tensor) else output.logits
        for score in reply.top:
            assert score.logit == pytest.approx(float(right[0, score.class_index]), abs=1e-5)
            assert score.class_name == LABELS[score.class_index]


def test_gradients_are_those_of_autograd(served: tuple[str, Library, Stubs]) -> None:
    _, library, stubs = served
    request = explain_pb2.ExplainRequest(
        image=encoded(PHOTOS[0]),
        methods=methods(gradient={}),
        targets=[pb.Target(class_name="dog")],
        format=explain_pb2.MAP_FORMAT_FLOAT32,
    )
    reply = stubs.gradients.Explain(request, timeout=PATIENCE)
    x = library.transform(PHOTOS[0]).requires_grad_()
    output = library.network(x)
    (output if isinstance(output, Tensor) else output.logits)[0, 1].backward()
    right = (x.grad[0] / library.std[:, None, None]).abs().sum(0).numpy()
    ours = values(reply.explanations[0].raw)
    assert np.abs(ours - right).max() < 1e-4 * right.max()


def test_attacks_and_maps(served: tuple[str, Library, Stubs]) -> None:
    name, _, stubs = served
    (card,) = stubs.models.ListModels(models_pb2.ListModelsRequest(), timeout=PATIENCE).models
    assert card.name == name
    request = attack_pb2.AttackRequest(image=encoded(PHOTOS[1]), method={"pgd": {"steps": 5}}, eps=8 / 255)
    reply = stubs.gradients.Attack(request, timeout=PATIENCE)
    assert reply.certificate.linf <= 8 / 255 + 1e-6
    request = explain_pb2.ExplainRequest(image=encoded(PHOTOS[2]), methods=methods(grad_cam={}, lrp={}, occlusion={}))
    maps = stubs.gradients.Explain(request, timeout=PATIENCE).explanations
    assert all(each.high > each.low for each in maps)
    unavailable = stubs.models.ListModels(models_pb2.ListModelsRequest(), timeout=PATIENCE).unavailable
    assert [each.name for each in unavailable] == ["misspelt"]
