"""Figures by group, and what is asked of every group."""

import numpy as np
import pytest
from PIL import Image

from gradserve.cli.commands import robustness_report
from gradserve.datasets import open_dataset
from gradserve.robustness import reading, results
from gradserve.robustness.figures import counted
from gradserve.robustness.groups import check_column, grouped
from gradserve.robustness.plan import CheckSpec
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Record, described

from .test_not_measured import Blind
from .test_robustness import CLASSES, Model, measured

LIGHT = {0: "day", 1: "night", 2: ""}


class FromFiles:
    """Makes a model read the number of a picture from its file."""

    async def _meet(self, image, what, priority):
        return await super()._meet(np.asarray(Image.open(image)), what, priority)


class ReadsFiles(FromFiles, Model):
    pass


class BlindReadsFiles(FromFiles, Blind):
    pass


@pytest.fixture
def pictures(tmp_path):
    """Pictures 1 to 29, whose numbers are the values of their pixels; the light changes every ten."""
    lines = ["file,class_name,light"]
    for number in range(1, 30):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{CLASSES[number % 3]}, {LIGHT[number // 10]} ")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return open_dataset(tmp_path).labelled_for(CLASSES)


def run(model, pictures, folder):
    plan, _, journal = measured(model, pictures, folder)
    return Record(plan, described(pictures, "light"), column="light").answered(journal)


def test_every_figure_is_counted_by_group(pictures, tmp_path):
    record = run(ReadsFiles(), pictures, tmp_path / "out")
    figures = grouped(counted(record.plan, record.pictures, record.outcomes), record, 0.5)
    assert list(figures.groups) == ["(none)", "day", "night"]
    numbers = {"day": range(1, 10), "night": range(10, 20), "(none)": range(20, 30)}
    for name, group in figures.groups.items():
        right = [number for number in numbers[name] if number % 5]
        odd = [number for number in right if number % 2]
        assert group.clean == Proportion(len(right), len(numbers[name]))
        assert [each.standing for each in group.attacks] == [group.clean, Proportion(len(odd), len(numbers[name]))]
    names = [each.name for each in figures.thresholds]
    assert names[:2] == ["robust accuracy, pgd 1/255, light (none)", "robust accuracy, pgd 8/255, light (none)"]
    assert [each.verdict for each in figures.thresholds] == ["passed", "failed"] * 3
    assert not grouped(figures, record, None).thresholds[len(names) :]


def test_a_group_that_was_not_measured_decides(pictures, tmp_path):
    record = run(BlindReadsFiles(), pictures, tmp_path / "out")
    figures = grouped(counted(record.plan, record.pictures, record.outcomes), record, 0.8)
    small = [each for each in figures.thresholds if "pgd 1/255" in each.name]
    assert {each.name.split("light ")[1]: each.verdict for each in small} == {
        "day": "not_measured",  # Pictures 1 to 4 of 8 that are right may stand or not.
        "night": "passed",
        "(none)": "passed",
    }


def test_reports_show_the_groups_and_results_are_read_again(pictures, tmp_path):
    record = run(ReadsFiles(), pictures, tmp_path / "out")
    figures = grouped(counted(record.plan, record.pictures, record.outcomes), record, None)
    effort, shown = results.RunStats(29, 0, 1, 1.0), robustness_report.Shown()
    document = robustness_report.write(tmp_path, record, figures, effort, shown, {})
    assert document["groups"]["column"] == "light"
    day = document["groups"]["figures"]["day"]
    assert (day["clean"]["right"], day["clean"]["of"], day["robust"][1]["right"]) == (8, 9, 4)
    assert day["clean"]["low"] < 8 / 9 < day["clean"]["high"]
    read = reading.record(tmp_path)
    assert grouped(counted(read.plan, read.pictures, read.outcomes), read, None) == figures
    assert "By light" in (tmp_path / "report.html").read_text()


def test_corruption_errors_by_group_have_intervals(pictures, tmp_path):
    plan, _, journal = measured(ReadsFiles(), pictures, tmp_path / "out", CheckSpec([], [], {}, kinds=["fog"]))
    record = Record(plan, described(pictures, "light"), column="light").answered(journal)
    figures = grouped(counted(plan, record.pictures, record.outcomes), record, None)
    effort, shown = results.RunStats(29, 0, 1, 1.0), robustness_report.Shown()
    document = robustness_report.write(tmp_path, record, figures, effort, shown, {})
    for name, numbers in (("day", range(1, 10)), ("night", range(10, 20)), ("(none)", range(20, 30))):
        (fog,) = document["groups"]["figures"][name]["corruptions"]
        for severity in range(1, 6):
            wrong = Proportion(sum(number < 4 * severity for number in numbers), len(numbers))
            assert fog["errors"][str(severity)] == pytest.approx(wrong.value)
            assert fog["intervals"][str(severity)] == list(wrong.interval)
    page = (tmp_path / "report.html").read_text()
    assert "error, fog 5" in page
    assert "10 of 10" in page


def test_columns_that_there_are_not(pictures, tmp_path):
    check_column(pictures, "light")
    with pytest.raises(
        ValueError, match=r"labels.csv has no column 'lihgt' for --group; it has file, class_name, light$"
    ):
        check_column(pictures, "lihgt")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"--group needs a folder with labels.csv; .*set has none"):
        check_column(open_dataset(tmp_path / "set"), "light")
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("\n1.png,dog,night\n")
    with pytest.raises(ValueError, match=r"1.png is in two groups by the column light"):
        check_column(open_dataset(tmp_path), "light")
