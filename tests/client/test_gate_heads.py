"""What the gate takes an answer for, under each head."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gradserve.results.attack import Judgement
from gradserve.results.common import Score
from gradserve.robustness import heads
from gradserve.robustness.plan import CheckSpec

from .test_robustness import PGD, Model, Top, card, measured, pictures  # noqa: F401  a fixture


def listed(*logits: float, count: int | None = None) -> list[Score]:
    """The classes with these logits as Predict lists them; the probability says nothing."""
    order = np.argsort(-np.asarray(logits), kind="stable").tolist()
    return [Score(label, f"class {label}", 0.0, logits[label]) for label in order[:count]]


@pytest.mark.parametrize(
    ("top", "label", "head", "right", "margin"),
    [
        (listed(1.0, 3.0, 2.0), 1, "softmax", True, 1.0),
        (listed(1.0, 3.0, 2.0, count=2), 1, "softmax", True, 1.0),
        (listed(1.0, 3.0, 2.0, count=2), 2, "softmax", False, -1.0),
        (listed(1.0, 3.0, 2.0, count=2), 0, "softmax", False, None),
        (listed(-1.0, -3.0), 0, "softmax", True, 2.0),
        (listed(2.0, 2.0), 0, "softmax", True, 0.0),
        (listed(2.0, 2.0), 1, "softmax", False, 0.0),
        (listed(5.0), 0, "softmax", True, 5.0),
        (listed(-3.0, 3.0), 1, "binary", True, 3.0),
        (listed(-3.0, 3.0), 0, "binary", False, -3.0),
        (listed(4.0, 0.5, -1.0), 1, "multilabel", True, 0.5),
        (listed(4.0, 0.5, -1.0), 2, "multilabel", False, -1.0),
        (listed(-0.5, -1.0), 0, "multilabel", False, -0.5),
        (listed(0.0, -1.0), 0, "multilabel", False, 0.0),
        (listed(4.0, 0.5, -1.0, -2.0, count=3), 3, "multilabel", False, None),
    ],
)
def test_predictions(top: list[Score], label: int, head: str, right: bool, margin: float | None) -> None:
    assert heads.predicted(top, label, head) == (right, margin)


def test_a_label_that_may_be_present_beyond_the_list_is_not_judged() -> None:
    with pytest.raises(
        heads.CannotJudge, match="2 labels are present, which are all that Predict lists, and label 2 is not"
    ):
        heads.predicted(listed(4.0, 3.0, 2.0, count=2), 2, "multilabel")


@pytest.mark.parametrize(
    ("head", "predicted", "margin", "right"),
    [
        ("softmax", 1, 0.5, True),
        ("softmax", 0, -0.5, False),
        ("binary", 1, 0.5, True),
        ("binary", 0, -0.5, False),
        ("multilabel", 0, 0.5, True),
        ("multilabel", 1, -0.5, False),
        ("multilabel", 1, 0.0, False),
    ],
)
def test_certificates(head: str, predicted: int, margin: float, right: bool) -> None:
    judgement = Judgement(Score(predicted, "", 0.5, 4.0), Score(1, "", 0.5, margin), margin)
    assert heads.judged(judgement, 1, head) == (right, margin)


class Labels(Model):
    """Of 30 pictures every label is present in those from 20 on; the list ends before the others of 3, 6 and 9."""

    async def predict(self, image, *, top_k, **others):
        assert top_k == 1000
        number = int(image[0, 0, 0])
        if number in (3, 6, 9):
            return Top(Score(label + 5, "", 0.9, 1.0) for label in range(3))
        return Top(listed(*(number - 19.5 - label / 10 for label in range(3))))


def test_a_picture_that_cannot_be_judged_is_named_and_counts_as_fallen(pictures, tmp_path):  # noqa: F811
    wish = SimpleNamespace(plan=lambda _, reference: PGD.plan(replace(card(), head="multilabel"), reference))
    _, found, _ = measured(Labels(), pictures, tmp_path, wish)
    assert (found.clean.count, found.clean.of) == (10, 30)
    assert set(found.failed) == {"3, clean", "6, clean", "9, clean"}
    assert "labels are present" in found.failed["3, clean"]
    assert [each.standing.of for each in found.attacks] == [30, 30]


@pytest.mark.parametrize(("own", "other"), [("softmax", "multilabel"), ("multilabel", "binary")])
def test_a_reference_must_mean_the_same_by_its_errors(own: str, other: str) -> None:
    wish = CheckSpec([], [], {}, ["fog"])
    with pytest.raises(ValueError, match=f"--reference ref has the head {other} and net has {own}"):
        wish.plan(replace(card(), head=own), replace(card("ref"), head=other))


def test_errors_of_binary_and_softmax_models_mean_the_same() -> None:
    plan = CheckSpec([], [], {}, ["fog"]).plan(card(), replace(card("ref"), head="binary"))
    assert plan.heads == {"net": "softmax", "ref": "binary"}
