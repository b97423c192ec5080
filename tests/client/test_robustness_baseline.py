"""A run beside an earlier one: what changed, whether by chance, and what cannot be compared."""

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from gradserve import Method
from gradserve.cli.commands import robustness_comparison, robustness_report
from gradserve.datasets import open_dataset
from gradserve.robustness import reading, results
from gradserve.robustness.comparison import NotComparable, compared, mcnemar
from gradserve.robustness.figures import counted
from gradserve.robustness.plan import CheckSpec
from gradserve.robustness.record import Record, described

from .test_not_measured import Blind
from .test_robustness import CLASSES, EPS, PGD, Model, card, measured, pictures  # noqa: F401  a fixture

TWO = CheckSpec([Method("pgd"), Method("square")], EPS, {"norm": "linf"})


class Worse(Model):
    """Falls to 1/255 on pictures that 3 divides, and stands 8/255 on 2, which fell before."""

    async def attack(self, image, method, *, eps=None, **others):
        number = int(image[0, 0, 0])
        if eps == EPS[0] and number % 3 == 0:
            eps, image = EPS[1], np.full_like(image, 2)
            others["label"] = number % 3
        elif number == 2:
            eps = EPS[0]
        return await super().attack(image, method, eps=eps, **others)


def record(model, pictures, folder, wish=PGD):  # noqa: F811
    plan, _, journal = measured(model, pictures, folder, wish)
    return Record(plan, described(pictures)).answered(journal)


def with_weights(record, digest):
    return replace(record, plan=replace(record.plan, digests={"net": digest}))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 3), (5, 1), (0, 9), (12, 30), (700, 801)])
def test_mcnemar_is_the_exact_binomial_test_with_both_tails(lost, gained):
    count = lost + gained
    tail = sum(comb(count, k) for k in range(count + 1) if abs(2 * k - count) >= abs(lost - gained))
    assert mcnemar(lost, gained) == pytest.approx(tail / 2**count, rel=1e-12)


def test_a_run_beside_itself_changes_nothing(pictures, tmp_path):  # noqa: F811
    run = record(Model(), pictures, tmp_path, TWO)
    comparison = compared(run, run, 0.0)
    assert [each.name for each in comparison.changes] == [
        "clean accuracy",
        *("robust accuracy, pgd 1/255", "robust accuracy, square 1/255"),
        *("robust accuracy, pgd 8/255", "robust accuracy, square 8/255"),
        *("robust accuracy, pgd + square 1/255", "robust accuracy, pgd + square 8/255"),
    ]
    assert all(not each.lost and not each.gained and each.p_value == 1 for each in comparison.changes)
    assert {each.verdict for each in comparison.thresholds} == {"passed"}
    assert comparison.same_weights


def test_what_fell_and_what_stands_again(pictures, tmp_path):  # noqa: F811
    before = record(Model(), pictures, tmp_path / "before")
    now = with_weights(record(Worse(), pictures, tmp_path / "now"), "cd" * 32)
    comparison = compared(now, before, 0.2)
    clean, small, large = comparison.changes
    assert not clean.lost
    assert small.lost == ["3", "6", "9", "12", "18", "21", "24", "27"]
    assert (small.before.count, small.now.count, small.gained) == (24, 16, [])
    assert small.p_value == 2 / 2**8
    assert (large.lost, large.gained) == ([], ["2"])
    assert large.p_value == 1
    assert [each.verdict for each in comparison.thresholds] == ["passed", "failed", "passed"]
    assert [each.verdict for each in compared(now, before, 8 / 30).thresholds] == ["passed"] * 3
    assert not comparison.same_weights
    assert not compared(now, before).thresholds
    assert [each.id for each in now.pictures if each.id in small.lost] == small.lost
    (section,) = [robustness_comparison.section(comparison, now.pictures, ())]
    assert section.tables[1].rows[0] == ["3", "cat", "pgd 1/255", ""]
    assert section.tables[1].rows[-1] == ["2", "ship", "", "pgd 8/255"]
    stories = robustness_comparison.stories(comparison, pictures, 99)
    assert [each.title for each in stories] == [f"{id}: {CLASSES[int(id) % 3]}" for id in small.lost]


def test_pictures_that_were_not_measured_may_decide(pictures, tmp_path):  # noqa: F811
    before = record(Model(), pictures, tmp_path / "before")
    now = record(Blind(), pictures, tmp_path / "now")
    _, small, _ = compared(now, before).changes
    assert (small.least, small.most) == (-4, 0)  # Pictures 1 to 4 may stand or not.
    assert (small.lost, small.gained) == ([], [])
    assert small.threshold(0.1).verdict == "not_measured"
    assert small.threshold(4 / 30).verdict == "passed"
    _, small, _ = compared(before, now).changes
    assert (small.least, small.most) == (0, 4)
    figures = counted(now.plan, now.pictures, now.outcomes).beside(compared(now, before, 0.1))
    assert figures.verdict == "not_measured"


def test_what_is_written_is_read_again(pictures, tmp_path):  # noqa: F811
    run = record(Blind(), pictures, tmp_path, TWO)
    figures = counted(run.plan, run.pictures, run.outcomes)
    document = robustness_report.write(
        tmp_path, run, figures, results.RunStats(30, 0, 1, 1.0), robustness_report.Shown(), {}
    )
    assert document == json.loads((tmp_path / "results.json").read_text())
    read = reading.record(tmp_path)
    assert counted(read.plan, read.pictures, read.outcomes) == figures
    assert [trial.key for trial in read.plan.trials] == [trial.key for trial in run.plan.trials]
    assert compared(run, read, 0).thresholds == compared(run, run, 0).thresholds


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), 1.5])
def test_a_margin_that_is_no_number_is_left_out(pictures, tmp_path, margin):  # noqa: F811
    run = record(Model(), pictures, tmp_path)
    odd = replace(run, outcomes=[replace(each, margin=margin) for each in run.outcomes])
    document = results.document(odd, counted(odd.plan, odd.pictures, odd.outcomes), results.RunStats(30, 0, 1, 1.0))
    json.dumps(document, allow_nan=False)
    assert {each["trials"]["clean"].get("margin") for each in document["outcomes"]} == {1.5 if margin == 1.5 else None}


def test_other_runs_are_refused_with_what_differs(pictures, tmp_path):  # noqa: F811
    run = record(Model(), pictures, tmp_path / "run")
    np.savez(
        tmp_path / "other.npz", images=np.zeros((30, 4, 4, 3), np.uint8), labels=np.arange(30) % 3, classes=CLASSES
    )
    other = open_dataset(tmp_path / "other.npz").labelled_for(CLASSES)
    relabelled = [replace(each, class_name="frog") for each in described(pictures)]
    for spec, set, complaint in [
        (PGD, described(pictures)[:28], "pictures only in the baseline: 28, 29$"),
        (PGD, described(other), "pictures of other content: 1, 2, 3, 4, 5 and 24 more$"),
        (PGD, relabelled, "pictures of another class: 0, 1, 2, 3, 4 and 25 more$"),
        (replace(PGD, budgets=EPS[:1]), described(pictures), "only in the baseline there is pgd 8/255$"),
        (
            replace(PGD, methods=[Method("square")]),
            described(pictures),
            "only here there is square 1/255, ",
        ),
        (replace(PGD, methods=[Method("pgd", steps=6)]), described(pictures), "steps is 6 here and 5 in the baseline"),
        (replace(PGD, arguments={}), described(pictures), "norm is the default here and linf in the baseline"),
        (replace(PGD, seed=3), described(pictures), "seed is 3 here and 0 in the baseline$"),
        (replace(PGD, precision="exact"), described(pictures), "precision is exact here and auto in the baseline$"),
    ]:
        with pytest.raises(NotComparable, match=complaint):
            compared(Record(spec.plan(card()), set), run)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"verdict": "passed", "clean": {}}', "too old: it lacks the outcomes of its pictures"),
        ('{"verdict": "passed", "schema": 99}', "has schema 99, and this version of gradserve reads schema 1"),
        ('{"verdict": "passed", "schema": 1}', "is damaged"),
        ("[]", "is not the results.json of a robustness check"),
        ("something else", "is not the results.json of a robustness check"),
    ],
)
def test_files_that_are_no_results_are_refused(tmp_path, text, complaint):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(reading.CannotRead, match=complaint):
        reading.record(tmp_path / "results.json")
    with pytest.raises(reading.CannotRead, match="there is no"):
        reading.record(tmp_path / "missing")
