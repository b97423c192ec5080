"""Ranges of budgets, accuracy over budget, and the smallest budget that felled each picture."""

import re

import numpy as np
import pytest

from gradserve import Method
from gradserve.cli.commands import robustness_report
from gradserve.load import charts
from gradserve.robustness import results
from gradserve.robustness.budgets import budgets
from gradserve.robustness.curves import chart, curves, smallest_budgets
from gradserve.robustness.judging import all_figures
from gradserve.robustness.plan import CheckSpec, eps_text
from gradserve.robustness.record import Record, described
from gradserve.robustness.thresholds import Limits

from .test_not_measured import NO_GRADIENT
from .test_robustness import DAMAGED, Model, measured, pictures, score  # noqa: F401  a fixture

RANGE = budgets(["0:8/255:1/255"])
DIVISORS = {"pgd": 3, "square": 2}
STEPS = CheckSpec([Method("pgd"), Method("square")], RANGE[::-1], {"norm": "linf"})


class Gradual(Model):
    """Picture n falls to pgd from n / 3 steps of 1/255 on and to square from n / 2 on, but 7 stands 8/255 again.

    On picture 28 pgd has nothing to follow.
    """

    def told(self, number, method, loss):
        return (NO_GRADIENT,) if number == 28 and method == "pgd" else ()

    async def attack(self, image, method, *, eps, **others):
        number, steps = int(image[0, 0, 0]), eps * 255 + 1e-9
        falls = steps >= number / DIVISORS[method.name] and (number, round(steps)) != (7, 8)
        answer = await super().attack(image, method, eps=0, **others)
        if falls:
            answer.certificate.after.predicted = score(others["label"] + 1, 0.8, 2.0)
            answer.certificate.obstacles = ()
        return answer


def fell(number, divisor):
    """The number of steps of 1/255 that fell a picture, 0 if it was wrong before, None if none did."""
    if number % 5 == 0:
        return 0
    return steps if (steps := -(-number // divisor)) <= 8 else None


@pytest.fixture
def record(pictures, tmp_path):  # noqa: F811
    trouble = {(29, "predict"): [DAMAGED]}
    plan, _, journal = measured(Gradual(trouble), pictures, tmp_path / "run", STEPS)
    return Record(plan, described(pictures)).answered(journal)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["4/255", "0.015"], [4 / 255, 0.015]),
        (["0:3/255:1/255"], [0, 1 / 255, 2 / 255, 3 / 255]),
        (["0.1:0.3:0.1"], [0.1, 0.2, 0.3]),
        (["0:0.25:0.1"], [0, 0.1, 0.2]),
        (["0.5:0.5:1"], [0.5]),
        (["2/255", "1/255:3/255:1/255", "0.5/255"], [2 / 255, 1 / 255, 3 / 255, 0.5 / 255]),
    ],
)
def test_ranges_have_both_ends_and_every_budget_once(texts, expected):
    assert budgets(texts) == expected
    assert [eps_text(eps) for eps in budgets(["0:8/255:2/255"])] == ["0", "2/255", "4/255", "6/255", "8/255"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("8/255:0:1/255", "the range is the wrong way round, as 8/255 is above 0$"),
        ("0:8/255:0", "the step, 0, must be above 0"),
        ("8/255:0:-1/255", "the step, -1/255, must be above 0"),
        ("0:1:0.001", "has 1001 budgets; at most 256 are allowed"),
        ("0:8/255", "start:stop:step"),
        ("0:1:2:3", "start:stop:step"),
        ("0:a lot:1", "not 'a lot'"),
        ("0::1", "not ''"),
        ("0:inf:1", "not 'inf'"),
        ("0:1/0:1", "not '1/0'"),
    ],
)
def test_ranges_that_there_are_not(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        budgets([text])


def test_the_smallest_budget_that_felled_each_picture(record):
    found = smallest_budgets(record)
    assert list(found) == ["pgd", "square"]
    for attack, divisor in DIVISORS.items():
        steps = {int(id): None if eps is None else round(eps * 255) for id, eps in found[attack].items()}
        assert steps == {number: fell(number, divisor) for number in range(29)}


def test_curves_count_what_stands_a_budget_and_all_smaller_ones(record):
    pgd, square, together = curves(record)
    assert [each.attack for each in (pgd, square, together)] == ["pgd", "square", "pgd + square"]
    for curve, divisor in ((pgd, 3), (square, 2), (together, 3)):
        assert [point.level for point in curve.points] == [eps_text(eps) for eps in RANGE]
        for steps, point in enumerate(curve.points):
            left = [n for n in range(29) if (least := fell(n, divisor)) is None or least > steps]
            unknown = 28 in left and curve is not square
            assert (point.standing.count, point.standing.of) == (len(left) - unknown, 29)
            assert point.possible.count == len(left)
            assert point.band == (point.standing.interval[0], point.possible.interval[1])
    eight = next(
        each for each in all_figures(record, Limits(), None).attacks if (each.attack, each.eps) == ("pgd", "8/255")
    )
    assert eight.standing.count == pgd.points[8].standing.count + 1  # Picture 7, which fell to 3/255.


def test_one_budget_makes_no_curve(pictures, tmp_path):  # noqa: F811
    plan, _, journal = measured(Gradual(), pictures, tmp_path, CheckSpec([Method("pgd")], RANGE[3:4], {}))
    record = Record(plan, described(pictures)).answered(journal)
    assert curves(record) == []
    assert smallest_budgets(record)["pgd"]["1"] == 3 / 255


def test_the_chart_draws_each_share_within_its_band(record):
    found = curves(record)
    drawn = chart(found)
    assert drawn.x_label == "budget (linf, in 1/255)"
    assert [tick.text for tick in drawn.x_ticks] == ["0", "2", "4", "6", "8"]
    height = charts.HEIGHT - charts.TOP - charts.BOTTOM
    for curve, line, band in zip(found, drawn.lines, drawn.bands, strict=True):
        shares = [(charts.HEIGHT - charts.BOTTOM - y) / height for _, y in line.points]
        assert shares == pytest.approx([point.standing.value for point in curve.points])
        outline = np.array(re.findall(r"([\d.]+) ([\d.]+)", band.path), float)
        assert outline[:9, 0] == pytest.approx([x for x, _ in line.points], abs=0.06)
        low, high = ((charts.HEIGHT - charts.BOTTOM - each) / height for each in (outline[:9, 1], outline[:8:-1, 1]))
        assert low == pytest.approx([point.band[0] for point in curve.points], abs=1e-3)
        assert high == pytest.approx([point.band[1] for point in curve.points], abs=1e-3)


def test_reports_have_the_curves(record, tmp_path):
    figures = all_figures(record, Limits(), None)
    effort, shown = results.RunStats(30, 0, 1, 1.0), robustness_report.Shown()
    document = robustness_report.write(tmp_path, record, figures, effort, shown, {})
    pgd = document["curves"][0]
    assert (pgd["attack"], pgd["norm"], len(pgd["points"])) == ("pgd", "linf", 9)
    assert pgd["points"][8]["low"] <= pgd["points"][8]["accuracy"] <= pgd["points"][8]["high"]
    by_id = {each["id"]: each for each in document["outcomes"]}
    assert by_id["7"]["smallest_eps"] == {"pgd": 3 / 255, "square": 4 / 255}
    assert by_id["28"]["smallest_eps"] == {"pgd": None, "square": None}
    assert by_id["29"]["smallest_eps"] == {}
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="band c') == page.count('class="line c') == 3
    assert ".band { fill" in page
