"""Fields are counted on the wire as protobuf writes them."""

import random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from gradserve.v1 import attack_pb2, differentiate_pb2, explain_pb2, predict_pb2
from gradserve_server.api.transport import wire_fields
from gradserve_server.api.transport.wire_fields import MAX_FIELDS, MalformedMessage, check_fields

EXPLAIN = explain_pb2.ExplainRequest.DESCRIPTOR


def written(message: Any) -> int:
    """How many fields protobuf writes: a list of numbers is one, and a submessage is one with its own."""
    count = 0
    for field, value in message.ListFields():
        several = field.is_repeated
        values = value if several and not (several and field.is_packed) else [value]
        count += len(values)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            count += sum(map(written, values))
    return count


def example(seed: int) -> Any:
    """A request of several pictures, goals and terms."""
    draw = random.Random(seed)
    image = {"tensor": {"shape": [4, 5, 3], "dtype": 1, "data": draw.randbytes(60)}}
    terms = [{"target": {"class_index": i}, "weight": draw.random()} for i in range(draw.randrange(1, 9))]
    summands = [{"target": {"contrast": {"terms": terms}}, "weight": -1.5}, {"target": {"class_name": "tabby"}}]
    goals = [{"summands": summands[: draw.randrange(1, 3)]} for _ in range(draw.randrange(5))]
    return differentiate_pb2.DifferentiateRequest(model="m", images=[image] * draw.randrange(1, 5), goals=goals)


@pytest.mark.parametrize("seed", range(10))
def test_all_fields_are_counted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    message = example(seed)
    data = message.SerializeToString()
    monkeypatch.setattr(wire_fields, "MAX_FIELDS", written(message))
    check_fields(data, message.DESCRIPTOR)
    monkeypatch.setattr(wire_fields, "MAX_FIELDS", written(message) - 1)
    with pytest.raises(MalformedMessage, match=r"more than \d+ fields"):
        check_fields(data, message.DESCRIPTOR)


@pytest.mark.parametrize("field", [b"\x22\x00", b"\xfa\x7f\x00", b"\xf8\x7f\x00", b"\xfd\x7f\x00\x00\x00\x00"])
def test_empty_and_unknown_fields_count(field: bytes) -> None:
    check_fields(field * MAX_FIELDS, EXPLAIN)
    with pytest.raises(MalformedMessage):
        check_fields(field * (MAX_FIELDS + 1), EXPLAIN)


def test_what_is_no_message_is_found_or_left_to_protobuf() -> None:
    """Whatever protobuf reads passes, and random bytes end in one of two errors."""
    draw = random.Random(0)
    whole = attack_pb2.AttackRequest(model="m", method={"pgd": {"steps": 3}}, eps=0.1).SerializeToString()
    for i in range(3000):
        data = bytearray(whole)
        for _ in range(i % 4):
            data[draw.randrange(len(data))] = draw.randrange(256)
        data = data[: draw.randrange(len(data) + 1)]
        try:
            message = attack_pb2.AttackRequest.FromString(bytes(data))
        except DecodeError:
            continue
        groups = any(field.wire_type in (3, 4) for field in UnknownFieldSet(message))
        if not groups:
            check_fields(bytes(data), attack_pb2.AttackRequest.DESCRIPTOR)


def test_a_picture_is_one_field() -> None:
    image = {"encoded": bytes(range(256)) * 5000}
    check_fields(predict_pb2.PredictRequest(image=image).SerializeToString(), predict_pb2.PredictRequest.DESCRIPTOR)
