"""Calls about many pictures: answers in order, and errors that name their picture, raised or returned."""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gradserve
from gradserve import AsyncClient, Client, PictureError, cli
from gradserve.transport.ordered import in_order

from .fake import FakeServer


@pytest.fixture
def pictures(photo: Image.Image, tmp_path: Path) -> list[Any]:
    """Three pictures that can be read, between them a missing file, an array that is none and a file that is none."""
    good = tmp_path / "good.png"
    photo.save(good)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    return [good, tmp_path / "missing.jpg", photo, np.zeros((2, 2, 7)), tmp_path / "broken.jpg", good]


def test_returned_errors_stand_in_the_place_of_answers(client: Client, pictures: list[Any]) -> None:
    found = list(client.predict_many(pictures, on_error="return", concurrency=2))
    assert [isinstance(each, PictureError) for each in found] == [False, True, False, True, True, False]
    missing, array, broken = (each for each in found if isinstance(each, PictureError))
    assert (missing.index, missing.picture) == (1, str(pictures[1]))
    assert isinstance(missing.error, FileNotFoundError)
    assert missing.__cause__ is missing.error
    assert str(array).startswith("picture 3: an image array is [H, W]")
    assert (broken.name, type(broken.error)) == (f"picture 4, {pictures[4]}", gradserve.InternalError)
    assert isinstance(missing, gradserve.GradserveError)


def test_explanations_and_attacks_return_errors_too(client: Client, pictures: list[Any]) -> None:
    explained = list(client.explain_many(pictures, ["gradient", "grad_cam"], on_error="return"))
    attacked = list(client.attack_many(pictures, "fgsm", on_error="return"))
    assert [type(each).__name__ for each in explained[:2]] == ["Explanations", "PictureError"]
    assert [type(each).__name__ for each in attacked[:2]] == ["Attack", "PictureError"]
    assert len(explained) == len(attacked) == len(pictures)


async def test_errors_are_returned_in_asyncio(server: FakeServer, pictures: list[Any]) -> None:
    async with AsyncClient(server.target, timeout=10) as client:
        found = [each async for each in client.predict_many(pictures, on_error="return")]
        with pytest.raises(FileNotFoundError) as caught:
            [each async for each in client.predict_many(pictures)]
    assert [each.index for each in found if isinstance(each, PictureError)] == [1, 3, 4]
    assert caught.value.__notes__ == [f"this was picture 1, {pictures[1]}"]


@pytest.mark.parametrize("kind", ["file", "pil"])
def test_files_and_opened_pictures_have_names(client: Client, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.png"
    Image.new("L", (8, 8)).save(path)
    image = path.open("rb") if kind == "file" else Image.open(path)
    (found,) = client.predict_many([image], model="missing", on_error="return")
    image.close()
    assert (found.picture, type(found.error)) == (str(path), gradserve.NotFound)
    (nameless,) = client.predict_many([io.BytesIO(b"x")], model="missing", on_error="return")
    assert nameless.name == "picture 0"


def test_a_raised_error_is_the_calls_own_with_a_note(client: Client, pictures: list[Any]) -> None:
    found = client.predict_many(pictures, concurrency=1)
    assert next(found).top
    with pytest.raises(FileNotFoundError) as caught:
        next(found)
    assert caught.value.__notes__ == [f"this was picture 1, {pictures[1]}"]


def test_the_command_names_the_picture(
    server: FakeServer, photo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(photo_path), str(broken), "--server", server.target])
    assert ended.value.code == 1
    assert f"this was picture 1, {broken}" in capsys.readouterr().err.replace("\n", "")


def test_a_full_server_is_no_error_of_a_picture(client: Client, photo: Image.Image) -> None:
    found = list(client.predict_many([photo] * 3, model="full:2", on_error="return"))
    assert not [each for each in found if isinstance(each, PictureError)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_error": "skip"}, "on_error must be one of raise, return; not 'skip'"),
        ({"concurrency": 0}, "concurrency is at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_said_at_once(client: Client, settings: dict[str, Any], says: str) -> None:
    asynchronous = AsyncClient("h:1")
    for call in (client.predict_many, asynchronous.predict_many, client.attack_many, asynchronous.attack_many):
        with pytest.raises(ValueError, match=says):
            call([], **settings)
    for calls in (client, asynchronous):
        with pytest.raises(ValueError, match=says):
            calls.explain_many([], "gradient", **settings)


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"top_kk": 3}, ValueError, "no argument of predict 'top_kk'; nearest: top_k"),
        ({"timeot": 3}, ValueError, "no argument of predict 'timeot'; nearest: timeout"),
        ({"zzz": 3}, ValueError, "no argument of predict 'zzz'"),
        ({"top_k": -3}, ValueError, "top_k must be a whole number from 0 on, not -3"),
        ({"layout": "WHC"}, ValueError, "layout must be one of HWC, CHW; not 'WHC'"),
        ({"time_budget": "soon"}, ValueError, "time_budget must be a number, not 'soon'"),
    ],
)
def test_what_is_wrong_with_every_call_is_raised(
    client: Client, photo: Image.Image, settings: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        client.predict(photo, **settings)
    with pytest.raises(kind, match=says):
        list(client.predict_many([photo] * 3, on_error="return", **settings))


def test_a_misspelt_argument_of_other_calls_is_raised(client: Client, photo: Image.Image) -> None:
    misspelt: dict[str, Any] = {"prioritty": "batch"}
    with pytest.raises(ValueError, match="no argument of explain 'prioritty'"):
        list(client.explain_many([photo], "gradient", on_error="return", **misspelt))


async def test_a_misspelt_argument_is_raised_in_asyncio(server: FakeServer, photo: Image.Image) -> None:
    misspelt: dict[str, Any] = {"top_kk": 3}
    async with AsyncClient(server.target, timeout=10) as client:
        with pytest.raises(ValueError, match="nearest: top_k"):
            [each async for each in client.predict_many([photo], on_error="return", **misspelt)]


def test_the_waiting_ends_with_the_loop() -> None:
    def full(image: Any) -> Any:
        raise gradserve.ResourceExhausted("full", retry_after=60.0)

    found = in_order(lambda image: image if image == 0 else full(image), [0, 1, 2], 1)
    assert next(found) == 0
    found.close()


def test_ctrl_c_does_not_wait_for_running_calls() -> None:
    over = threading.Event()

    def interrupted() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_order(lambda _: over.wait(60), interrupted(), 2))
        assert time.monotonic() - began < 30
    finally:
        over.set()
