"""How many fields a message has on the wire, without parsing it.

Parsing holds the interpreter, and a message of many empty submessages takes long and becomes many times as large: 8 MB
of them took half a second and 170 MB. The wire format: https://protobuf.dev/programming-guides/encoding.
"""

from functools import cache

from google.protobuf.descriptor import Descriptor

MAX_FIELDS = 150_000  # Beyond those of legal requests; the smallest fields of 32 MiB would be 16 million.
MAX_DEPTH = 100  # Protobuf reads no deeper either.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}


class MalformedMessage(ValueError):
    """Bytes that are no message, or one of too many fields; the text says which."""


def check_fields(data: bytes, message: Descriptor) -> None:
    """Raises MalformedMessage for more than MAX_FIELDS fields, those of submessages too, and for bytes cut off."""
    waiting = [(0, len(data), message, 0)]
    left = MAX_FIELDS
    while waiting:
        left = _level(data, waiting, left)


def _level(data: bytes, waiting: list[tuple[int, int, Descriptor, int]], left: int) -> int:
    """Counts the fields of the last message in `waiting`, and puts its submessages there.

    `left`: how many fields are allowed. Returns how many are allowed after these.
    """
    place, end, of, depth = waiting.pop()
    messages = _messages(of) if depth < MAX_DEPTH else {}
    while place < end:
        left -= 1
        if left < 0:
            raise MalformedMessage(f"it has more than {MAX_FIELDS} fields; send less at once")
        tag, place = _varint(data, place, end)
        kind = tag & 7
        if kind == VARINT:
            _, place = _varint(data, place, end)
        elif kind == BYTES:
            length, place = _varint(data, place, end)
            message = messages.get(tag >> 3)
            if message is not None and length:  # An empty submessage has no fields.
                waiting.append((place, min(place + length, end), message, depth + 1))
            place += length
        elif kind in SIZES:
            place += SIZES[kind]
        else:  # Groups, which no message here has, and numbers that stand for nothing.
            raise MalformedMessage(f"it has a field of wire type {kind}")
    if place > end:
        raise MalformedMessage("it is cut off")
    return left


@cache
def _messages(of: Descriptor) -> dict[int, Descriptor]:
    """The types of the fields of a message that are messages, by the fields' numbers."""
    return {number: field.message_type for number, field in of.fields_by_number.items() if field.message_type}


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """The number that begins there, and the place after it."""
    if place < end and data[place] < 0x80:  # Most have one byte.
        return data[place], place + 1
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedMessage("it is cut off")
