"""Which networks are served as giving a score for each position, and how they sum over regions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import CPU

from gradserve_server.models import positions
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.positions import PositionWeights
from gradserve_server.models.preparation import prepare


def spec(builder: str, **facts: Any) -> ModelSpec:
    return ModelSpec(name="m", builder=f"position_networks:{builder}", height=32, width=48, **facts)


@pytest.mark.parametrize("name", ["fine", "coarse"])
def test_a_row_does_not_depend_on_the_regions_of_others(name: str) -> None:
    model = prepare(spec(name, precisions=("exact",)), CPU)
    weights = torch.zeros(32, 48)
    weights[6:18, 5:20] = 1
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    regions = [None, PositionWeights(weights, averaged=True), PositionWeights(weights, averaged=False)]
    with torch.no_grad():
        together = model(images, regions=regions)
        for image, region, logits in zip(images, regions, together, strict=True):
            assert torch.allclose(model(image[None], regions=[region])[0], logits, atol=1e-6)


def test_weights_of_regions_stay_on_their_device_for_a_pass() -> None:
    """A device without memory stands in for a GPU: nothing can be copied from it."""
    weights = PositionWeights(torch.ones(2, 3, device="meta"), averaged=False)
    with positions.summed_over([None, weights], 2, 3):
        rows = positions._regions.get()
    assert rows is not None
    assert (rows.weights.device.type, rows.averaged.tolist()) == ("meta", [True, False])


@pytest.mark.parametrize("builder", ["probabilities", "single"])
def test_scores_that_are_no_logits_are_refused(builder: str) -> None:
    with pytest.raises(LoadError, match="must give logits of several classes there and no prob"):
        prepare(spec(builder), CPU)


def test_torchvisions_files_with_an_auxiliary_classifier_fit(tmp_path: Path) -> None:
    from torchvision.models.segmentation import fcn_resnet50

    network = fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    source = load(ModelSpec(name="m", builder="fcn_resnet50", weights=str(tmp_path / "w.pth")))
    assert (source.height, source.width, source.labels[8]) == (520, 520, "cat")
    x = torch.rand(1, 3, 32, 48)
    assert torch.equal(source.network(x)["out"], network.eval()(x)["out"])


NO_POSITIONS = {
    "logit_and_features": "a single number",
    "probabilities_and_features": "labels",
    "two_scores_and_maps": "unclear which are the logits",
    "odd_logits_and_features": r"a tensor \[4, 5, 1\]",
    "features": "a dict with features of shape .* none of it is a score for each class",
    "picture": r"a tensor \[4, 3, 12, 24\] .* need labels in its entry",
}


@pytest.mark.parametrize("builder", NO_POSITIONS)
def test_features_and_pictures_are_no_scores_of_positions(builder: str) -> None:
    with pytest.raises(LoadError, match=NO_POSITIONS[builder]):
        prepare(spec(builder), CPU)


def test_labels_tell_that_an_output_of_the_images_shape_has_scores() -> None:
    card = prepare(spec("picture", labels=("road", "car", "sky")), CPU).card
    assert card.positions
    assert card.classes == ("road", "car", "sky")
