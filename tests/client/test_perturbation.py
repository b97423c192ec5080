"""Maps from samples, and streams of maps, in the client."""

import json

import gradserve
from gradserve import AsyncClient


def test_a_stream_of_maps_ends_with_all_of_them(client, server, photo):
    *reports, result = client.explain_stream(photo, ["gradient", "rise"], until_stable=0.25)
    assert [(each.place, each.finished) for each in reports] == [(0, False), (0, True), (1, False), (1, True)]
    assert all(isinstance(each, gradserve.MapProgress) for each in reports)
    assert isinstance(result, gradserve.Explanations)
    assert result.methods == ["gradient", "rise"]
    assert reports[3].explanation.overlay().size == result[1].overlay().size
    assert repr(reports[0]).startswith("<MapProgress 0, ")
    assert json.loads(json.dumps(reports[0].to_dict()))["explanation"]["method"] == "gradient"
    assert server.requests[-1].until_stable == 0.25


async def test_an_async_stream_of_maps(server, photo):
    async with AsyncClient(server.target) as client:
        events = [event async for event in client.explain_stream(photo, "rise", samples=9)]
    assert [type(event).__name__ for event in events] == ["MapProgress", "MapProgress", "Explanations"]
    assert server.requests[-1].methods[0].rise.samples == 9


def test_a_map_without_samples_has_no_standard_error(client, server, photo):
    assert client.explain(photo, "gradient").standard_error is None
    assert not server.requests[-1].HasField("until_stable")
