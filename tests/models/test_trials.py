"""Ranges that outputs never leave, told from logits that are small, positive or of one sum by chance."""

import heads
import pytest
import torch
from heads import SIZE
from torch import Tensor
from zoo import CPU

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import LoadError
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

IMAGES = torch.rand(3, 3, SIZE["height"], SIZE["width"], generator=torch.Generator().manual_seed(4))
BUILDERS = ["network", "normalised"]
ENTRY_NEEDED = r'meant to be bounded \(by a clamp or ReLU6\), write head = "softmax" into its entry'


def loaded(builder: str, outputs: int, end: str, head: str | None = None) -> Prepared:
    arguments = {"outputs": outputs, "end": end}
    spec = {"name": "m", "builder": f"heads:{builder}", "arguments": arguments, **SIZE, "head": head}
    return prepare(ModelSpec.model_validate({**spec, "precisions": ("exact",)}), CPU)


def right(builder: str, outputs: int, end: str) -> Tensor:
    """What the network itself gives for IMAGES."""
    mean, std = (torch.tensor(SIZE[name]).view(3, 1, 1) for name in ("mean", "std"))
    return getattr(heads, builder)(outputs, end)((IMAGES - mean) / std)  # type: ignore[no-any-return]


def served_as_they_are(builder: str, end: str, head: str | None) -> None:
    model = loaded(builder, 4, end, head)
    assert model.card.head == (head or "softmax")
    torch.testing.assert_close(model(IMAGES), right(builder, 4, end), rtol=1e-5, atol=1e-5)
    assert not any(note.startswith("SOFTMAX_OUTPUTS") for note in model.card.notes)


@pytest.mark.parametrize("head", [None, "softmax", "multilabel"])
@pytest.mark.parametrize("end", ["small_of_sum_one", "soft_capped", "clamped"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_logits_that_only_look_bounded_are_served_as_they_are(builder: str, end: str, head: str | None) -> None:
    if end == "small_of_sum_one":
        assert (right(builder, 4, end) > 0).all()
        assert torch.allclose(right(builder, 4, end).sum(1), torch.ones(3))
    served_as_they_are(builder, end, head)


def test_small_logits_of_normalised_features_are_served_as_they_are() -> None:
    """They stay within [0, 1] however images are stretched."""
    served_as_they_are("normalised", "small", None)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("sigmoid_doubled", r"scaled or shifted"),
        ("sigmoid_logarithm_by_hand", r"never exceed 0"),
        ("sigmoid_by_hand", r"do not sum to 1: they look like probabilities of independent labels"),
        ("relu6", r"scaled or shifted"),
        ("tanh", r"stay within \[-1, 1\] .* return the scores before the tanh"),
        ("softsign", r"stay within \[-1, 1\]"),
        ("sigmoid_from_minus_one", r"stay within \[-1, 1\]"),
    ],
)
@pytest.mark.parametrize("builder", BUILDERS)
def test_scores_in_a_range_that_is_never_left_are_refused_unless_declared(builder: str, end: str, says: str) -> None:
    for head in (None, "multilabel"):
        with pytest.raises(LoadError, match=f"{says}.*{ENTRY_NEEDED}"):
            loaded(builder, 4, end, head)
    served_as_they_are(builder, end, "softmax")


@pytest.mark.parametrize("end", ["tanh", "softsign", "sigmoid_from_minus_one"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_single_score_between_minus_one_and_one_is_no_logit(builder: str, end: str) -> None:
    with pytest.raises(LoadError, match=r"stay within \[-1, 1\] .* before the tanh$"):
        loaded(builder, 1, end, "binary")


@pytest.mark.parametrize(("end", "side", "answer"), [("powers", "below", "yes"), ("rectified", "below", "yes")])
@pytest.mark.parametrize(("head", "outputs"), [("binary", 1), ("multilabel", 3)])
def test_declared_logits_of_one_sign_are_told(head: str, outputs: int, end: str, side: str, answer: str) -> None:
    said = [note for note in loaded("network", outputs, end, head).card.notes if "its entry declares" in note]
    assert len(said) == 1
    assert f"never {side} 0 for any test image" in said[0]
    assert f"always {answer}," in said[0]
    for usual in ("nothing", "clamped", "all_zero"):
        notes = loaded("network", outputs, usual, head).card.notes
        assert not any("its entry declares" in note for note in notes)
