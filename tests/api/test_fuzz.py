"""Random and damaged requests: never INTERNAL or UNKNOWN, never a dead worker."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from lengths import length
from serving import PATIENCE, Server, Stubs, methods, picture

from gradserve.v1 import differentiate_pb2, explain_pb2, predict_pb2

REQUESTS = length(300, 20_000)
NAMES = ["", "digits", "small", "linear", "0.8", "0.7", "2", "features.14", "seven", "goldfish", "x" * 500, "\u4e2d"]
WHOLE = [0, 1, 2, 3, 5, 7, 8, 9, 17, 100, 2001, 2**31, 2**32 - 1]
NUMBERS = [0.0, 0.1, 0.5, 1.0, 1.5, -1.0, 1e-300, 1e300, float("nan"), float("inf")]
SUMMANDS: list[dict[str, Any]] = [
    {"target": {"rank": 2}},
    {"target": {"contrast": {"terms": [{"target": {"class_index": 1}}], "others_of_top": 3}}},
    {"target": {"similarity": {"image": picture(7, 9, 9)}}},
    {"logits": {"shape": [10], "dtype": 2, "data": bytes(range(40))}},
]
KINDS: dict[int, Any] = {
    Field.TYPE_STRING: lambda rng: rng.choice(NAMES),
    Field.TYPE_BYTES: lambda rng: rng.randbytes(rng.choice([0, 1, 192, 5000])),
    Field.TYPE_BOOL: lambda rng: rng.random() < 0.5,
    Field.TYPE_DOUBLE: lambda rng: rng.choice(NUMBERS),
    Field.TYPE_FLOAT: lambda rng: rng.choice([0.0, 0.5, -1.0, float("nan"), float("inf")]),
    Field.TYPE_UINT32: lambda rng: rng.choice(WHOLE),
    Field.TYPE_UINT64: lambda rng: rng.choice([*WHOLE, 2**64 - 1]),
    Field.TYPE_INT64: lambda rng: rng.choice([0, 1, 9, 10**9, -1, 2**62]),
    Field.TYPE_INT32: lambda rng: rng.choice([0, 1, 10**6, -1]),
    Field.TYPE_ENUM: lambda rng: rng.choice([0, 1, 2, 3, 9, -1]),
}


def scramble(message: Message, rng: random.Random, share: float) -> None:
    """Sets or changes some fields, anywhere in the message."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() > share:
            continue
        if field.message_type is None:
            make = KINDS[field.type]
            if field.is_repeated:
                getattr(message, field.name)[:] = [make(rng) for _ in range(rng.randint(0, 4))]
            else:
                setattr(message, field.name, make(rng))
        elif field.is_repeated:
            for _ in range(rng.randint(0, 2)):
                getattr(message, field.name).add()
            for item in getattr(message, field.name):
                scramble(item, rng, share)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            scramble(child, rng, share)


def request(rng: random.Random) -> tuple[str, bytes]:
    """A valid request, then more or less damaged."""
    size = rng.choice([8, 13, 40])
    image = picture(rng.randrange(99), size, size)
    kind = rng.random()
    message: Message
    if kind < 0.2:
        name, message = "Predict", predict_pb2.PredictRequest(model=rng.choice(NAMES[:4]), image=image)
    elif kind < 0.5:
        facts: Any = {"images": [image] * rng.randint(1, 4), "goals": [{"summands": [rng.choice(SUMMANDS)]}]}
        facts["preprocess"] = rng.choice([1, 2])
        name, message = "Differentiate", differentiate_pb2.DifferentiateRequest(model=rng.choice(NAMES[:4]), **facts)
    else:
        asked = methods(gradient={}, smooth_grad={"samples": 3}, grad_cam={}, occlusion={"patch": 0.5})
        chosen = rng.sample(asked, rng.randint(1, 3))
        model = rng.choice(NAMES[:4])
        name, message = "Explain", explain_pb2.ExplainRequest(model=model, image=image, methods=chosen)
    scramble(message, rng, rng.choice([0, 0.05, 0.1, 0.3]))
    data = bytearray(message.SerializeToString())
    for _ in range(rng.choice([0, 0, 0, 1, 5])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return name, bytes(data[: rng.choice([len(data)] * 9 + [len(data) // 2])])


def test_damaged_requests_get_clear_errors(server: Server, stubs: Stubs) -> None:
    rng = random.Random(20260101)
    before = {worker.pid for worker in server.workers}

    def ask(asked: tuple[str, bytes]) -> str:
        with_deadline: Any = channel.unary_unary(f"/gradserve.v1.GradientService/{asked[0]}")
        try:
            with_deadline(asked[1], timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    with server.channel() as channel, ThreadPoolExecutor(8) as pool:
        asked = [request(rng) for _ in range(REQUESTS)]
        codes = list(pool.map(ask, asked))
    print(dict(Counter(codes)))
    faults = [(i, code) for i, code in enumerate(codes) if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE")]
    assert not faults, server.log()[-4000:]
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"} <= set(codes)
    assert {worker.pid for worker in server.workers} == before
    assert "Traceback" not in server.log()
    assert stubs.gradients.Predict(predict_pb2.PredictRequest(image=picture(1, 8, 8)), timeout=PATIENCE).top
