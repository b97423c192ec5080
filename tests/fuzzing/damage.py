"""Bytes that are damaged: of a request on the wire, or of a picture's file."""

from typing import Any

from hypothesis import strategies as st

JUNK = (
    b"\xf8\x7f\x01",  # A field that no message has.
    b"\xfa\x7f\x03abc",
    b"\x0a\xff\xff\xff\xff\x0f",  # A length of 4 GiB.
    b"\x0a" + b"\xff" * 9 + b"\x01",  # A length of 2^64 - 1.
    b"\xff" * 11,  # A number that never ends.
    b"\x0b" * 200,  # Groups that begin and do not end.
    b"\x0a\x00" * 300,
    b"\x00" * 16,
)


def _flip(draw: Any, data: bytearray, at: int) -> bytes:
    if data:
        data[at % len(data)] ^= draw(st.integers(1, 255))
    return bytes(data)


def _cut(draw: Any, data: bytearray, at: int) -> bytes:
    return bytes(data[:at])


def _leave_out(draw: Any, data: bytearray, at: int) -> bytes:
    return bytes(data[:at] + data[at + draw(st.integers(1, 100)) :])


def _double(draw: Any, data: bytearray, at: int) -> bytes:
    return bytes(data[: at + draw(st.integers(1, 1000))] + data[at:])


def _insert(draw: Any, data: bytearray, at: int) -> bytes:
    return bytes(data[:at] + draw(st.sampled_from(JUNK) | st.binary(max_size=8)) + data[at:])


def seldom(times: int) -> Any:
    """True once in so many times; hypothesis's own numbers prefer the ends of their range."""
    return st.sampled_from([False] * (times - 1) + [True])


CHANGES = (_flip, _cut, _leave_out, _double, _insert)


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """The data with one to three changes, anywhere."""
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(CHANGES))
        data = change(draw, bytearray(data), draw(st.integers(0, len(data))))
    return data
