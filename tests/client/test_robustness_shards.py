"""Shards of a run and their reports merged, which must be those of one run."""

import json
from dataclasses import replace

import pytest

from gradserve.cli.commands import robustness_merge, robustness_report
from gradserve.cli.commands.robustness_options import Thresholds
from gradserve.robustness import results
from gradserve.robustness.judging import all_figures
from gradserve.robustness.record import Record, Whole, described
from gradserve.robustness.shards import NotOneRun, cut, merged, parsed
from gradserve.robustness.thresholds import Limits

from .test_not_measured import OTHER, Blind
from .test_robustness import DAMAGED, EPS, PGD, measured, pictures  # noqa: F401  a fixture

TROUBLE = {(1, "predict"): [DAMAGED]}


def written(pictures, folder, shard=None, spec=PGD):  # noqa: F811
    """Measures a shard, or all, into a folder; the document."""
    chosen = cut(pictures, shard) if shard else pictures
    plan, _, journal = measured(Blind(TROUBLE), chosen, folder, spec)
    record = Record(plan, described(chosen), shard=shard, of_shard=Whole.of(pictures)).answered(journal)
    effort = results.RunStats(len(chosen), journal.found, journal.rows, 2.0)
    figures = all_figures(record, Limits(), None)
    return robustness_report.write(folder, record, figures, effort, robustness_report.Shown(), {})


@pytest.fixture
def folders(pictures, tmp_path):  # noqa: F811
    """Four shards of 30 pictures."""
    folders = [tmp_path / f"out-{number}" for number in range(1, 5)]
    for number, folder in enumerate(folders, 1):
        written(pictures, folder, parsed(f"{number}/4"))
    return folders


def without(document, *names):
    return {name: value for name, value in document.items() if name not in names}


def test_merged_shards_are_one_run(pictures, folders, tmp_path):  # noqa: F811
    whole = written(pictures, tmp_path / "whole")
    assert whole["robust"][0]["not_measured"] == 3
    assert whole["robust"][0]["warnings"] == {OTHER: 23}
    assert whole["unreadable"]
    found = robustness_merge.merge([*folders[::-1], folders[2]], Thresholds(), tmp_path / "merged")
    assert found == json.loads((tmp_path / "merged" / "results.json").read_text())
    assert without(found, "effort") == without(whole, "effort")
    assert found["effort"]["rows"] == whole["effort"]["rows"] > 0
    assert found["effort"]["seconds"] == 8
    shown = (tmp_path / "merged" / "report.html").read_text()
    assert "merged from" in shown
    assert (tmp_path / "merged" / "junit.xml").exists()


def test_a_shard_that_was_killed_and_goes_on_is_the_same(pictures, folders, tmp_path):  # noqa: F811
    before = (folders[1] / "results.json").read_text()
    lines = (folders[1] / "journal.jsonl").read_text().splitlines(keepends=True)
    (folders[1] / "journal.jsonl").write_text("".join(lines[:8]) + lines[8][:30])
    (folders[1] / "results.json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*out-2/results.json; a run writes it when it ends"):
        merged(folders)
    again = written(pictures, folders[1], parsed("2/4"))
    assert again["effort"]["answers_from_the_journal"] == 7
    assert without(again, "effort") == without(json.loads(before), "effort")
    whole = written(pictures, tmp_path / "whole")
    assert without(robustness_merge.merge(folders, Thresholds(), tmp_path / "m"), "effort") == without(whole, "effort")


def test_merged_shards_meet_thresholds_and_a_baseline(pictures, folders, tmp_path):  # noqa: F811
    written(pictures, tmp_path / "whole")
    asked = Thresholds(min_clean_accuracy=0.9, baseline=tmp_path / "whole", no_worse=0.5)
    found = robustness_merge.merge(folders, asked, tmp_path / "merged")
    assert [each["verdict"] for each in found["thresholds"]] == ["failed", "passed", "passed", "passed"]
    assert all(not each["lost"] and not each["gained"] for each in found["comparison"]["changes"])


def test_what_is_not_one_run_is_refused(pictures, folders, tmp_path):  # noqa: F811
    written(pictures, tmp_path / "whole")
    for name, set, spec in [
        ("seed", pictures, replace(PGD, seed=1)),
        ("trials", pictures, replace(PGD, budgets=EPS[:1])),
        ("set", pictures.take(20), PGD),
    ]:
        written(set, tmp_path / name, parsed("4/4"), spec)
    written(pictures, tmp_path / "fifth", parsed("4/5"))
    (tmp_path / "forged").mkdir()
    forged = json.loads((folders[3] / "results.json").read_text())
    forged["outcomes"][2]["id"] = "0"
    (tmp_path / "forged" / "results.json").write_text(json.dumps(forged))
    for given, complaint in [
        ([], "--merge needs the folders of all shards"),
        (folders[:1] + folders[2:3], "missing: shard 2/4, 4/4$"),
        ([*folders[:3], tmp_path / "whole"], "whole is a whole run, not a shard of one"),
        ([*folders[:3], tmp_path / "seed"], "seed is of a run with other seed than .*out-1"),
        ([*folders[:3], tmp_path / "trials"], "is of a run with other trials than"),
        ([*folders[:3], tmp_path / "set"], "is of a run with other set than"),
        ([*folders[:3], tmp_path / "fifth"], "is of a run with other number of shards than"),
        ([*folders[:3], tmp_path / "forged"], "are not those of one set, each once"),
    ]:
        with pytest.raises(NotOneRun, match=complaint):
            merged(given)
    del forged["seed"]
    (tmp_path / "forged" / "results.json").write_text(json.dumps(forged))
    with pytest.raises(ValueError, match="forged is damaged: KeyError: 'seed'"):
        merged([*folders[:3], tmp_path / "forged"])
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "results.json").write_text((folders[2] / "results.json").read_text())
    with pytest.raises(NotOneRun, match=r"out-3 and .*copy overlap: both are shard 3/4"):
        merged([*folders, copy])
    with pytest.raises(ValueError, match="is the folder of a shard"):
        robustness_merge.merge(folders, Thresholds(), folders[0])
    with pytest.raises(ValueError, match="--model other: these shards measured net"):
        robustness_merge.merge(folders, Thresholds(), tmp_path / "merged", "other")
    with pytest.raises(ValueError, match="--group light: these shards are not grouped"):
        robustness_merge.merge(folders, Thresholds(group="light"), tmp_path / "merged")


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/2/3", ""])
def test_shards_that_there_are_not(text):
    with pytest.raises(ValueError, match="--shard is a number and how many there are"):
        parsed(text)


def test_every_shard_has_a_picture(pictures):  # noqa: F811
    assert [example.id for example in cut(pictures, parsed("30/30"))] == ["29"]
    with pytest.raises(ValueError, match="more shards than pictures"):
        cut(pictures, parsed("1/31"))
