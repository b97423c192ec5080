"""The verdicts of the gate: what stands after each stage of the standard ensemble, and the quick one."""

import json
from types import SimpleNamespace
from xml.etree import ElementTree as Tree

import pytest

from gradserve import Method
from gradserve.cli import main
from gradserve.cli.commands import robustness_merge, robustness_report
from gradserve.cli.commands.robustness_options import Thresholds, Trials
from gradserve.cli.commands.robustness_presets import timeout_for
from gradserve.robustness import reading, results
from gradserve.robustness.judging import all_figures
from gradserve.robustness.plan import CheckSpec
from gradserve.robustness.record import Record, Whole, described
from gradserve.robustness.shards import cut, parsed
from gradserve.robustness.stages import STAGES
from gradserve.robustness.thresholds import Limits

from .test_robustness import BROKEN, Model, measured, pictures  # noqa: F401  a fixture

NAMES = ("apgd", "apgd_targeted", "fab_targeted", "square")
MASKED = "MASKED_GRADIENTS: square found what the attacks by gradients did not"
RANDOM = "RANDOMISED: the same picture got other scores when asked again"
NO_GRADIENT = "ZERO_GRADIENT: every attack by gradients lacked one at some step"
STANDARD = CheckSpec([Method("ensemble")], [8 / 255], {"norm": "linf"})
# By the last digit of a picture's number: the stage that fells it, 0 to 3, or what else becomes of it. Of 0 and 5 every
# picture is wrong as it is.
FATE = {1: 0, 2: 0, 3: 1, 4: 2, 6: 3, 7: "lost", 8: "blind", 9: "stands"}


class Ensemble(Model):
    """Answers as the ensemble does: the pictures fall to different stages."""

    async def attack(self, image, method, *, label, model, seed, priority, eps=None, loss=None, **others):
        assert loss is None or method.name != "ensemble", "the ensemble takes no loss"
        number = await self._meet(image, method.name, priority)
        fate = FATE[number % 10]
        fallen = isinstance(fate, int)
        ran = NAMES[: fate + 1] if fallen else NAMES
        stages = [SimpleNamespace(method=name, reached=fallen and name == ran[-1]) for name in ran]
        warnings = [(MASKED, RANDOM)] if fate == 3 else [(NO_GRADIENT,)] if fate == "blind" else [()]
        verdict = "found" if fallen else "lost_in_encoding" if fate == "lost" else "not_found"
        certificate = SimpleNamespace(
            after=SimpleNamespace(
                predicted=SimpleNamespace(
                    class_index=(label + fallen) % 3, class_name=str((label + fallen) % 3), probability=0.8
                ),
                margin=-1.0 if fallen else 1.0,
            ),
            verdict=verdict,
            warnings=warnings[0],
            obstacles=tuple(text for text in warnings[0] if text.startswith("ZERO_GRADIENT")),
        )
        provenance = SimpleNamespace(rows=7, warnings=())
        self.losses = (*getattr(self, "losses", ()), (number, loss))
        return SimpleNamespace(
            certificate=certificate,
            loss=loss or ("margin" if method.name == "ensemble" else "dlr"),
            method=method.name,
            stages=stages if method.name == "ensemble" else (),
            provenance=provenance,
        )


def written(pictures, folder, shard=None, limits=Limits(), baseline=None, model=None):  # noqa: B008, F811
    """Measures a shard, or all, into a folder; the document."""
    chosen = cut(pictures, shard) if shard else pictures
    plan, _, journal = measured(model or Ensemble(), chosen, folder, STANDARD)
    record = Record(plan, described(chosen), shard=shard, of_shard=Whole.of(pictures)).answered(journal)
    effort = results.RunStats(len(chosen), journal.found, journal.rows, 2.0)
    figures = all_figures(record, limits, baseline)
    return robustness_report.write(folder, record, figures, effort, robustness_report.Shown(), {})


def test_what_stands_after_each_stage_is_counted(pictures, tmp_path):  # noqa: F811
    """Of 30 pictures 24 are right as they are; 3 of each fate, and 6 fall to apgd."""
    model = Ensemble()
    _, found, journal = measured(model, pictures, tmp_path, STANDARD)
    (ensemble,) = found.attacks
    assert [stage.method for stage in ensemble.stages] == list(NAMES) == list(STAGES["ensemble"])
    # Those that are lost in 8 bits fell to no stage, and count as fallen to the last one that ran.
    assert [stage.standing.count for stage in ensemble.stages] == [15, 12, 9, 3]
    assert [stage.possible.count for stage in ensemble.stages] == [18, 15, 12, 6]
    assert {stage.standing.of for stage in ensemble.stages} == {30}
    assert ensemble.stages[-1].standing == ensemble.standing
    assert ensemble.stages[-1].possible == ensemble.possible
    felled = {each.id: each.felled_by for each in journal if each.trial.startswith("ensemble") and each.felled_by}
    assert (felled["1"], felled["3"], felled["4"], felled["6"], felled["7"]) == (*NAMES, "square")
    assert "9" not in felled
    assert ensemble.reasons == {NO_GRADIENT: 3}


def test_an_ensemble_is_not_tried_again_with_a_loss_and_malt_is(pictures, tmp_path):  # noqa: F811
    model = Ensemble()
    measured(model, pictures, tmp_path / "ensemble", STANDARD)
    assert {loss for _, loss in model.losses} == {None}
    assert len(model.losses) == 24
    quick = Ensemble()
    _, found, _ = measured(quick, pictures, tmp_path / "malt", CheckSpec([Method("malt")], [8 / 255], {}))
    assert {number % 10 for number, loss in quick.losses if loss == "margin"} == {8}
    assert found.attacks[0].tried_again == 3
    assert not found.attacks[0].stages


def test_a_failed_request_and_a_wrong_picture_stand_no_stage(pictures, tmp_path):  # noqa: F811
    model = Ensemble({(9, "ensemble"): [BROKEN] * 20})
    _, found, _ = measured(model, pictures, tmp_path, STANDARD)
    assert found.attacks[0].failed == 1
    assert [stage.standing.count for stage in found.attacks[0].stages] == [14, 11, 8, 2]


def test_every_report_has_the_stages_and_says_what_makes_them_doubtful(pictures, tmp_path, capsys):  # noqa: F811
    document = written(pictures, tmp_path)
    assert document == json.loads((tmp_path / "results.json").read_text())
    (robust,) = document["robust"]
    assert [(each["method"], each["right"], each["possible_accuracy"]) for each in robust["stages"]] == [
        ("apgd", 15, 18 / 30),
        ("apgd_targeted", 12, 15 / 30),
        ("fab_targeted", 9, 12 / 30),
        ("square", 3, 6 / 30),
    ]
    assert all(each["low"] < each["accuracy"] < each["high"] for each in robust["stages"])
    outcomes = {each["id"]: each["trials"]["ensemble 8/255"] for each in document["outcomes"] if each["id"] in "369"}
    assert [outcomes[id].get("felled_by") for id in "369"] == ["apgd_targeted", "square", None]
    said = " ".join(capsys.readouterr().err.split())
    page = (tmp_path / "report.html").read_text()
    properties = [
        (each.get("name"), each.get("value")) for each in Tree.parse(tmp_path / "junit.xml").getroot().iter("property")
    ]
    stage = "robust accuracy, ensemble 8/255, after apgd_targeted"
    assert dict(properties)[stage].startswith("40.0% to 50.0% (")
    cautions = " ".join(value for name, value in properties if name == "caution, ensemble 8/255")
    assert "after fab_targeted" in said
    assert "<td>after fab_targeted</td>" in page
    for words in (
        "3 pictures fell to square alone, which asks for scores and no gradients: the network hides its gradients",
        "3 pictures got other scores when asked again: the network is random",
    ):
        assert words in said
        assert words in page
        assert words in cautions
    assert "<h2>Caution</h2>" in page


def test_without_such_warnings_there_is_no_caution(pictures, tmp_path, capsys):  # noqa: F811
    class Calm(Ensemble):
        async def attack(self, image, method, **others):
            found = await super().attack(image, method, **others)
            found.certificate.warnings = ()
            return found

    written(pictures, tmp_path, model=Calm())
    assert "caution" not in capsys.readouterr().err
    assert "Caution" not in (tmp_path / "report.html").read_text()


def test_merged_shards_a_resumed_run_and_a_baseline_are_one_run(pictures, tmp_path):  # noqa: F811
    whole = written(pictures, tmp_path / "whole")
    folders = [tmp_path / f"out-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        written(pictures, folder, parsed(f"{number}/3"))
    merged = robustness_merge.merge(folders, Thresholds(), tmp_path / "merged")
    assert {**merged, "effort": None} == {**whole, "effort": None}

    lines = (tmp_path / "whole/journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/journal.jsonl").write_text("".join(lines[:30]) + lines[30][:20])
    assert {**written(pictures, tmp_path / "cut"), "effort": None} == {**whole, "effort": None}

    earlier = reading.record(tmp_path / "whole")
    again = written(pictures, tmp_path / "again", limits=Limits(no_worse=0), baseline=earlier)
    assert (again["robust"], again["outcomes"]) == (whole["robust"], whole["outcomes"])
    assert all(not each["lost"] and not each["gained"] for each in again["comparison"]["changes"])
    assert again["verdict"] == "not_measured", "pictures that were not measured may have changed"


def test_a_preset_is_its_attack_with_defaults() -> None:
    for trials, name in ((Trials(standard=True, eps=["8/255"], norm="l2"), "ensemble"), (Trials(quick=True), "malt")):
        spec = trials.spec(0, "model_default", "auto")
        assert spec.methods == [Method(name)]
        assert spec.arguments == {"norm": trials.norm}
    names = ("ensemble", "malt", "apgd_targeted", "pgd")
    seconds = {name: timeout_for(CheckSpec([Method(name)], [], {})) for name in names}
    assert seconds == {"ensemble": 3600, "malt": 3600, "apgd_targeted": 3600, "pgd": 300}
    assert timeout_for(CheckSpec([], [], {}, noise={"sigma": 0.25})) == 3600


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--standard", "--quick"], "--standard and --quick are two verdicts: take one of them"),
        (["--standard", "--attack", "apgd"], "leave out --attack, or name --attack ensemble instead"),
        (["--quick", "--param", "steps=3"], "--quick is the attack malt with its defaults"),
        (["--quick", "--loss", "margin", "--param", "steps=3"], "leave out --param and --loss, or name --attack malt"),
        (["--standard", "--merge", "out"], "--merge takes what its shards measured"),
        (["--merge", "out", "--precision", "exact"], "--merge takes what its shards measured"),
        (["--merge", "out", "--concurrency", "1"], "--merge takes what its shards measured"),
    ],
)
def test_presets_exclude_what_they_set(capsys, options, says):
    with pytest.raises(SystemExit, match="2"):
        main(["robustness", "--data", ".", *options])
    assert says in " ".join(capsys.readouterr().err.split())


def test_the_help_says_when_to_take_which(capsys):
    with pytest.raises(SystemExit):
        main(["robustness", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The verdict for a reviewer or a release: the standard ensemble as published" in said
    assert "The verdict for every commit" in said
