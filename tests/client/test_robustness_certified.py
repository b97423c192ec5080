"""Certified accuracy in the gate: exact intervals, the curve, thresholds, baselines, shards and reports."""

import json
import math
from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace
from xml.etree import ElementTree as Tree

import pytest

from gradserve import Method
from gradserve.cli.commands import robustness_merge, robustness_report
from gradserve.cli.commands.robustness_options import Thresholds, Trials
from gradserve.results.certify import ClassCount
from gradserve.robustness import reading, results
from gradserve.robustness.binomial import clopper_pearson, lower_bound
from gradserve.robustness.certified import check_radii, largest_radius, radii_of
from gradserve.robustness.comparison import NotComparable, compared
from gradserve.robustness.judging import all_figures
from gradserve.robustness.plan import CLEAN, CheckSpec
from gradserve.robustness.record import Record, Whole, described
from gradserve.robustness.shards import NotOneRun, cut, parsed
from gradserve.robustness.thresholds import Limits
from gradserve.transport.retry import RetryPolicy

from .test_robustness import BROKEN, CLASSES, DAMAGED, PGD, Model, card, measured, pictures  # noqa: F401

NOISE = {"sigma": 0.25, "samples": 1000, "selection_samples": 100, "alpha": 0.001}
ALONE = CheckSpec([], [], {}, noise=NOISE)


class Smoothing(Model):
    """Abstains on every seventh picture, errs on every fifth as the network does, and has radii of number / 60."""

    def __init__(self, trouble=None, shift=0):
        super().__init__(trouble)
        self.shift, self.seeds = shift, set()

    async def certify(self, image, *, model, seed, priority, preprocess, precision, **noise):
        assert noise == NOISE
        number = await self._meet(image, "certify", priority)
        self.seeds.add(seed)
        label = number + (number % 5 == 0)
        abstains = number % 7 == 3
        predicted = ClassCount(label % 3, CLASSES[label % 3], 90, 900)
        return SimpleNamespace(
            predicted=None if abstains else predicted,
            abstains=abstains,
            lower_bound=0.4 if abstains else 0.9,
            radius=0.0 if abstains else max(0, number + self.shift) / 60,
            warnings=("OTHER_CLASS: made up",) if number == 1 else (),
            provenance=SimpleNamespace(rows=1101, warnings=()),
        )


def outcome_of(number, radius):
    """Whether the picture of that number is certified with a radius, by what `Smoothing` answers."""
    return number % 5 != 0 and number % 7 != 3 and number / 60 >= radius


def written(pictures, folder, spec=ALONE, shard=None, limits=Limits(), model=None):  # noqa: B008, F811
    """Measures a shard, or all, into a folder; the record and the document."""
    chosen = cut(pictures, shard) if shard else pictures
    plan, _, journal = measured(model or Smoothing(), chosen, folder, spec, retry_policy=RetryPolicy(retries=0))
    record = Record(plan, described(chosen), shard=shard, of_shard=Whole.of(pictures)).answered(journal)
    effort = results.RunStats(len(chosen), journal.found, journal.rows, 2.0)
    figures = all_figures(record, limits, None)
    document = robustness_report.write(folder, record, figures, effort, robustness_report.Shown(), {})
    return record, document


@pytest.mark.parametrize(
    ("count", "of"), [(0, 1), (1, 1), (0, 200), (200, 200), (1, 200), (77, 200), (199, 200), (9000, 50_000)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_intervals_of_clopper_and_pearson_are_those_of_scipy(count, of, alpha):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(count, of).proportion_ci(1 - alpha, "exact")
    assert clopper_pearson(count, of, alpha) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("count", "of"), [(3, 10), (10, 10), (120, 200)])
def test_the_bound_leaves_so_much_in_the_tail(count, of):
    bound = lower_bound(count, of, 0.025)
    tail = sum(math.comb(of, k) * bound**k * (1 - bound) ** (of - k) for k in range(count, of + 1))
    assert tail == pytest.approx(0.025, rel=1e-9)
    assert clopper_pearson(0, 0) == (0, 1)


def test_every_picture_is_certified_once_with_noise_of_its_own(pictures, tmp_path):  # noqa: F811
    model = Smoothing()
    _, found, journal = measured(model, pictures, tmp_path, ALONE)
    assert sum(what == "certify" for _, what in model.asked) == 30
    assert len(model.seeds) == 30
    assert (found.certified.of, found.certified.abstained, found.certified.failed) == (30, 4, 0)
    assert found.certified.warnings == {"OTHER_CLASS: made up": 1}
    assert journal.rows == 30 * 1102
    for point in found.certified.points:
        assert point.certified.count == sum(outcome_of(number, point.radius) for number in range(30))
    assert not found.attacks
    assert not found.together


def test_the_curve_ends_where_no_more_can_be_proven():
    (trial,) = ALONE.plan(card()).trials
    assert NormalDist().cdf(largest_radius(trial) / 0.25) ** 1000 == pytest.approx(0.001)
    assert radii_of(trial) == [place / 16 for place in range(10)]


def test_beside_attacks_and_by_group(pictures, tmp_path):  # noqa: F811
    record, _ = written(pictures, tmp_path, replace(PGD, noise=NOISE))
    assert [str(trial) for trial in record.plan.trials] == ["pgd 1/255", "pgd 8/255", "certified sigma 0.25"]
    halves = [replace(each, group="odd" if int(each.id) % 2 else "even") for each in record.pictures]
    figures = all_figures(replace(record, pictures=halves, column="parity"), Limits(), None)
    assert [each.attack for each in figures.attacks] == ["pgd", "pgd"]
    odd, even = (figures.groups[name].certified for name in ("odd", "even"))
    assert (odd.of, even.of) == (15, 15)
    for place, point in enumerate(figures.certified.points):
        parts = odd.points[place].certified.count + even.points[place].certified.count
        assert point.certified.count == parts
    document = results.document(record, figures, results.RunStats(30, 0, 1, 1))
    assert document["groups"]["figures"]["odd"]["certified"]["points"][0]["of"] == 15
    assert len(document["curves"]) == 1
    page = robustness_report.html(record.plan, figures, results.RunStats(30, 0, 1, 1), [], {})
    assert page.count("Certified accuracy") >= 2
    assert "<td>odd</td>" in page


def test_failed_requests_certify_nothing_and_unreadable_pictures_are_left_out(pictures, tmp_path):  # noqa: F811
    trouble = {(29, "certify"): [BROKEN, BROKEN], (28, "certify"): [DAMAGED], (27, "predict"): [DAMAGED]}
    _, document = written(pictures, tmp_path, model=Smoothing(trouble))
    found = document["certified"]
    assert (found["failed"], found["points"][0]["of"]) == (1, 28)
    assert found["points"][0]["right"] == sum(outcome_of(number, 0) for number in range(27))
    assert list(document["failed"]) == ["29, certified sigma 0.25"]


def test_what_is_written(pictures, tmp_path):  # noqa: F811
    record, document = written(pictures, tmp_path, limits=Limits(certified=((0.25, 0.3), (0.5, 0.01))))
    found = document["certified"]
    assert {name: found[name] for name in NOISE} == NOISE
    assert found["abstained"] == 4
    point = next(each for each in found["points"] if each["radius"] == 0.25)
    low, high = clopper_pearson(point["right"], 30)
    assert (point["accuracy"], point["low"], point["high"], point["of"]) == (point["right"] / 30, low, high, 30)
    assert [each["verdict"] for each in document["thresholds"]] == ["passed", "failed"]
    assert [each["name"] for each in document["thresholds"]] == [f"certified accuracy, radius {r}" for r in (0.25, 0.5)]
    outcomes = {each["id"]: each["trials"]["certified sigma 0.25"] for each in document["outcomes"]}
    assert outcomes["3"] == {"state": "wrong", "detail": "abstains", "radius": 0.0}
    assert outcomes["8"]["state"] == "right"
    assert outcomes["8"]["radius"] == 8 / 60
    assert outcomes["10"]["state"] == "wrong"
    assert document["trials"][0]["settings"] == {name: str(NOISE[name]) for name in sorted(NOISE)}
    suite = Tree.parse(tmp_path / "junit.xml").getroot()
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    facts = "sigma 0.25; 1000 samples after 100 that chose the class; alpha 0.001 for each picture; 4 of 30 abstentions"
    assert properties["certificates"] == facts
    assert properties["certified accuracy, radius 0.25"].startswith("33.3% (")
    assert [each.get("name") for each in suite.iter("testcase") if each.find("failure") is not None] == [
        "certified accuracy, radius 0.5"
    ]
    page = (tmp_path / "report.html").read_text()
    assert "Clopper-Pearson" in page
    assert 'aria-label="Certified accuracy"' in page
    read = reading.record(tmp_path).by_trial[record.plan.trials[0].key]
    assert {id: each.radius for id, each in read.items()} == {
        each.id: each.radius for each in record.outcomes if each.trial != CLEAN
    }


def test_a_run_that_was_killed_and_shards_give_one_run(pictures, tmp_path):  # noqa: F811
    _, whole = written(pictures, tmp_path / "whole", replace(PGD, noise=NOISE))
    folders = [tmp_path / f"out-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        written(pictures, folder, replace(PGD, noise=NOISE), parsed(f"{number}/3"))
    lines = (folders[1] / "journal.jsonl").read_text().splitlines(keepends=True)
    (folders[1] / "journal.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    _, again = written(pictures, folders[1], replace(PGD, noise=NOISE), parsed("2/3"))
    assert again["effort"]["answers_from_the_journal"] == 8
    merged = robustness_merge.merge(folders, Thresholds(min_certified_accuracy=["0.25:0.5"]), tmp_path / "merged")
    assert merged["verdict"] == "failed"
    for document in (merged, whole):
        for name in ("effort", "thresholds", "verdict", "holds"):
            del document[name]
    assert merged == whole
    (tmp_path / "other").mkdir()
    other = replace(PGD, noise={**NOISE, "samples": 500})
    other_run = json.loads((folders[2] / "results.json").read_text())
    other_run["trials"] = json.loads(json.dumps(other_run["trials"]).replace("1000", "500"))
    (tmp_path / "other" / "results.json").write_text(json.dumps(other_run))
    assert other.plan(card()).trials[-1].settings["samples"] == "500"
    with pytest.raises(NotOneRun, match="is of a run with other trials"):
        robustness_merge.merge([*folders[:2], tmp_path / "other"], Thresholds(), tmp_path / "m")


def test_beside_a_baseline(pictures, tmp_path):  # noqa: F811
    before, _ = written(pictures, tmp_path / "before")
    now, _ = written(pictures, tmp_path / "now", model=Smoothing(shift=-6))
    same = compared(before, before, 0.0)
    assert all(not each.lost and not each.gained for each in same.changes)
    earlier = reading.record(tmp_path / "before")
    found = {each.name: each for each in compared(now, earlier, 0.05).changes}
    assert not found["certified accuracy, radius 0"].lost
    change = found["certified accuracy, radius 0.25"]
    expected = [str(n) for n in range(30) if outcome_of(n, 0.25) and not outcome_of(n, 0.35)]
    assert list(change.lost) == expected
    assert not change.gained
    verdicts = {each.name: each.verdict for each in compared(now, earlier, 0.05).thresholds}
    assert verdicts["change of certified accuracy, radius 0.25 since the baseline"] == "failed"


def test_a_baseline_of_another_model_has_trials_of_its_own(pictures, tmp_path):  # noqa: F811
    before, _ = written(pictures, tmp_path)
    other = replace(before.plan, model="net2", trials=[replace(each, model="net2") for each in before.plan.trials])
    other = replace(other, digests={"net2": "cd"}, heads={"net2": "softmax"})
    keys = {mine.key: theirs.key for mine, theirs in zip(before.plan.trials, other.trials, strict=True)}
    outcomes = [replace(each, trial=keys.get(each.trial, each.trial)) for each in before.outcomes]
    changes = compared(replace(before, plan=other, outcomes=outcomes), before).changes
    assert all(not each.lost and each.before == each.now for each in changes)
    assert any(each.now.count for each in changes if each.name.startswith("certified"))


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        ({"sigma": 0.5}, "only here there is certified sigma 0.5"),
        ({"samples": 500}, "of certified sigma 0.25 samples is 500 here and 1000 in the baseline"),
        ({}, "only in the baseline there is certified sigma 0.25"),
    ],
)
def test_other_noise_is_not_compared(pictures, tmp_path, noise, text):  # noqa: F811
    before, _ = written(pictures, tmp_path)
    spec = replace(ALONE, noise={**NOISE, **noise} if noise else {})
    with pytest.raises(NotComparable, match=text):
        compared(replace(before, plan=spec.plan(card())), before)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"certify_sigma": 0.0}, "--certify-sigma must be above 0 to 2, of pixels in .0, 1.; not 0"),
        ({"certify_sigma": -1.0}, "not -1"),
        ({"certify_sigma": math.nan}, "not nan"),
        ({"certify_sigma": 2.5}, "not 2.5"),
        ({"certify_samples": 100}, "--certify-samples needs --certify-sigma"),
    ],
)
def test_noise_that_cannot_be(options, text):
    with pytest.raises(ValueError, match=text):
        Trials(**options).spec(0, "model_default", "auto")


@pytest.mark.parametrize(
    "text", ["0.25", "0.25:", ":0.3", "a:0.3", "0.25:1.5", "-1:0.3", "nan:0.3", "inf:0.1", "1:2:3"]
)
def test_thresholds_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=r"a radius from 0 on and a share from 0 to 1, such as 0.25:0.30; not"):
        Thresholds(min_certified_accuracy=[text]).limits()


def test_thresholds_that_cannot_be_held():
    limits = Thresholds(min_certified_accuracy=["0.25:0.3", "0.7:0.1"]).limits()
    assert limits.certified == ((0.25, 0.3), (0.7, 0.1))
    with pytest.raises(ValueError, match="needs --certify-sigma"):
        check_radii(CheckSpec([Method("pgd")], [], {}).plan(card()), limits)
    with pytest.raises(ValueError, match=r"the radius 0\.7: 1000 samples of sigma 0\.25 prove at most 0\.6158"):
        check_radii(ALONE.plan(card()), limits)
    for samples in (10, 100, 999, 1000, 100_000):
        plan = replace(ALONE, noise={**NOISE, "samples": samples}).plan(card())
        with pytest.raises(ValueError, match="prove at most") as refused:
            check_radii(plan, Limits(certified=((2.0, 0.3),)))
        told = str(refused.value).split()[-1]
        check_radii(plan, Thresholds(min_certified_accuracy=[f"{told}:0.3"]).limits())


def test_independent_labels_are_refused():
    with pytest.raises(ValueError, match="--certify-sigma: net has the head multilabel, and one class is certified"):
        ALONE.plan(replace(card(), head="multilabel"))


def test_the_options_fix_all_numbers_before_the_run():
    assert Trials(certify_sigma=0.25).spec(0, "model_default", "auto").noise == NOISE
    assert Trials().spec(0, "model_default", "auto").noise == {}
