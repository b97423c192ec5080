import json

import pytest

from gradserve import AsyncClient, cli
from gradserve.cli.commands import load

SAMPLES = [load.Sample("predict", 0.010 * (i + 1), 1) for i in range(100)] + [
    load.Sample("grad_cam", 0.5, 3),
    load.Sample("grad_cam", 9.9, 0, "RESOURCE_EXHAUSTED"),
]


def test_figures():
    grad_cam, predict, everything = load.figures(SAMPLES, seconds=2.0)
    assert (grad_cam.method, predict.method, everything.method) == ("grad_cam", "predict", "all")
    assert grad_cam.requests == 2
    assert grad_cam.failed == {"RESOURCE_EXHAUSTED": 1}
    assert grad_cam.p99_ms == pytest.approx(500)
    assert predict.p50_ms == pytest.approx(505)
    assert predict.p95_ms == pytest.approx(950.5)
    assert everything.requests_per_second == pytest.approx(50.5)
    assert everything.rows_per_second == pytest.approx(51.5)


async def test_a_closed_loop_stops_after_so_many_requests(server, photo_path):
    async with AsyncClient(server.target) as client:
        asked = load.Load(photo_path, "tiny", {"predict": 1, "gradient": 3}, callers=4, seconds=30, requests=40)
        samples, seconds = await load.run(client, asked)
    assert len(samples) == 40
    assert seconds < 30
    assert 20 < sum(sample.method == "gradient" for sample in samples) < 40
    assert all(sample.rows and not sample.code for sample in samples)
    assert len(server.requests) == 42  # one of each method went ahead


def test_bench(server, capsys):
    arguments = ["bench", "--server", server.target, "--callers", "2", "--requests", "20", "--method", "gradient=2"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments)
    assert "p99 ms" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["method"] for each in found["methods"]] == ["gradient", "all"]
    assert found["methods"][1]["requests"] == 20


@pytest.mark.parametrize(
    ("method", "says"), [("grad", "nearest: gradient"), ("gradient=x", "must be a number"), ("gradient=0", "above 0")]
)
def test_a_mix_that_makes_no_sense(server, capsys, method, says):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "--server", server.target, "--method", method])
    assert says in capsys.readouterr().err
