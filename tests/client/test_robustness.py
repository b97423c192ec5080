"""The gate: counting, keeping what was answered, asking again, and what it writes."""

import asyncio
import json
from types import SimpleNamespace
from xml.etree import ElementTree as Tree

import grpc
import numpy as np
import pytest

from gradserve import Method, errors
from gradserve.datasets import open_dataset
from gradserve.results.common import Score
from gradserve.results.models import ModelCard
from gradserve.robustness import junit, results
from gradserve.robustness.figures import CorruptionResult, counted, mean_ce
from gradserve.robustness.journal import Journal, JournalMismatch
from gradserve.robustness.plan import CheckSpec, eps_text
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Record, described
from gradserve.robustness.run import Check
from gradserve.robustness.thresholds import Limits
from gradserve.transport.retry import RetryPolicy

CLASSES = ("cat", "dog", "ship")
EPS = [1 / 255, 8 / 255]
PGD = CheckSpec([Method("pgd", steps=5)], EPS, {"norm": "linf"})


def card(name: str = "net") -> ModelCard:
    return ModelCard(
        name, "", "ab" * 32, CLASSES, (4, 4), False, (), (), (), 4 / 255, "", 0.0, methods=(), layers=(), notes=()
    )


@pytest.fixture
def pictures(tmp_path):
    """30 pictures of three classes; the number of a picture is the value of its pixels."""
    pixels = np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(30) % 3, classes=CLASSES)
    return open_dataset(tmp_path / "set.npz").labelled_for(CLASSES)


def failure(kind, code, **facts):
    return kind("", code=code, **facts)


DOWN = failure(errors.Unavailable, grpc.StatusCode.UNAVAILABLE)
FULL = failure(errors.ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=0.001)
BROKEN = failure(errors.InternalError, grpc.StatusCode.INTERNAL)
LATE = failure(errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED)
DAMAGED = failure(
    errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT, violations=[errors.Violation("image", "not a picture")]
)
NONSENSE = failure(
    errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT, violations=[errors.Violation("eps", "0 to 1")]
)


class Model:
    """Answers as a model would that errs on every fifth picture and of which every second falls to 8/255.

    `trouble` lists, for a picture and an RPC, the errors that come before the answer.
    """

    def __init__(self, trouble=None):
        self.trouble = {key: list(found) for key, found in (trouble or {}).items()}
        self.asked = []
        self.at_once = self.most_at_once = 0

    async def predict(self, image, *, model, top_k, preprocess, precision, seed, priority):
        number = await self._meet(image, "predict", priority)
        wrong = number % 5 == 0
        top = [score(number + wrong, 0.9, 4.0), score(number + 1 - wrong, 0.1, 1.0)][:top_k]
        return Top(top)

    async def attack(self, image, method, *, label, model, seed, priority, eps=None, loss="cross_entropy", **others):
        number = await self._meet(image, method.name, priority)
        severity = method.parameters.get("severity", 0)
        fallen = (eps == 8 / 255 and number % 2 == 0) or number < severity * (4 if model == "net" else 5)
        after = SimpleNamespace(predicted=score(label + fallen, 0.8, 2.0), margin=-1.0 if fallen else 1.0)
        warnings = () if fallen else self.told(number, method.name, loss)
        certificate = SimpleNamespace(
            after=after,
            verdict="found" if fallen else "not_found",
            warnings=warnings,
            obstacles=tuple(text for text in warnings if text.startswith("ZERO_GRADIENT")),
        )
        stages = self.staged(number, fallen) if method.name == "ensemble" else ()
        provenance = SimpleNamespace(rows=7, warnings=())
        return SimpleNamespace(
            certificate=certificate, loss=loss, method=method.name, stages=stages, provenance=provenance
        )

    def staged(self, number, fallen):
        """What each attack of an ensemble did."""
        return ()

    def told(self, number, method, loss):
        """The warnings for a picture that stands."""
        return ()

    async def _meet(self, image, what, priority):
        assert priority == "batch"
        number = int(image[0, 0, 0])
        self.asked.append((number, what))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        waiting = self.trouble.get((number, what), [])
        if waiting:
            raise waiting.pop(0)
        return number


class Top(list):
    provenance = SimpleNamespace(rows=1, warnings=())


def score(label, probability, logit):
    return Score(label % 3, CLASSES[label % 3], probability, logit)


def measured(model, pictures, folder, wish=PGD, limits=Limits(), reference=None, **options):  # noqa: B008
    plan = wish.plan(card(), reference)
    with Journal(folder / "journal.jsonl", plan.described(pictures)) as journal:
        asyncio.run(Check(model, plan, journal, **options).run(pictures, 8))
        return plan, counted(plan, pictures, journal, limits), journal


@pytest.mark.parametrize(("count", "of"), [(0, 10), (10, 10), (15, 20), (399, 1000), (1, 3)])
def test_wilson_s_bounds_are_the_shares_at_which_the_count_is_1_96_deviations_off(count, of):
    low, high = Proportion(count, of).interval
    assert 0 <= low <= count / of <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(count / of - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / of) ** 0.5, rel=1e-6)
    assert Proportion(0, 0).interval == (0, 1)


@pytest.mark.parametrize(
    ("eps", "text"), [(4 / 255, "4/255"), (0.5, "0.5"), (0.001, "0.001"), (1, "255/255"), (0, "0")]
)
def test_budgets_are_written_as_people_say_them(eps, text):
    assert eps_text(eps) == text


def test_what_is_right_is_attacked_and_counted(pictures, tmp_path):
    model = Model()
    _, found, _ = measured(model, pictures, tmp_path)
    assert (found.clean.count, found.clean.of) == (24, 30)
    small, large = found.attacks
    assert (small.eps, small.standing.count) == ("1/255", 24)
    assert (large.eps, large.standing.count) == ("8/255", 12)
    assert large.verdicts == {"found": 12, "not_found": 12}
    assert sum(what == "pgd" for _, what in model.asked) == 48
    assert model.most_at_once == 8
    assert not found.together


def test_the_model_s_own_budget_is_the_default(pictures):
    assert [str(trial) for trial in CheckSpec([Method("pgd")], [], {}).plan(card()).trials] == ["pgd 4/255"]


def test_several_attacks_are_also_counted_together(pictures, tmp_path):
    wish = CheckSpec([Method("pgd"), Method("square")], [8 / 255], {})
    _, found, _ = measured(
        Model({(1, "square"): [BROKEN] * 9}), pictures, tmp_path, wish, retry_policy=RetryPolicy(retries=0)
    )
    (together,) = found.together
    assert (together.attack, together.standing.count) == ("pgd + square", 11)
    assert together.verdicts == {"found": 12, "not_found": 12}  # The share is of 24 pictures, not of 48 answers.


def test_a_request_that_fails_is_sent_again_and_never_counts_as_robust(pictures, tmp_path):
    trouble = {
        (1, "pgd"): [FULL] * 5 + [DOWN],
        (3, "pgd"): [BROKEN, LATE],
        (7, "pgd"): [BROKEN] * 9,
        (11, "predict"): [LATE] * 9,
    }
    _, found, _ = measured(Model(trouble), pictures, tmp_path, retry_policy=RetryPolicy(retries=2))
    assert found.clean.count == 23
    assert [each.standing.count for each in found.attacks] == [22, 10]
    assert [each.failed for each in found.attacks] == [1, 1]
    assert set(found.failed) == {"7, pgd 1/255", "7, pgd 8/255", "11, clean"}
    assert "INTERNAL" in found.failed["7, pgd 1/255"]
    _, again, _ = measured(Model(), pictures, tmp_path)  # What failed is asked for again, and only that.
    assert again.clean.count == 24
    assert not again.failed


def test_unreadable_pictures_are_counted_apart(pictures, tmp_path):
    _, found, _ = measured(Model({(1, "predict"): [DAMAGED], (6, "predict"): [DAMAGED]}), pictures, tmp_path)
    assert found.unreadable == {"1": "not a picture", "6": "not a picture"}
    assert (found.clean.count, found.clean.of) == (22, 28)
    assert found.attacks[1].standing.of == 28


@pytest.mark.parametrize("error", [NONSENSE, failure(errors.NotFound, grpc.StatusCode.NOT_FOUND)])
def test_a_request_that_makes_no_sense_ends_the_run(pictures, tmp_path, error):
    model = Model({(1, "pgd"): [error]})
    with pytest.raises(type(error)):
        measured(model, pictures, tmp_path)


def test_a_server_that_stays_away_ends_the_run_and_leaves_the_journal(pictures, tmp_path):
    with pytest.raises(errors.Unavailable):
        measured(Model({(20, "predict"): [DOWN] * 99}), pictures, tmp_path, retry_policy=RetryPolicy(seconds=0.1))
    model = Model()
    _, found, journal = measured(model, pictures, tmp_path)
    assert journal.found > 0
    assert len(model.asked) == 78 - journal.found
    assert found.clean.count == 24


def test_a_run_that_was_killed_goes_on_and_finds_the_same(pictures, tmp_path):
    _, whole, _ = measured(Model(), pictures, tmp_path / "whole")
    lines = (tmp_path / "whole/journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/journal.jsonl").write_text("".join(lines[:31]) + lines[31][:20])
    model = Model()
    _, rest, journal = measured(model, pictures, tmp_path / "cut")
    assert rest == whole
    assert journal.found == 30
    assert len(model.asked) == 78 - 30
    _, known, _ = measured(silent := Model(), pictures, tmp_path / "cut")
    assert known == whole
    assert not silent.asked


def test_a_journal_of_another_run_is_refused(pictures, tmp_path):
    measured(Model(), pictures, tmp_path)
    with pytest.raises(JournalMismatch, match="other seed"):
        measured(Model(), pictures, tmp_path, CheckSpec(PGD.methods, EPS, PGD.arguments, seed=1))
    with pytest.raises(JournalMismatch, match="other pictures"):
        measured(Model(), pictures.take(20), tmp_path)
    (tmp_path / "journal.jsonl").write_text("something else")
    with pytest.raises(JournalMismatch, match="not a journal"):
        measured(Model(), pictures, tmp_path)


def test_one_more_trial_asks_only_what_is_new(pictures, tmp_path):
    _, before, _ = measured(Model(), pictures, tmp_path)
    model = Model()
    _, found, _ = measured(model, pictures, tmp_path, CheckSpec(PGD.methods, [*EPS, 2 / 255], PGD.arguments))
    assert len(model.asked) == 24
    assert found.attacks[:2] == before.attacks
    measured(model := Model(), pictures, tmp_path, CheckSpec([Method("pgd", steps=6)], EPS, PGD.arguments))
    assert len(model.asked) == 48  # Other steps have other outcomes.


def test_every_picture_has_a_seed_of_its_own(pictures):
    plan, other = PGD.plan(card()), CheckSpec(PGD.methods, EPS, {}, seed=1).plan(card())
    seeds = {plan.seed_for(each.id) for each in pictures}
    assert len(seeds) == 30
    assert not seeds & {other.seed_for(each.id) for each in pictures}
    assert all(0 <= seed < 1 << 64 for seed in seeds)


def test_corruption_errors_and_mce(pictures, tmp_path):
    wish = CheckSpec([], [], {}, kinds=["fog", "snow"])
    limits = Limits(mce=0.5)
    _, found, _ = measured(Model(), pictures, tmp_path, wish, limits, reference=card("other"))
    fog = found.corruptions[0]
    assert list(fog.errors) == ["1", "2", "3", "4", "5"]
    assert list(fog.errors.values()) == pytest.approx([n / 30 for n in (4, 8, 12, 16, 20)])
    assert list(fog.reference.values()) == pytest.approx([n / 30 for n in (5, 10, 15, 20, 25)])
    assert fog.mean == pytest.approx(0.4)
    assert found.mce == pytest.approx(0.8)
    assert found.verdict == "failed"


@pytest.mark.parametrize(
    ("errors", "mce"),
    [({"fog": 1, "snow": 2}, 1.5), ({"fog": 1, "ice": 0}, 1.0), ({"fog": 1, "ice": 1}, None), ({}, None)],
)
def test_kinds_under_which_the_reference_never_errs(errors, mce):
    reference = {"fog": 0.2, "snow": 0.2, "ice": 0.0}
    kinds = [CorruptionResult(k, {"1": reference[k] * e or 0.1 * e}, {"1": reference[k]}, 0) for k, e in errors.items()]
    assert mean_ce(kinds) == (None if mce is None else pytest.approx(mce))


def test_failures_of_the_reference_do_not_flatter_the_model(pictures, tmp_path):
    class Failing(Model):
        async def attack(self, *arguments, model, **others):
            if model == "other":
                raise BROKEN
            return await super().attack(*arguments, model=model, **others)

    wish = CheckSpec([], [], {}, kinds=["fog"])
    _, found, _ = measured(
        Failing(), pictures, tmp_path, wish, reference=card("other"), retry_policy=RetryPolicy(retries=0)
    )
    assert sum(found.corruptions[0].reference.values()) == 0
    assert found.mce is None


def test_a_defence_is_tried_on_all_pictures(pictures, tmp_path):
    wish = CheckSpec([Method("pgd")], [8 / 255], {"defence": Method("jpeg")})
    model = Model()
    measured(model, pictures, tmp_path, wish)
    assert sum(what == "pgd" for _, what in model.asked) == 30


def test_thresholds_and_what_is_written(pictures, tmp_path):
    trouble = {(7, "pgd"): [BROKEN] * 9, (1, "predict"): [DAMAGED]}
    limits = Limits(robust=0.5, clean=0.7)
    plan, found, journal = measured(
        Model(trouble), pictures, tmp_path, limits=limits, retry_policy=RetryPolicy(retries=0)
    )
    record = Record(plan, described(pictures)).answered(journal)
    assert [each.verdict for each in found.thresholds] == ["passed", "passed", "failed"]
    junit.write(tmp_path / "junit.xml", found, "net", 1.5)
    suite = Tree.parse(tmp_path / "junit.xml").getroot()
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "1", "errors": "2", "skipped": "1"
    }  # fmt: skip
    (failed,) = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == "robust accuracy, pgd 8/255"
    document = results.document(record, found, results.RunStats(30, 0, 100, 2.0))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["robust"][1]["right"] == 10
    assert document["effort"]["rows_per_second"] == 50
