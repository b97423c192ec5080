"""Every number that a method takes, at zero, at the least there is and beyond: an answer or a clear refusal."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from serving import PATIENCE, Server, Stubs, picture, refused
from valid_requests import quick

from gradserve.v1 import attack_pb2, explain_pb2, influence_pb2, maximize_pb2, stylize_pb2

NUMBERS = (0.0, 5e-324, 1e-300, 1e-9, 1.0, 1e9, 1e308)
COUNTS = (0, 1, 2)
BOUNDED = ("pgd", "apgd", "square", "sphere", "transfer", "fab_targeted", "ensemble", "malt")
PICTURE = picture(0, 8, 8)
COMMON: dict[str, Any] = {"model": "digits", "image": PICTURE}
FLAT = picture(0, 1, 1)


def changed(message: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a message of numbers with one of them at each of its extremes."""
    for field in message.DESCRIPTOR.fields:
        values = {FieldDescriptor.TYPE_DOUBLE: NUMBERS, FieldDescriptor.TYPE_UINT32: COUNTS}.get(field.type, ())
        for value in () if field.is_repeated else values:
            copy = type(message)()
            copy.CopyFrom(message)
            setattr(copy, field.name, value)
            yield f"{message.DESCRIPTOR.name}.{field.name}={value:g}", copy


def each(contract: Any) -> Iterator[tuple[str, str, Any]]:
    """What to call it, the method's name and its message, for every number of every method of a oneof."""
    for field in contract.DESCRIPTOR.oneofs_by_name["method"].fields:
        for name, copy in changed(quick(getattr(contract(), field.name))):
            yield name, field.name, copy


def explaining() -> Iterator[tuple[str, Any]]:
    for name, method, message in each(explain_pb2.ExplainMethod):
        yield name, explain_pb2.ExplainRequest(methods=[{method: message}], **COMMON)


def attacking() -> Iterator[tuple[str, Any]]:
    target, few = attack_pb2.AttackTarget(class_index=3), {"pgd": {"steps": 2}}
    for name, method, message in each(attack_pb2.AttackMethod):
        facts = {**COMMON, "target": target} if method in ("fooling", "patch") else COMMON
        yield name, attack_pb2.AttackRequest(method={method: message}, **facts)
    for name, method, message in each(attack_pb2.Defence):
        yield name, attack_pb2.AttackRequest(method=few, defence={method: message}, **COMMON)
    for name, message in changed(quick(attack_pb2.Eot())):
        yield name, attack_pb2.AttackRequest(method=few, eot=message, **COMMON)
    for eps, method in product(NUMBERS, BOUNDED):
        asked = attack_pb2.AttackRequest(method={method: {}}, eps=eps, **COMMON)
        quick(getattr(asked.method, method))
        yield f"{method}, eps={eps:g}", asked


def maximizing() -> Iterator[tuple[str, Any]]:
    goal = maximize_pb2.Goal(summands=[{"target": {"class_index": 3}}])
    for (name, message), image in product(changed(quick(maximize_pb2.MaximizeSettings(octaves=1))), (None, PICTURE)):
        yield name, maximize_pb2.MaximizeRequest(model="digits", image=image, goals=[goal], settings=message)


def stylizing() -> Iterator[tuple[str, Any]]:
    settings = quick(stylize_pb2.StylizeSettings(keep_colours=True))
    for (name, message), photo in product(changed(settings), (PICTURE, FLAT)):
        asked = stylize_pb2.StylizeRequest(model="digits", content=photo, styles=[{"image": photo}])
        asked.settings.CopyFrom(message)
        asked.size.longer = 8
        yield name, asked


def influencing() -> Iterator[tuple[str, Any]]:
    for field in influence_pb2.InfluenceMethod.DESCRIPTOR.oneofs_by_name["method"].fields:
        yield field.name, influence_pb2.InfluenceRequest(method={field.name: {}}, **COMMON)
    for weight in (-1.0, *NUMBERS):
        asked = influence_pb2.InfluenceRequest(what_if=[{"rows": [0, 1], "weight": weight}], **COMMON)
        yield f"what_if.weight={weight:g}", asked


REQUESTS: dict[str, Callable[[], Iterator[tuple[str, Any]]]] = {
    "Explain": explaining,
    "Attack": attacking,
    "Maximize": maximizing,
    "Stylize": stylizing,
    "Influence": influencing,
}


@pytest.mark.parametrize("rpc", REQUESTS)
def test_no_number_is_a_fault_of_the_server(server: Server, stubs: Stubs, rpc: str) -> None:
    faults, answered = [], 0
    for name, asked in REQUESTS[rpc]():
        try:
            reply = getattr(stubs.gradients, rpc)(asked, timeout=PATIENCE)
            answered += 1
            if not np.isfinite(numbers(reply)).all():
                faults.append(f"{name}: an answer that is not finite")
        except grpc.RpcError as error:
            failure = refused(error)
            if failure.code not in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
                faults.append(f"{name}: {failure.code} {failure.text}")
    assert not faults, "\n".join(faults)
    assert answered > 4
    assert "Traceback" not in server.log()


def numbers(message: Any) -> list[float]:
    """All floating-point numbers of a reply, however deep."""
    found: list[float] = []
    for field, value in message.ListFields():
        values = list(value.values() if hasattr(value, "values") else value) if field.is_repeated else [value]
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            found += values
        elif field.message_type is not None:
            for part in values:
                found += numbers(part)
    return found
