"""The page of the robustness check: its verdict, where it comes from, and the command that makes it again."""

import html as entities
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gradserve.cli import command_lines
from gradserve.cli.commands import robustness_report
from gradserve.robustness import results
from gradserve.robustness.thresholds import Limits

from .test_not_measured import Blind
from .test_robustness import EPS, PGD, Model, measured, pictures  # noqa: F401  a fixture

EVIL = "<script>alert('x')</script>"


def report(pictures, folder, limits, model=None, origin=None):  # noqa: F811
    plan, found, _ = measured(model or Model(), pictures, folder, replace(PGD, budgets=EPS[:1]), limits)
    return robustness_report.html(plan, found, results.RunStats(30, 0, 100, 2.0), [], origin or {})


def states(page):
    return re.findall(r'<tr class="(\w+)">', page)


@pytest.mark.parametrize(
    ("limits", "model", "state", "text"),
    [
        (Limits(clean=0.5), None, "passed", "Passed: every threshold holds."),
        (Limits(clean=0.95), None, "failed", "Failed: not every threshold holds."),
        (
            Limits(robust=0.75),
            Blind,
            "not_measured",
            "Not measured: the verdict depends on the pictures below that were not measured.",
        ),
    ],
)
def test_the_verdict_is_told_in_its_colour(pictures, tmp_path, limits, model, state, text):  # noqa: F811
    page = report(pictures, tmp_path, limits, model and model())
    assert f'<p class="verdict {state}">{text}</p>' in page
    assert state in states(page)
    assert f".verdict.{state}" in page  # The style sheet gives it a colour.
    assert f"tr.{state} td:last-child" in page


def test_without_thresholds_there_is_no_verdict(pictures, tmp_path):  # noqa: F811
    page = report(pictures, tmp_path, Limits())
    assert '<p class="verdict' not in page
    assert not states(page)


@pytest.mark.parametrize(
    ("limits", "methods", "advice"),
    [
        (Limits(), PGD.methods, "--min-robust-accuracy sets one"),
        (Limits(), [], "--min-clean-accuracy sets one"),
        (Limits(clean=0.5), PGD.methods, None),
    ],
)
def test_the_terminal_says_where_nothing_can_fail(pictures, tmp_path, capsys, limits, methods, advice):  # noqa: F811
    spec = replace(PGD, methods=methods, budgets=EPS[:1])
    plan, found, _ = measured(Model(), pictures, tmp_path, spec, limits)
    robustness_report.show(plan, found, results.RunStats(30, 0, 100, 2.0), tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert advice in told if advice else "no threshold was given" not in told


def test_where_a_report_comes_from(pictures, tmp_path):  # noqa: F811
    plan, _, _ = measured(Model(), pictures, tmp_path, PGD, Limits())
    command_lines.ARGUMENTS.set(["robustness", "--data", "my photos/", "--token=secret", "--eps", "4/255"])
    found = robustness_report.origin(plan, "example.org:7")
    made = datetime.strptime(found.pop("date"), "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 120
    assert found == {
        "server": "example.org:7",
        "weights of net": "ab" * 32,
        "repeat with": "gradserve robustness --data 'my photos/' --token=\"$GRADSERVE_TOKEN\" --eps 4/255 "
        "--model net --server example.org:7",
    }
    page = report(pictures, tmp_path / "again", Limits(), origin=found)
    terms = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    texts = {name: entities.unescape(re.sub(r"<.*?>", "", value)).strip() for name, value in terms}
    assert texts == found


def test_the_command_that_makes_it_again():
    def repeated(*arguments, server="127.0.0.1:50051"):
        command_lines.ARGUMENTS.set(arguments)
        return shlex.split(command_lines.repeat("net", server))

    assert repeated() == []
    assert repeated("robustness") == ["gradserve", "robustness", "--model", "net"]
    assert repeated("robustness", "-m", "mine", "--server=h:1", server="h:1") == [
        *("gradserve", "robustness", "-m", "mine", "--server=h:1")
    ]
    assert repeated("robustness", "--model=mine", "--token", "secret", "--json", server="h:1") == [
        *("gradserve", "robustness", "--model=mine", "--token", "$GRADSERVE_TOKEN", "--json", "--server", "h:1")
    ]


def test_names_are_escaped_and_may_break(pictures, tmp_path):  # noqa: F811
    page = report(pictures, tmp_path, Limits(), origin={EVIL: EVIL, "repeat with": "a&b"})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") == 2
    assert "a&amp;b" in page
    assert re.search(r"h3, h4, td, .*overflow-wrap: anywhere", page)
