"""Whether a model's answer has a picture's label, and by what margin: that depends on what its outputs mean.

softmax      the label is the most probable class; its margin is its logit less the best other one
binary       the label is the more probable of the two classes; its margin is its logit
multilabel   the label is present, its logit above 0, whatever other labels are; its margin is its logit
"""

from collections.abc import Sequence
from typing import NamedTuple

from gradserve.results.attack import Judgement
from gradserve.results.common import Score

MAX_PREDICT_CLASSES = 1000  # The most classes that one answer of Predict lists.


class LabelJudgement(NamedTuple):
    """Whether an answer has the label, and the margin in logits, which is None where the answer does not tell it."""

    right: bool
    margin: float | None


class CannotJudge(ValueError):
    """An answer that does not tell whether the label is present."""


def classes_to_ask_for(head: str) -> int:
    """How many classes Predict must list, so that `predicted` can tell."""
    return MAX_PREDICT_CLASSES if head == "multilabel" else 2


def predicted(top: Sequence[Score], label: int, head: str) -> LabelJudgement:
    """Judges the classes that Predict lists, best first. Raises CannotJudge."""
    own = next((score.logit for score in top if score.class_index == label), None)
    if head == "multilabel":
        if own is None and top[-1].logit > 0:
            raise CannotJudge(
                f"{len(top)} labels are present, which are all that Predict lists, and label {label} is not among them"
            )
        return LabelJudgement(own is not None and own > 0, own)
    others = [score.logit for score in top if score.class_index != label]
    margin = own if head == "binary" or own is None or not others else own - others[0]
    return LabelJudgement(top[0].class_index == label, margin)


def judged(judgement: Judgement, label: int, head: str) -> LabelJudgement:
    """Judges what the certificate of an attack on this label says of a picture."""
    present = judgement.margin > 0 if head == "multilabel" else judgement.predicted.class_index == label
    return LabelJudgement(present, judgement.margin)
