"""How much a request's pictures may have in all, and how much is decoded at the same time."""

import io
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Server, Stubs, methods, refused, tensor

from gradserve import decoding
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import differentiate_pb2, explain_pb2, predict_pb2, stylize_pb2
from gradserve_server.api.pictures.decode_limits import (
    MAX_LARGE_BYTES,
    PIXEL_BYTES,
    SMALL_BYTES,
    DecodeMemory,
    Room,
    count_pixels,
    counted_pixels,
)
from gradserve_server.models.preprocess import BadImage

# Memory above what the process had before, in MB, of decoding a grey PNG file of 16 bits.
PEAK = """
import io, sys
import numpy as np
from PIL import Image
from gradserve.decoding import to_rgb
side, file = int(sys.argv[1]), io.BytesIO()
Image.fromarray(np.full((side, side), 30000, np.uint16)).save(file, "PNG")
def status(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
to_rgb(Image.open(file))
print(status("VmHWM") - before)
"""


# The peak of the memory above what the process had before, and what is counted, in bytes.
DECODING = """
import io, sys
from PIL import Image
from gradserve.decoding import to_rgb
from gradserve_server.api.pictures.decode_limits import decode_bytes
Image.preinit(), Image.init()
data = open(sys.argv[1], "rb").read()
def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
picture = Image.open(io.BytesIO(data))
counted = decode_bytes(picture, picture.size)
picture.load()
to_rgb(picture)
print(status("VmHWM") - before, counted)
"""


def black(height: int, width: int) -> pb.Image:
    """A file of few bytes."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return pb.Image(encoded=file.getvalue())


def test_pixels_add_up_within_a_request() -> None:
    with counted_pixels():
        for _ in range(4):
            count_pixels(10, 40)
        with pytest.raises(BadImage, match="pictures have 50 pixels; at most 40 are allowed"):
            count_pixels(10, 40)
    with counted_pixels():
        count_pixels(40, 40)


def test_pictures_of_every_rpc_add_up(stubs: Stubs) -> None:
    """Each may have 50 million pixels, and those of a request 64 million."""
    large = black(5000, 7000)
    style = stylize_pb2.Style(image=large)
    similar = pb.Target(similarity={"image": large})
    calls = {
        "styles[0]": (stubs.gradients.Stylize, stylize_pb2.StylizeRequest(content=large, styles=[style])),
        "images[1]": (stubs.gradients.Differentiate, differentiate_pb2.DifferentiateRequest(images=[large] * 2)),
        "targets[0]": (
            stubs.gradients.Explain,
            explain_pb2.ExplainRequest(image=large, targets=[similar], methods=methods(gradient={})),
        ),
    }
    for field, (rpc, request) in calls.items():
        with pytest.raises(grpc.RpcError) as caught:
            rpc(request, timeout=60)
        violations = dict(refused(caught.value).violations)
        texts = [text for path, text in violations.items() if path.startswith(field)]
        assert texts, violations
        assert texts[0].endswith("the request's pictures have 70000000 pixels; at most 64000000 are allowed")


def test_pictures_are_decoded_while_there_is_room() -> None:
    memory, under_way, most, lock = Room(10), 0, 0, threading.Lock()

    def decode(size: int) -> None:
        nonlocal under_way, most
        with memory.of(size):
            with lock:
                under_way += size
                most = max(most, under_way)
            time.sleep(0.002)
            with lock:
                under_way -= size

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, [3, 4, 5, 1, 10, 2] * 10))
    assert 5 < most <= 10
    with memory.of(1000):  # A picture that is larger than the room is decoded by itself.
        pass


def test_a_small_picture_does_not_wait_for_a_large_one() -> None:
    memory, ending, begun, done = DecodeMemory(), threading.Event(), threading.Event(), threading.Event()

    def decode_large() -> None:
        with memory.of(MAX_LARGE_BYTES + 1):
            begun.set()
            ending.wait(60)

    def decode_small() -> None:
        with memory.of(SMALL_BYTES):
            done.set()

    large = threading.Thread(target=decode_large)
    large.start()
    assert begun.wait(60)
    small = threading.Thread(target=decode_small)
    small.start()
    try:
        assert done.wait(60)
    finally:
        ending.set()
        large.join(60)
        small.join(60)


def test_a_large_picture_is_not_kept_waiting_by_small_ones_that_come_later() -> None:
    memory, order, lock = Room(10), [], threading.Lock()
    release, begun = threading.Event(), threading.Event()

    def decode(name: str, size: int) -> None:
        with memory.of(size):
            with lock:
                order.append(name)
            if name == "first":
                begun.set()
                release.wait(60)

    first = threading.Thread(target=decode, args=("first", 5))
    first.start()
    assert begun.wait(60)
    others = []
    for count, (name, size) in enumerate([("large", 10), ("small", 1)], 1):
        others.append(threading.Thread(target=decode, args=(name, size)))
        others[-1].start()
        while len(memory._waiting) < count:
            time.sleep(0.001)
    release.set()
    for thread in (first, *others):
        thread.join(60)
    assert order == ["first", "large", "small"]


def test_memory_of_large_pictures_is_given_back() -> None:
    """What stays is at most what Pillow keeps for the next picture, 128 MiB, and a little."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((7000, 7000), np.uint16)).save(file, "PNG")
    deep = predict_pb2.PredictRequest(image=pb.Image(encoded=file.getvalue()))
    with Server("[models.digits]\nprecisions = ['exact']", "--workers", "1") as server, server.channel() as channel:
        gradients, (front_end,) = Stubs.of(channel).gradients, server.front_ends

        def code(_: int) -> str:
            try:
                gradients.Predict(deep, timeout=PATIENCE)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        before = front_end.memory_info().rss
        with ThreadPoolExecutor(3) as callers:
            codes = Counter(callers.map(code, range(9)))
        assert codes["OK"] >= 3, codes
        assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}  # Where the machine is slow.
        time.sleep(1)
        grown = front_end.memory_info().rss - before
        assert grown < 160 << 20, f"{grown >> 20} MiB"


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {}),
        ("PNG", "RGBA", {}),
        ("TIFF", "F", {}),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_takes_no_more_than_is_counted(tmp_path: Path, form: str, mode: str, options: dict[str, Any]) -> None:
    side, path = 2500, tmp_path / "picture"
    Image.new(mode, (side, side), 0).save(path, form, **options)
    command = [sys.executable, "-c", DECODING, str(path)]
    peak, counted = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert peak < counted + 16 * (1 << 20)
    assert counted < 4 * peak, "nor is far too much counted"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sixteen_bits_take_no_wide_copies() -> None:
    side = 4000
    command = [sys.executable, "-c", PEAK, str(side)]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 1.1 * PIXEL_BYTES * side * side / (1 << 20) + 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "I;16", "I", "F", "P"])
def test_bands_make_no_difference(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (37, 11, 4), np.uint8))
    arrays = {
        "I;16": rng.integers(0, 65536, (37, 11)).astype(np.uint16),
        "I": rng.integers(0, 256, (37, 11)).astype(np.int32),
        "F": rng.random((37, 11)).astype(np.float32),
    }
    picture = Image.fromarray(arrays[mode]) if mode in arrays else colours.convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    assert picture.mode == mode
    whole = np.asarray(decoding.to_rgb(picture.copy()))
    monkeypatch.setattr(decoding, "BAND_PIXELS", 25)
    assert np.array_equal(np.asarray(decoding.to_rgb(picture)), whole)
    assert len(np.unique(whole)) > 5


def test_an_array_counts_too(stubs: Stubs) -> None:
    array = tensor(np.zeros((100, 100, 3), np.uint8))
    images = [black(6000, 8000), array, black(4000, 4000)]
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Differentiate(differentiate_pb2.DifferentiateRequest(images=images), timeout=60)
    assert "pictures have 64010000 pixels" in dict(refused(caught.value).violations)["images[2]"]
