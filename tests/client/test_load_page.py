"""The page about loads, its charts, and how a capacity is found."""

import asyncio
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from gradserve.load import capacity, charts, page
from gradserve.load.figures import figures
from gradserve.load.loops import ClosedLoop, OpenLoop, Recording
from gradserve.load.mix import MixEntry
from gradserve.load.sender import Sample

EVIL = '<script>alert("1")</script>'


def run(rate=10.0, *, name="m", title="a load"):
    samples = [Sample(0, 0.1 * i, 0.0, 0.01 * (1 + i), 1, "OK", "") for i in range(50)]
    samples += [Sample(0, 5.5, 0.0, 0.002, 0, "RESOURCE_EXHAUSTED", "QUEUE_FULL")]
    recording = Recording(OpenLoop(rate, 10.0), samples, 0.0, 10.0, 3, 0.1)
    return page.LoadRun(title, recording, figures(recording, [MixEntry("predict", model=name)], [2.0]))


def pictures(html):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_a_page_has_its_pictures_and_nothing_from_elsewhere():
    html = page.html("Load", ["a fact"], [run(), run(20.0)])
    assert [each.get("aria-label") for each in pictures(html)] == [
        "Latency by load",
        *("Latency over time", "Codes"),
        *("Latency over time", "Codes"),
    ]
    assert not re.search(r"https?:|src=|<link|@import|url\(", html)
    assert "50 OK, 1 RESOURCE_EXHAUSTED (1 QUEUE_FULL)" in re.sub(r"\s+", " ", html)


def test_one_rate_has_no_latency_by_load():
    assert "Latency by load" not in page.html("Load", [], [run()])


def test_texts_are_escaped():
    html = page.html(EVIL, [EVIL], [run(name=EVIL, title=EVIL)])
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") == 5  # Two titles, fact, heading, entry.


def test_everything_is_drawn_inside_the_plot():
    for picture in pictures(page.html("Load", [], [run(), run(200.0)])):
        for circle in picture.iter("circle"):
            assert charts.LEFT <= float(circle.get("cx")) <= charts.WIDTH - charts.RIGHT
            assert charts.TOP <= float(circle.get("cy")) <= charts.HEIGHT - charts.BOTTOM
        for bar in picture.iter("rect"):
            assert float(bar.get("y")) >= charts.TOP
            assert float(bar.get("y")) + float(bar.get("height")) <= charts.HEIGHT - charts.BOTTOM + 0.11


def test_a_line_is_where_its_axis_says_and_has_gaps():
    chart = charts.latencies("", "", 4.0, {"p50": [(0, 0.1), (1, None), (2, 1.0), (4, 0.5)], "refused": [(0, None)]})
    (line,) = chart.lines
    marks = {tick.text: tick.at for tick in chart.y_ticks}
    assert [y for _, y in line.points] == pytest.approx([marks["0.1"], marks["1"], marks["0.5"]])
    assert [x for x, _ in line.points] == pytest.approx([charts.LEFT, (charts.LEFT + 748) / 2, 748])
    assert re.sub(r"[\d. ]+", "", line.path) == "MML"


def test_bars_lie_on_each_other_and_are_as_high_as_their_values():
    chart = charts.stacked("", "", "", 0.5, {"OK": [2.0, 0.0], "INTERNAL": [2.0, 1.0]})
    ok, fault, alone = chart.bars
    marks = {tick.text: tick.at for tick in chart.y_ticks}
    assert (ok.y, ok.y + ok.height) == (pytest.approx(marks["2"]), pytest.approx(marks["0"]))
    assert (fault.y, fault.y + fault.height) == (pytest.approx(marks["4"]), pytest.approx(marks["2"]))
    assert (alone.name, alone.y + alone.height) == ("INTERNAL", pytest.approx(marks["0"]))


# Capacity


def pretended(rate, *, seconds=0.01, limit=math.inf):
    """A load that is answered at that rate at most, and in so many seconds."""
    loads = []

    async def run(loop):
        loads.append(loop)
        offered = loop.rate if isinstance(loop, OpenLoop) else min(loop.callers / seconds, rate)
        answers = round(10 * min(offered, rate))
        wait = seconds if offered <= limit else 1.0
        samples = [Sample(0, 0.0, 0.0, wait, 1, "OK", "") for _ in range(answers)]
        samples += [Sample(0, 0.0, 0.0, wait, 1, "DEADLINE_EXCEEDED", "")] * (round(10 * offered) - answers)
        return figures(Recording(loop, samples, 0.0, 10.0, 1, 0.1), [MixEntry("predict")], [2.0])

    return loads, run


def found(run, max_p95=0.5):
    return asyncio.run(capacity.find(run, seconds=10.0, warm_up=0.0, max_p95=max_p95, max_under_way=100))


def test_capacity_is_the_fastest_open_loop_that_was_answered():
    loads, run = pretended(1000.0)
    answer = found(run)
    assert answer.closed_rate == 1000.0
    assert [each.callers for each in loads if isinstance(each, ClosedLoop)] == [4, 8, 16, 32, 64]
    assert [each.rate for each in loads if isinstance(each, OpenLoop)] == pytest.approx([800, 900, 1000, 1100])
    assert answer.rate == pytest.approx(1000.0)
    assert "of 1100.0/s only 1000.0/s were answered in time" in answer.how


def test_capacity_keeps_within_a_bound_of_latency():
    _, run = pretended(1000.0, limit=950.0)
    answer = found(run)
    assert answer.rate == pytest.approx(900.0)
    assert "at 1000.0/s the p95 was 1.000 s, above 0.5 s" in answer.how


def test_capacity_goes_down_where_the_first_open_loop_fails():
    loads, run = pretended(1000.0, limit=550.0)
    assert found(run).rate == pytest.approx(500.0)
    assert [each.rate for each in loads if isinstance(each, OpenLoop)] == pytest.approx([800, 700, 600, 500])


def test_a_server_that_answers_nothing_has_no_capacity():
    loads, run = pretended(0.0)
    answer = found(run)
    assert (answer.rate, answer.closed_rate) == (0.0, 0.0)
    assert answer.how == "no caller was answered within the deadline"
    assert not [each for each in loads if isinstance(each, OpenLoop)]


def test_the_search_is_bounded():
    loads, run = pretended(math.inf, seconds=1.0)
    answer = found(run, max_p95=2.0)
    assert answer.rate == pytest.approx(1.5 * 256)
    assert answer.how.endswith("faster ones were not tried")
    assert len(loads) == capacity.MAX_STEPS
