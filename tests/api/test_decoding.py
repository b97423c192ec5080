"""Files and arrays as pictures: what their numbers mean, how large photos are decoded, and in which thread."""

import asyncio
import io
import struct
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from serving import PATIENCE, Stubs, picture, refused, tensor

from gradserve import images as seen
from gradserve.messages import inputs
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import predict_pb2
from gradserve_server.api import servicer
from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Callers
from gradserve_server.api.errors import RequestError
from gradserve_server.api.pictures import images
from gradserve_server.api.pictures.images import BadImage, decode
from gradserve_server.config import LimitSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.card import Framing

LIMITS = LimitSettings()
RAMP = np.arange(256).reshape(16, 16)
BITS, SAMPLE_FORMAT, PHOTOMETRIC = 258, 339, 262  # The tags of TIFF 6.0.


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A TIFF file with one strip of these numbers as they lie in memory, little-endian."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    facts = {256: values.shape[1], 257: values.shape[0], 258: 8 * values.itemsize, 259: 1, PHOTOMETRIC: 1, 277: 1}
    facts |= {278: values.shape[0], 279: values.nbytes, SAMPLE_FORMAT: {"u": 1, "i": 2, "f": 3}[values.dtype.kind]}
    facts |= {int(tag): value for tag, value in tags.items()} | {273: 0}
    for tag, value in facts.items():
        directory[tag] = value
    return b"II*\x00\x08\x00\x00\x00" + directory.tobytes(8) + values.tobytes()  # This sets tag 273, the offset.


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF file of 12-bit numbers: two of them in three bytes, the high bits first."""
    a, b = values.astype(np.uint16).reshape(-1, 2).T
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1).astype(np.uint8)
    return tiff(packed.reshape(values.shape[0], -1), **{"256": values.shape[1], "258": 12})


def file(picture: Image.Image, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


WIDE = (RAMP * 257).astype(np.uint16)
FILES = {
    "8-bit PNG": file(Image.fromarray(RAMP.astype(np.uint8)), "PNG"),
    "16-bit PNG": file(Image.fromarray(WIDE), "PNG"),
    "16-bit TIFF": tiff(WIDE),
    "16-bit big-endian TIFF": file(Image.frombytes("I;16B", (16, 16), WIDE.astype(">u2").tobytes()), "TIFF"),
    "16-bit TIFF, white is zero": tiff(65535 - WIDE, **{"262": 0}),
    "12-bit TIFF": twelve_bits(np.round(RAMP * 4095 / 255)),
    "32-bit TIFF": tiff(RAMP.astype(np.int32)),
    "32-bit TIFF without signs": tiff(RAMP.astype(np.uint32)),
    "16-bit TIFF with signs": tiff(RAMP.astype(np.int16)),
    "float TIFF": tiff((RAMP / 255).astype(np.float32)),
    "float TIFF, rounded beyond 1": tiff((RAMP / 255 * (1 + 4e-7)).astype(np.float32)),
}


@pytest.mark.parametrize("name", FILES)
def test_grey_of_any_depth_is_the_same_picture_on_both_sides(name: str) -> None:
    sent = pb.Image(encoded=FILES[name])
    for pixels in (decode(sent, LIMITS).pixels, np.asarray(seen.opened(sent))):
        assert (pixels == RAMP[..., None].repeat(3, 2)).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((RAMP * 257).astype(np.int32), "0 to 255.* this one spans 0 to 65535"),
        ((RAMP - 1).astype(np.int16), "this one spans -1 to 254"),
        (np.full((4, 4), 2**32 - 1, np.uint32), "this one spans -1 to -1"),
        (RAMP.astype(np.float32), r"in \[0, 1\]; this one spans 0 to 255: divide it by 255"),
        (np.full((4, 4), 1 + 2e-6, np.float32), "spans 1.00000.*: bring its numbers into this range"),
        (np.full((4, 4), np.nan, np.float32), "this one has NaN: bring"),
    ],
    ids=["16 bits in 32", "below 0", "32 bits", "levels in floats", "a little above 1", "NaN"],
)
def test_numbers_without_a_clear_white_are_refused(values: np.ndarray, says: str) -> None:
    sent = pb.Image(encoded=tiff(values))
    with pytest.raises(BadImage, match=says):
        decode(sent, LIMITS)
    with pytest.raises(ValueError, match=says):
        seen.opened(sent)


def test_files_that_cannot_be_read_are_told_what_to_send() -> None:
    whole = tiff((RAMP / 255).astype(np.float32))
    doubles = whole.replace(struct.pack("<HHIHH", 258, 3, 1, 32, 0), struct.pack("<HHIHH", 258, 3, 1, 64, 0))
    assert doubles != whole, "the tag of the bits of a sample"
    with pytest.raises(BadImage, match=r"a TIFF of several float channels or of 64 bits; .*save it as PNG"):
        decode(pb.Image(encoded=doubles), LIMITS)
    photo = file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(BadImage, match=r"truncated.*; send the whole file"):
        decode(pb.Image(encoded=photo[: len(photo) // 2]), LIMITS)


def test_the_transparent_value_of_a_16_bit_file_is_white() -> None:
    sent = pb.Image(encoded=file(Image.fromarray(WIDE), "PNG", transparency=257))
    pixels = decode(sent, LIMITS).pixels
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert pixels[0, 2].tolist() == [2, 2, 2]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_pil_pictures_with_16_bits_arrive_unharmed(mode: str) -> None:
    sent = Image.frombytes(mode, (16, 16), WIDE.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    assert (decode(inputs.message(sent), LIMITS).pixels[..., 0] == RAMP).all()
    sent.getexif()[0x0112] = 3
    assert (decode(inputs.message(sent), LIMITS).pixels[..., 0] == RAMP[::-1, ::-1]).all()


def test_a_pil_picture_with_12_bits_arrives_unharmed() -> None:
    with Image.open(io.BytesIO(FILES["12-bit TIFF"])) as sent:
        assert (decode(inputs.message(sent), LIMITS).pixels[..., 0] == RAMP).all()


@pytest.mark.parametrize("beyond", [2e-7, 9e-7])
def test_floats_that_rounding_led_out_of_range_are_clamped(beyond: float) -> None:
    pixels = np.full((4, 4, 3), 0.5)
    pixels[0, 0], pixels[1, 1] = 1 + beyond, -beyond
    for sent in (inputs.message(pixels), tensor(pixels.astype(np.float32))):
        found = decode(sent, LIMITS).pixels
        assert (found.min(), found.max()) == (0, 1)
        assert found[2, 2, 0] == 0.5


def test_floats_beyond_rounding_are_refused_with_enough_digits() -> None:
    pixels = np.full((4, 4, 3), 1 + 2e-6)
    with pytest.raises(ValueError, match=r"spans 1\.000002 to 1\.000002"):
        inputs.message(pixels)
    with pytest.raises(BadImage, match=r"spans 1\.0000020"):
        decode(tensor(pixels.astype(np.float32)), LIMITS)


def large_jpeg() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return file(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), "JPEG", quality=92)


@pytest.mark.parametrize("how", [pb.PREPROCESS_MODEL_DEFAULT, pb.PREPROCESS_WHOLE_IMAGE])
@pytest.mark.parametrize("quick", [False, True])
def test_the_quick_decode_is_asked_for_and_told(stubs: Stubs, quick: bool, how: pb.Preprocess) -> None:
    request = predict_pb2.PredictRequest(model="small", image=pb.Image(encoded=large_jpeg()), preprocess=how)
    request.options.quick_decode = quick
    reply = stubs.gradients.Predict(request, timeout=PATIENCE)
    assert reply.provenance.quick_decode == (quick and how == pb.PREPROCESS_MODEL_DEFAULT)
    assert (reply.region.image_width, reply.region.image_height) == (640, 480)


def test_a_small_picture_is_decoded_whole_all_the_same(stubs: Stubs) -> None:
    request = predict_pb2.PredictRequest(model="small", image=picture(0, 300, 400), options={"quick_decode": True})
    assert not stubs.gradients.Predict(request, timeout=PATIENCE).provenance.quick_decode


def test_the_server_names_the_range_that_a_file_spans(stubs: Stubs) -> None:
    request = predict_pb2.PredictRequest(model="small", image=pb.Image(encoded=tiff(RAMP.astype(np.float32))))
    with pytest.raises(Exception, match="spans 0 to 255") as caught:
        stubs.gradients.Predict(request, timeout=PATIENCE)
    assert set(refused(caught.value).violations) == {"image"}


def test_no_picture_is_decoded_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose picture is refused goes no further than its decoding."""
    where = []

    def noted(*_: Any) -> None:
        where.append(threading.current_thread())
        raise BadImage("seen")

    monkeypatch.setattr(images, "decode", noted)
    card = SimpleNamespace(name="m", auto={}, precisions=("exact",), resize=Framing(8, 8), height=8, width=8)
    card.positions = False
    pool: Any = SimpleNamespace(cards=_Cards({"m": card}), members=[], outstanding=0.0, queue_seconds=None)
    pool.using = lambda: nullcontext(pool.cards)
    metrics = Metrics()
    service = servicer.GradientService(pool, LIMITS, metrics, Admission(pool, LIMITS, metrics), Callers(None, {}))
    context: Any = SimpleNamespace(time_remaining=lambda: None)

    async def ask() -> None:
        servicer.request_log.set(servicer.RequestLog("1"))
        with pytest.raises(RequestError, match="seen"):
            await service.Predict(predict_pb2.PredictRequest(image={"encoded": b"x"}), context)

    asyncio.run(ask())
    assert len(where) == 1
    assert where[0] is not threading.current_thread()


class _Cards(dict[str, Any]):
    default = "m"
    unavailable: dict[str, str] = {}  # noqa: RUF012


CLEAR = Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP, RAMP[::-1]], -1).astype(np.uint8))
COLOURED = CLEAR.convert("RGB")
KINDS = {
    "alpha": file(CLEAR, "PNG"),
    "grey with alpha": file(CLEAR.convert("LA"), "PNG"),
    "palette": file(COLOURED.quantize(16), "PNG"),
    "palette with a transparent colour": file(COLOURED.quantize(16), "PNG", transparency=3),
    "palette with alpha": file(COLOURED.quantize(4), "PNG", transparency=bytes([0, 60, 180, 255])),
    "GIF with a transparent colour": file(COLOURED.quantize(16), "GIF", transparency=3),
    "RGB with a transparent colour": file(COLOURED, "PNG", transparency=COLOURED.getpixel((2, 3))),
    "CMYK": file(COLOURED.convert("CMYK"), "JPEG"),
    "CMYK TIFF": file(COLOURED.convert("CMYK"), "TIFF"),
    "16 bits": FILES["16-bit PNG"],
    "16 bits with a transparent value": file(Image.fromarray(WIDE), "PNG", transparency=257),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_colour_is_the_same_picture_however_it_is_sent(name: str) -> None:
    """It is sent as a file, shown by the client from that file, and sent as a PIL picture."""
    expected = decode(pb.Image(encoded=KINDS[name]), LIMITS).pixels
    assert np.ptp(expected), "it is no blank picture"
    assert (np.asarray(seen.from_file(KINDS[name])) == expected).all()
    with Image.open(io.BytesIO(KINDS[name])) as sent:
        assert (decode(inputs.message(sent), LIMITS).pixels == expected).all()
