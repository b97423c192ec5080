"""Load: arrivals, figures, the loops against a small server, and the command."""

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import contextmanager
from itertools import cycle

import numpy as np
import pytest

from gradserve import cli, errors
from gradserve.load.arrivals import poisson
from gradserve.load.figures import Latency, figures
from gradserve.load.loops import ClosedLoop, OpenLoop, Recording, record
from gradserve.load.mix import MixEntry
from gradserve.load.sender import Sample, Sender
from gradserve.transport.channel import Endpoint

from .fake import FakeServer

PREDICT = MixEntry("predict", model="tiny")


def load(server, loop, *mix, pictures=(b"",), connections=1, **settings):
    """The recording of a load on the fake server."""

    async def run():
        endpoint = Endpoint(server.target, None, None, retries=0, connections=connections)
        async with Sender(endpoint, mix or [PREDICT], list(pictures), **{"deadline": 30.0, **settings}) as sender:
            return await record(sender, loop)

    return asyncio.run(run())


@pytest.fixture
def picture(photo_path):
    return photo_path.read_bytes()


# Arrivals


def test_intervals_are_those_of_a_poisson_process():
    rate, seconds = 50.0, 2000.0
    times = np.array(list(poisson(rate, seconds, seed=1)))
    gaps = np.diff(times, prepend=0.0)
    n = rate * seconds
    assert times[-1] < seconds
    assert abs(len(times) - n) < 5 * n**0.5
    assert gaps.mean() == pytest.approx(1 / rate, rel=5 / n**0.5)
    # The variance of an exponential distribution's sample variance is 8 / n of its square.
    assert gaps.var() == pytest.approx(1 / rate**2, rel=5 * (8 / n) ** 0.5)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / n**0.5


def test_arrivals_repeat_by_their_seed():
    assert list(poisson(5, 10, seed=3)) == list(poisson(5, 10, seed=3))
    assert list(poisson(5, 10, seed=3)) != list(poisson(5, 10, seed=4))


# Figures


def sample(due=1.0, seconds=0.5, code="OK", *, entry=0, late=0.0, reason=""):
    return Sample(entry, due, late, seconds, 3, code, reason)


def measured(*samples, deadlines=(2.0, 2.0), begin=0.0, end=10.0, cpu_share=0.1):
    mix = [MixEntry("predict"), MixEntry("explain", method="gradient")]
    loop = OpenLoop(10, end - begin, begin, max_under_way=7)
    return figures(Recording(loop, list(samples), begin, end, 5, cpu_share), mix, deadlines)


def test_percentiles():
    run = measured(*(sample(seconds=0.010 * (i + 1)) for i in range(100)))
    assert run.all.ok == Latency(*map(pytest.approx, (0.505, 0.901, 0.9505, 0.9901, 1.0)))
    assert run.all.refused is None


def test_refusals_have_percentiles_of_their_own():
    refusals = [sample(seconds=9.0 + i, code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL") for i in range(3)]
    run = measured(sample(), *refusals, sample(seconds=2.0, code="DEADLINE_EXCEEDED"))
    assert (run.all.ok.max, run.all.refused.p50, run.all.refused.max) == (0.5, 10.0, 11.0)
    assert run.all.codes == {"RESOURCE_EXHAUSTED": 3, "OK": 1, "DEADLINE_EXCEEDED": 1}
    assert run.all.reasons == {"RESOURCE_EXHAUSTED": {"QUEUE_FULL": 3}}


def test_goodput_counts_answers_within_their_entrys_deadline():
    in_time, too_late = sample(seconds=1.9), sample(seconds=2.1)
    patient = sample(seconds=2.1, entry=1)
    run = measured(in_time, too_late, patient, sample(code="INTERNAL"), deadlines=(2.0, 3.0))
    assert (run.all.answered, run.all.goodput) == (pytest.approx(0.3), pytest.approx(0.2))
    assert run.all.rows == pytest.approx(0.9)
    assert [each.goodput for each in run.entries] == [pytest.approx(0.1), pytest.approx(0.1)]
    assert [each.name for each in run.entries] == ["predict", "explain gradient"]


def test_the_warm_up_and_what_comes_after_the_end():
    warm_up = sample(due=0.5, seconds=0.1)
    across = sample(due=1.8, seconds=0.7)  # Sent in the warm-up and answered in the measured time.
    inside = sample(due=3.0)
    afterwards = sample(due=9.9, seconds=0.4)
    run = measured(warm_up, across, inside, afterwards, begin=2.0, end=10.0)
    assert run.all.requests == 2
    assert run.all.codes == {"OK": 2}
    assert run.all.answered == pytest.approx(2 / 8)


def test_the_generators_own_faults_are_told():
    assert measured(sample(late=0.001)).warnings == []
    late = measured(*(sample(late=0.2) for _ in range(5)))
    assert late.late_p99 == pytest.approx(0.2)
    assert "sent 0.200 s late" in late.warnings[0]
    assert "95% of a processor" in measured(sample(), cpu_share=0.95).warnings[0]
    skipped = measured(sample(), sample(code="NOT_SENT", seconds=0.0))
    assert (skipped.all.offered, skipped.all.sent) == (pytest.approx(0.2), pytest.approx(0.1))
    assert skipped.warnings == ["1 requests were not sent, since 7 were under way"]
    assert skipped.all.ok.p50 == 0.5


# The loops


class StallingServer(FakeServer):
    """Stops answering for a second, once, half a second after its second request."""

    def __init__(self):
        super().__init__()
        self.stall = None

    def Predict(self, request, context):
        if len(self.requests) == 1:
            self.stall = time.monotonic() + 0.5
        elif self.stall and 0 < (since := time.monotonic() - self.stall) < 1:
            time.sleep(1 - since)
        return super().Predict(request, context)


class NotingServer(FakeServer):
    """Counts over which connections its requests came."""

    def __init__(self):
        super().__init__()
        self.peers = Counter()

    def Predict(self, request, context):
        self.peers[context.peer()] += 1
        return super().Predict(request, context)


@contextmanager
def started(fake):
    fake.server.start()
    yield fake
    fake.server.stop(None)


def test_an_open_loop_shows_a_stall_in_its_percentiles(picture):
    """A third of the requests is due while the server stalls for a second, and waits half of it on average."""
    with started(StallingServer()) as stalling:
        recording = load(stalling, OpenLoop(60, 3.0), pictures=[picture])
    waits = [each.seconds for each in recording.samples]
    assert len(waits) == len(list(poisson(60, 3.0)))
    latency = figures(recording, [PREDICT], [30.0]).all.ok
    assert latency.p90 > 0.5
    assert 0.9 < latency.p99 <= latency.max


def test_latency_counts_from_when_a_request_was_due(server, picture):
    """Where the generator itself stops for a second, its requests are late, and that is in their latency."""

    async def run():
        endpoint = Endpoint(server.target, None, None, retries=0)
        async with Sender(endpoint, [PREDICT], [picture], deadline=30) as sender:
            asyncio.get_running_loop().call_later(0.5, time.sleep, 1.0)
            return await record(sender, OpenLoop(40, 2.0))

    recording = asyncio.run(run())
    assert max(each.late for each in recording.samples) > 0.8
    assert all(each.seconds >= each.late >= 0 for each in recording.samples)
    run = figures(recording, [PREDICT], [30.0])
    assert run.all.ok.p90 > 0.4
    assert "the generator was too slow" in run.warnings[0]


def test_a_deadline_counts_from_when_a_request_was_due(server, picture):
    recording = load(server, OpenLoop(20, 1.0), MixEntry("predict", model="slow", deadline=0.5), pictures=[picture])
    assert {each.code for each in recording.samples} == {"DEADLINE_EXCEEDED"}


def test_what_is_not_sent_is_counted(server, picture):
    recording = load(server, OpenLoop(50, 1.0, max_under_way=3), MixEntry("predict", model="slow"), pictures=[picture])
    run = figures(recording, [PREDICT], [30.0])
    assert recording.most_under_way == 3
    assert run.all.requests == len(list(poisson(50, 1.0))) == sum(run.all.codes.values())
    assert run.all.codes["NOT_SENT"] > 20
    assert "since 3 were under way" in run.warnings[0]


def test_a_closed_loop_stops_after_so_many_requests(server, picture):
    mix = [PREDICT, MixEntry("explain", 3.0, "tiny", "gradient")]
    recording = load(server, ClosedLoop(4, 30.0, requests=40), *mix, pictures=[picture])
    assert len(recording.samples) == 40
    assert recording.end < 30
    assert recording.most_under_way == 4
    assert 20 < sum(each.entry for each in recording.samples) < 40
    assert all(each.rows == 1 and each.code == "OK" for each in recording.samples)
    assert len(server.requests) == 42  # One of each entry went ahead.


def test_refusals_are_counted_with_their_reason(server, picture):
    recording = load(server, ClosedLoop(2, 0.5), MixEntry("predict", model="full"), pictures=[picture])
    assert {(each.code, each.reason) for each in recording.samples} == {("RESOURCE_EXHAUSTED", "QUEUE_FULL")}
    assert len(recording.samples) == 2  # The server asked the callers to wait.


def test_every_picture_goes_over_every_connection(picture):
    with started(NotingServer()) as noting:
        load(noting, OpenLoop(100, 1.0), pictures=[picture, picture + b" "], connections=3)
    assert len(noting.peers) == 3
    assert max(noting.peers.values()) - min(noting.peers.values()) <= 2  # One went ahead.
    assert len({request.image.encoded for request in noting.requests}) == 2


def test_a_wrong_request_ends_before_the_load(server, picture):
    with pytest.raises(errors.NotFound, match="nearest: tiny"):
        load(server, OpenLoop(10, 1.0), MixEntry("predict", model="missing"), pictures=[picture])


async def test_a_fault_of_the_generator_is_raised(server, picture, monkeypatch):
    endpoint = Endpoint(server.target, None, None, retries=0)
    async with Sender(endpoint, [PREDICT], [picture], deadline=30) as sender:
        monkeypatch.setattr(sender, "_turns", cycle([[lambda *_, **__: 1 / 0]]))
        with pytest.raises(ZeroDivisionError):
            await record(sender, OpenLoop(50, 0.5))


# The command


def bench(server, capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "--server", server.target, *arguments])
    return capsys.readouterr().out


def test_a_closed_loop_is_what_comes_without_a_rate(server, capsys):
    arguments = ["--callers", "2", "--requests", "20", "--method", "gradient=2"]
    text = bench(server, capsys, *arguments)
    assert "closed loop, 2 callers" in text
    assert "goodput/s" in text
    found = json.loads(bench(server, capsys, *arguments, "--json"))
    (run,) = found["runs"]
    assert run["loop"] == {"kind": "closed", "callers": 2, "seconds": 10.0, "warm_up": 0.0, "requests": 20}
    assert (run["all"]["requests"], run["all"]["codes"]) == (20, {"OK": 20})


def test_a_mix_at_several_rates(server, capsys, photo_path, tmp_path):
    mix = tmp_path / "mix.toml"
    mix.write_text('[[requests]]\nrpc = "predict"\nweight = 3\n\n[[requests]]\nrpc = "embed"\ndeadline = 1\n')
    options = ["--mix", str(mix), "--image", str(tmp_path), "--seconds", "1", "--warm-up", "0.2"]
    found = json.loads(bench(server, capsys, *options, "--rate", "20", "--rate", "40", "--deadline", "2", "--json"))
    assert [each["name"] for each in found["mix"]] == ["predict", "embed"]
    assert [run["loop"]["rate"] for run in found["runs"]] == [20, 40]
    for run in found["runs"]:
        assert [each["name"] for each in run["entries"]] == ["predict", "embed"]
        assert sum(each["requests"] for each in run["entries"]) == run["all"]["requests"] > 0
        assert run["all"].keys() >= {
            "offered",
            "sent",
            "answered",
            "goodput",
            "rows",
            "codes",
            "reasons",
            "ok",
            "refused",
        }
        assert run["all"]["ok"].keys() == {"p50", "p90", "p95", "p99", "max"}
        assert run["all"]["refused"] is None
        assert run["late_p99"] >= 0


def test_a_capacity_with_its_page(server, capsys, tmp_path):
    page = tmp_path / "load.html"
    arguments = ["--find-capacity", "--seconds", "0.2", "--method", "predict", "--html", str(page)]
    found = json.loads(bench(server, capsys, *arguments, "--json"))
    assert found["capacity"].keys() == {"rate", "closed_rate", "callers", "how"}
    assert {run["loop"]["kind"] for run in found["runs"]} == {"closed", "open"}
    assert "capacity: " in page.read_text()
    text = bench(server, capsys, *arguments)
    assert re.search(r"capacity: [\d.]+/s", text)
    assert "callers that wait for their answers" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "grad"], "nearest: gradient"),
        (["--method", "gradient=x"], "must be a number"),
        (["--method", "gradient=0"], "above 0"),
        (["--image", "{empty}"], "the folder has no pictures"),
        (["--find-capacity", "--rate", "5"], "leave --rate out"),
    ],
)
def test_what_makes_no_sense(server, capsys, tmp_path, arguments, says):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "--server", server.target, *(each.format(empty=tmp_path) for each in arguments)])
    assert says in capsys.readouterr().err
