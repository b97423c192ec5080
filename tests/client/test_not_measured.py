"""The gate where attacks had nothing to follow: what is tried again, what counts, and what every report says."""

import json
from io import StringIO
from types import SimpleNamespace
from xml.etree import ElementTree as Tree

import pytest
from rich.console import Console

from gradserve import Method
from gradserve.cli import output
from gradserve.cli.commands import robustness_report
from gradserve.results.attack import OBSTACLES, Certificate
from gradserve.robustness import junit, results
from gradserve.robustness.journal import Journal, JournalMismatch
from gradserve.robustness.plan import CheckSpec
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Record, described
from gradserve.robustness.thresholds import Limits, Threshold

from .test_robustness import EPS, PGD, Model, card, measured, pictures  # noqa: F401  a fixture

NO_GRADIENT = "ZERO_GRADIENT: the margin loss had no gradient to follow"
OTHER = "NOT_ADAPTIVE: the attack did not know the defence"


class Blind(Model):
    """Has no gradient on pictures 1 to 10 with cross-entropy, and on 1 to 4 with any loss."""

    seen = ()

    def told(self, number, method, loss):
        self.seen = (*self.seen, (number, method, loss))
        if method == "square":
            return ()
        return (NO_GRADIENT, OTHER) if number <= (4 if loss == "margin" else 10) else (OTHER,)


# Of 30 pictures every fifth is wrong as it is; 1, 2, 3, 4 and 6, 7, 8, 9 are right and had no gradient at first.
RETRIED, UNKNOWN, RIGHT = 8, 4, 24


def small(folder, pictures, limits=Limits(), wish=PGD, model=None):  # noqa: B008, F811
    return measured(model or Blind(), pictures, folder, wish, limits)


def test_pictures_without_a_gradient_are_tried_again_with_the_margin_loss(pictures, tmp_path):  # noqa: F811
    model = Blind()
    _, found, journal = small(tmp_path, pictures, model=model)
    first, _ = found.attacks
    assert (first.standing.count, first.not_measured, first.tried_again) == (RIGHT - UNKNOWN, UNKNOWN, RETRIED)
    assert first.verdicts == {"not_found": RIGHT - UNKNOWN, "not_measured": UNKNOWN}
    assert first.reasons == {NO_GRADIENT: UNKNOWN}
    assert first.warnings == {OTHER: RIGHT}
    again = {number for number, _, loss in model.seen if loss == "margin"}
    assert again == {1, 2, 3, 4, 6, 7, 8, 9}
    costs = {each.id: each.rows for each in journal if each.trial.startswith("pgd 1/255")}
    assert (costs["1"], costs["6"], costs["11"]) == (14, 14, 7)


def test_a_picture_that_falls_is_fallen_whatever_was_told(pictures, tmp_path):  # noqa: F811
    class Falls(Blind):
        async def attack(self, image, method, *, loss="cross_entropy", **others):
            found = await super().attack(image, method, loss=loss, **others)
            if loss == "margin":
                found.certificate.after.margin = -1.0
                found.certificate.verdict = "found"
                label = (others["label"] + 1) % 3
                found.certificate.after.predicted = SimpleNamespace(class_index=label, class_name="", probability=1.0)
            return found

    _, found, journal = small(tmp_path, pictures, model=Falls())
    assert found.attacks[0].standing.count == RIGHT - RETRIED
    assert found.attacks[0].not_measured == 0
    assert {each.loss for each in journal if each.state == "wrong" and each.trial.startswith("pgd 1")} == {"margin"}


def test_of_several_attacks_one_that_fells_decides(pictures, tmp_path):  # noqa: F811
    """At 8/255 the even pictures fall to every attack; 1 and 3 stand square, and pgd had nothing to follow."""

    class SquareOnly(Blind):
        def told(self, number, method, loss):
            return () if method == "square" else (NO_GRADIENT,)

        async def attack(self, image, method, *, eps, **others):
            return await super().attack(image, method, eps=eps if method.name == "square" else 0, **others)

    wish = CheckSpec([Method("pgd"), Method("square")], [8 / 255], {})
    _, found, _ = small(tmp_path, pictures, wish=wish, model=SquareOnly())
    pgd, square = found.attacks
    assert (pgd.standing.count, pgd.not_measured) == (0, RIGHT)
    assert (square.standing.count, square.not_measured) == (12, 0)
    (together,) = found.together
    assert (together.standing.count, together.not_measured) == (0, 12)
    assert together.verdicts == {"found": 12, "not_measured": 12}


@pytest.mark.parametrize(
    ("least", "verdict"),
    [(0.6, "passed"), (20 / 30, "passed"), (0.7, "not_measured"), (24 / 30, "not_measured"), (0.81, "failed")],
)
def test_the_verdict_is_open_where_the_unknown_pictures_decide(pictures, tmp_path, least, verdict):  # noqa: F811
    wish = CheckSpec(PGD.methods, EPS[:1], PGD.arguments)
    _, found, _ = small(tmp_path, pictures, Limits(robust=least), wish)
    assert found.attacks[0].standing.value == pytest.approx(20 / 30)
    assert found.attacks[0].possible.value == pytest.approx(24 / 30)
    assert found.verdict == verdict


def test_what_fails_fails_beside_what_is_open(pictures, tmp_path):  # noqa: F811
    _, found, _ = small(tmp_path, pictures, Limits(robust=0.7, clean=0.9))
    assert [each.verdict for each in found.thresholds] == ["failed", "not_measured", "failed"]
    assert found.verdict == "failed"
    assert Threshold("mCE", None, most=1.0).verdict == "failed"


def test_without_thresholds_an_attack_that_measured_nothing_is_not_passed(pictures, tmp_path):  # noqa: F811
    class AllBlind(Blind):
        def told(self, number, method, loss):
            return (NO_GRADIENT,)

    wish = CheckSpec(PGD.methods, EPS[:1], PGD.arguments)
    _, found, _ = small(tmp_path / "all", pictures, wish=wish, model=AllBlind())
    assert found.verdict == "not_measured"
    assert small(tmp_path / "some", pictures, wish=wish)[1].verdict == "passed"
    assert small(tmp_path / "all", pictures, Limits(robust=0.9), wish, AllBlind())[1].verdict == "failed"


def test_a_loss_that_was_margin_already_is_not_tried_again(pictures, tmp_path):  # noqa: F811
    model = Blind()
    wish = CheckSpec(PGD.methods, EPS[:1], {**PGD.arguments, "loss": "margin"})
    _, found, _ = small(tmp_path, pictures, wish=wish, model=model)
    assert found.attacks[0].tried_again == 0
    assert found.attacks[0].not_measured == UNKNOWN
    assert len(model.seen) == RIGHT


def test_a_run_that_was_killed_remembers_what_was_not_measured(pictures, tmp_path):  # noqa: F811
    _, whole, _ = small(tmp_path / "whole", pictures)
    lines = (tmp_path / "whole/journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/journal.jsonl").write_text("".join(lines[:40]) + lines[40][:20])
    _, rest, journal = small(tmp_path / "cut", pictures)
    assert journal.found == 39
    assert rest == whole
    assert small(tmp_path / "cut", pictures, model=(silent := Blind()))[1] == whole
    assert not silent.asked


def test_a_journal_of_the_older_rules_is_refused(pictures, tmp_path):  # noqa: F811
    plan = PGD.plan(card())
    older = {"id": "1", "trial": "clean", "state": "right"}
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(plan.described(pictures)) + "\n" + json.dumps(older) + "\n")
    with pytest.raises(JournalMismatch, match="other version"):
        Journal(path, plan.described(pictures))


def check_junit(path, found):
    """The report for CI counts what was not measured, and gives the reason."""
    junit.write(path, found, "net", 1.5)
    suite = Tree.parse(path).getroot()
    assert (suite.get("errors"), suite.get("failures"), suite.get("skipped")) == ("1", "0", "1")
    (error,) = suite.iter("error")
    assert "66.7% to 80.0%" in error.get("message")
    (skipped,) = suite.iter("skipped")
    assert skipped.get("message") == f"4 of 30 pictures not measured: {NO_GRADIENT} (4)"
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties["robust accuracy, pgd 1/255"].startswith("66.7% to 80.0%")
    assert properties["warning, pgd 1/255"] == f"{OTHER} (24 pictures)"


def test_every_report_says_what_was_not_measured_and_why(pictures, tmp_path, monkeypatch):  # noqa: F811
    wish = CheckSpec(PGD.methods, EPS[:1], PGD.arguments)
    plan, found, journal = small(tmp_path, pictures, Limits(robust=0.7), wish)
    effort = results.RunStats(30, 0, 100, 2.0)

    document = results.document(Record(plan, described(pictures)).answered(journal), found, effort)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["verdict"], document["holds"]) == ("not_measured", False)
    (robust,) = document["robust"]
    assert (robust["right"], robust["not_measured"], robust["tried_again"]) == (20, 4, 8)
    assert (robust["accuracy"], robust["possible_accuracy"]) == (20 / 30, 24 / 30)
    assert robust["reasons"] == {NO_GRADIENT: 4}
    assert robust["warnings"] == {OTHER: 24}
    (threshold,) = document["thresholds"]
    assert (threshold["verdict"], threshold["holds"]) == ("not_measured", False)

    check_junit(tmp_path / "junit.xml", found)

    page = robustness_report.html(plan, found, effort, [], {})
    for text in ("Not measured: the verdict", "66.7% to 80.0%", "20 to 24 of 30", NO_GRADIENT, "4 of 30", OTHER):
        assert text in page, text
    assert "NOT MEASURED" in page

    said = StringIO()
    monkeypatch.setattr(output, "err", lambda: Console(file=said, width=400, markup=False))
    robustness_report.show(plan, found, effort, tmp_path)
    for text in (
        "66.7% to 80.0%",
        "4 not measured, 8 tried again with loss margin",
        f"not measured: pgd 1/255: 4 of 30 pictures not measured: {NO_GRADIENT} (4)",
        f"warning: pgd 1/255: {OTHER} (24 pictures)",
        "NOT MEASURED: robust accuracy, pgd 1/255: 66.7% to 80.0%, since not every picture was measured",
    ):
        assert text in said.getvalue(), said.getvalue()


def test_where_all_was_measured_the_reports_are_plain(pictures, tmp_path):  # noqa: F811
    plan, found, _ = measured(Model(), pictures, tmp_path, PGD, Limits(robust=0.3))
    page = robustness_report.html(plan, found, results.RunStats(30, 0, 100, 2.0), [], {})
    assert "ot measured" not in page
    assert "Passed" in page
    junit.write(tmp_path / "junit.xml", found, "net", 1.5)
    suite = Tree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("2", "0", "0")
    assert found.attacks[0].possible == found.attacks[0].standing == Proportion(24, 30)


def test_obstacles_are_the_warnings_with_their_codes():
    fields = dict.fromkeys(Certificate.__dataclass_fields__)
    texts = (OTHER, *(f"{code}: why" for code in OBSTACLES), "SATURATED_COLOURS: no code")
    assert Certificate(**{**fields, "warnings": texts}).obstacles == texts[1:4]
