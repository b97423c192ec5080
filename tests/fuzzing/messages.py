"""Messages of any type, made and changed by their descriptors, so that a new field is tried as soon as it is there."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from valid_requests import quick

from .damage import seldom
from .pictures import files, images

MAX_DEPTH = 4  # Of submessages within a message that is made anew.
NAMES = ["", "digits", "small", "linear", "DIGITS ", "0.8", "0.7", "2", "features.14", "seven", "pixels", "goldfish"]
NAMES += ["x" * 5000, "\u4e2d", "\x00", "../../etc/passwd", "%s{}", "\u202eseven"]
WHOLE = [0, 1, 2, 3, 5, 7, 8, 9, 17, 64, 100, 257, 1000, 2001, 2**31 - 1]
NUMBERS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, -1.0, 5e-324, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")]
CHANGES = st.sampled_from([0, 0, 1, 1, 1, 2, 3])  # Fields of a request that are changed.
MESSAGES = {"gradserve.v1.Image": images()}  # Those of which more is known than their descriptors.


def _whole(bits: int, *, signed: bool) -> Any:
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([*WHOLE, least, most]) | st.integers(least, most)


KINDS: dict[int, Any] = {
    FieldDescriptor.CPPTYPE_STRING: st.sampled_from(NAMES) | st.text(max_size=20),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(NUMBERS) | st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from(NUMBERS[:6] + NUMBERS[-3:]) | st.floats(width=32),
    FieldDescriptor.CPPTYPE_INT32: _whole(32, signed=True),
    FieldDescriptor.CPPTYPE_INT64: _whole(64, signed=True),
    FieldDescriptor.CPPTYPE_UINT32: _whole(32, signed=False),
    FieldDescriptor.CPPTYPE_UINT64: _whole(64, signed=False),
}
TIMES = st.sampled_from([1, 1, 1, 1, 2, 5, 80])  # How often all elements of a repeated field are there.
BYTES = st.binary(max_size=40) | st.sampled_from([192, 768, 5000]).map(bytes) | files()


def values(field: FieldDescriptor, depth: int) -> Any:
    """One value of a field; of a repeated one, an element."""
    if field.message_type is not None:
        return messages(field.message_type, depth)
    if field.enum_type is not None:
        return st.sampled_from([*(value.number for value in field.enum_type.values), 99, -1])
    return BYTES if field.type == FieldDescriptor.TYPE_BYTES else KINDS[field.cpp_type]


def messages(descriptor: Descriptor, depth: int = MAX_DEPTH) -> Any:
    """Messages of a type, most of them invalid, with few steps unless a field says otherwise."""
    known = MESSAGES.get(descriptor.full_name)
    return _messages(descriptor, depth) if known is None else known


@st.composite
def _messages(draw: Any, descriptor: Descriptor, depth: int) -> Message:
    message: Message = quick(GetMessageClass(descriptor)())
    if descriptor.fields and depth:
        for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=3)):
            change(draw, message, field, depth - 1)
    return message


def change(draw: Any, message: Message, field: FieldDescriptor, depth: int = MAX_DEPTH) -> None:
    """Clears a field or gives it another value; of a repeated one, up to four."""
    old = list(getattr(message, field.name)) if field.is_repeated else []
    message.ClearField(field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for entry in draw(st.lists(values(field, 1), max_size=3)):
            if isinstance(entry.value, Message):
                getattr(message, field.name)[entry.key].CopyFrom(entry.value)
            else:
                getattr(message, field.name)[entry.key] = entry.value
    elif field.is_repeated:
        new = draw(st.lists(values(field, depth), max_size=3))
        getattr(message, field.name).extend([*old, *new][: draw(st.sampled_from([4, 1, 0]))] * draw(TIMES))
    elif not draw(seldom(8)):
        value = draw(values(field, depth))
        if isinstance(value, Message):
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)


def places(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field that the message and its submessages could have."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else [value]:
                yield from places(part)


@st.composite
def changed(draw: Any, message: Message) -> Message:
    """A copy of the message with up to three of its fields changed, however deep."""
    copy = draw(varied(message))
    for _ in range(draw(CHANGES)):
        fields = list(places(copy))
        if fields:
            change(draw, *draw(st.sampled_from(fields)))
    return copy


@st.composite
def varied(draw: Any, message: Message) -> Message:
    """A copy of the message with other members of its submessages' oneofs, such as other methods, else as they are."""
    copy = type(message)()
    copy.CopyFrom(message)
    present = [field for field, _ in message.ListFields()]
    for field in message.DESCRIPTOR.fields:
        members = _members(field)
        if members and (not draw(seldom(3)) if field in present else draw(seldom(8))):
            chosen = GetMessageClass(field.message_type)()
            change(draw, chosen, draw(st.sampled_from(members)), 0)
            copy.ClearField(field.name)
            copy.MergeFrom(type(message)(**{field.name: [chosen] if field.is_repeated else chosen}))
    return copy


def _members(field: FieldDescriptor) -> list[FieldDescriptor]:
    """Those of the oneof of a field's message; none of a picture."""
    if field.message_type is None or field.message_type.full_name in MESSAGES:
        return []
    return [member for oneof in field.message_type.oneofs if len(oneof.fields) > 1 for member in oneof.fields]
