"""The Open Inference Protocol over a real server: its answers are those of Predict and Explain, row by row."""

import hashlib
import io
import json
import struct
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from serving import LINEAR, MODELS, PATIENCE, Server, Stubs, methods, refused, tensor, values
from zoo import prepared

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, models_pb2, predict_pb2
from gradserve_server.api.errors import RequestError, Violations
from gradserve_server.api.inference import infer
from gradserve_server.api.inference.outputs import WantedOutput, add_output, class_outputs, reply_bytes
from gradserve_server.api.inference.parameters import read
from gradserve_server.api.inference.tensors import SLICE, read_tensor
from gradserve_server.api.inference.v2 import inference_pb2 as v2
from gradserve_server.api.inference.v2 import inference_pb2_grpc
from gradserve_server.api.request import CallContext
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels

POSITIONS = '[models.fine]\nbuilder = "position_networks:fine"\nheight = 32\nwidth = 48\nprecisions = ["exact"]\n'
SWITCH = "[server]\ninference_protocol = true\n"
ROWS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)  # [N, H, W, 3] of the size of digits.
CLASSES = 10


@pytest.fixture(scope="module")
def inference() -> Iterator[Server]:
    with Server(f"{SWITCH}{MODELS}{POSITIONS}", "--workers", "1") as server:
        yield server


@pytest.fixture(scope="module")
def channel(inference: Server) -> Iterator[grpc.Channel]:
    with inference.channel() as channel:
        yield channel


def call(channel: grpc.Channel, rpc: str, request: Any, **options: Any) -> Any:
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    return getattr(stub, rpc)(request, timeout=PATIENCE, **options)


def request(
    rows: np.ndarray | Sequence[bytes], outputs: Sequence[str] = (), *, raw: bool = True, **parameters: Any
) -> v2.ModelInferRequest:
    """A request about digits, its tensor as raw contents or in the field of its type."""
    message = v2.ModelInferRequest(model_name="digits", id="mine")
    fill(message.parameters, parameters)
    message.outputs.extend(v2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    if isinstance(rows, np.ndarray):
        image = message.inputs.add(name="image", shape=rows.shape)
        image.datatype = {"uint8": "UINT8", "float32": "FP32"}[rows.dtype.name]
        field = {"UINT8": "uint_contents", "FP32": "fp32_contents"}[image.datatype]
        elements, data = rows.ravel().tolist(), rows.tobytes()
    else:
        image = message.inputs.add(name="image", datatype="BYTES", shape=[len(rows)])
        field, elements = "bytes_contents", rows
        data = b"".join(struct.pack("<I", len(each)) + each for each in rows)
    if raw:
        message.raw_input_contents.append(data)
    else:
        getattr(image.contents, field).extend(elements)
    return message


def fill(parameters: Any, given: Mapping[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in given.items():
        setattr(parameters[name], kinds[type(value)], value)


def arrays(reply: v2.ModelInferResponse) -> dict[str, np.ndarray]:
    """The outputs by name: numbers, or texts as an array of objects."""
    found = {}
    for i, output in enumerate(reply.outputs):
        shape = tuple(output.shape)
        raw = reply.raw_output_contents[i] if reply.raw_output_contents else None
        if output.datatype == "FP32":
            flat = np.frombuffer(raw, "<f4") if raw is not None else np.array(output.contents.fp32_contents, "<f4")
        else:
            texts = split(raw) if raw is not None else list(output.contents.bytes_contents)
            flat = np.array([text.decode() for text in texts], object)
        found[output.name] = flat.reshape(shape)
    return found


def split(data: bytes) -> list[bytes]:
    texts = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return texts


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FORMS: dict[str, np.ndarray | list[bytes]] = {
    "UINT8 [N, H, W, 3]": ROWS,
    "UINT8 [N, 3, H, W]": np.ascontiguousarray(ROWS.transpose(0, 3, 1, 2)),
    "FP32 [N, H, W, 3]": (ROWS / np.float32(255)),
    "FP32 [N, 3, H, W]": np.ascontiguousarray((ROWS / np.float32(255)).transpose(0, 3, 1, 2)),
    "BYTES": [png(row) for row in ROWS],
}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_predicted_as_by_predict(channel: grpc.Channel, form: str, raw: bool) -> None:
    predict = Stubs.of(channel).gradients.Predict
    reply = call(channel, "ModelInfer", request(FORMS[form], raw=raw, top_k=2))
    assert bool(reply.raw_output_contents) == raw
    found = arrays(reply)
    assert list(found) == ["logits", "probabilities", "labels"]
    for i, row in enumerate(ROWS):
        as_is = 0 if form == "BYTES" else pb.PREPROCESS_AS_IS
        image = pb.Image(encoded=FORMS[form][i]) if form == "BYTES" else tensor(row)
        asked = predict_pb2.PredictRequest(model="digits", image=image, preprocess=as_is, top_k=CLASSES)
        top = predict(asked, timeout=PATIENCE).top
        for name in ("logit", "probability"):
            expected = [getattr(each, name) for each in sorted(top, key=lambda each: each.class_index)]
            output = {"logit": "logits", "probability": "probabilities"}[name]
            np.testing.assert_allclose(found[output][i], expected, rtol=1e-4, atol=1e-5)
        assert list(found["labels"][i]) == [each.class_name for each in top[:2]]


def test_rows_are_explained_as_by_explain(channel: grpc.Channel) -> None:
    asked = request(ROWS, ["map", "logits"], explain="smooth_grad", target="seven", samples=3, seed="5")
    reply = call(channel, "ModelInfer", asked)
    found = arrays(reply)
    assert list(found) == ["map", "logits"]
    assert reply.outputs[0].parameters["method"].string_param == "smooth_grad"
    for i, row in enumerate(ROWS):
        explain = explain_pb2.ExplainRequest(
            model="digits",
            image=tensor(row),
            preprocess=pb.PREPROCESS_AS_IS,
            methods=methods(smooth_grad={"samples": 3}),
            targets=[pb.Target(class_name="seven")],
            options={"seed": 5},
        )
        expected = Stubs.of(channel).gradients.Explain(explain, timeout=PATIENCE).explanations[0]
        expected_map = values(expected.raw)
        scale = np.abs(expected_map).max()
        np.testing.assert_allclose(found["map"][i], expected_map, rtol=1e-3, atol=1e-4 * scale)


def test_maps_say_what_they_are_of(channel: grpc.Channel) -> None:
    rows = np.stack([np.zeros((8, 8, 3), np.uint8), *ROWS])
    for given in ({}, {"target": "seven"}):
        reply = call(channel, "ModelInfer", request(rows, ["map", "labels"], explain="gradient", top_k=1, **given))
        predicted = arrays(reply)["labels"][:, 0].tolist()
        targets = json.loads(reply.outputs[0].parameters["targets"].string_param)
        assert targets == (["seven"] * len(rows) if given else predicted)
    assert len(set(predicted)) > 1


def test_warnings_say_which_rows_they_are_about(channel: grpc.Channel) -> None:
    black = np.zeros((1, 8, 8, 3), np.uint8)
    rows = np.concatenate([ROWS, black, black])
    (output,) = call(channel, "ModelInfer", request(rows, ["map"], explain="gradient_x_input", target="seven")).outputs
    expected = dict[str, list[int]]()
    for i, row in enumerate(rows):
        explain = explain_pb2.ExplainRequest(
            model="digits",
            image=tensor(row),
            preprocess=pb.PREPROCESS_AS_IS,
            methods=methods(gradient_x_input={}),
            targets=[pb.Target(class_name="seven")],
        )
        for warning in Stubs.of(channel).gradients.Explain(explain, timeout=PATIENCE).explanations[0].warnings:
            expected.setdefault(warning, []).append(i)
    assert [3, 4] in expected.values()  # The black ones, whose maps are 0.
    text = "; ".join(f"row {', '.join(map(str, places))}: {warning}" for warning, places in expected.items())
    assert output.parameters["warnings"].string_param == text


def test_each_row_is_counted(inference: Server, channel: grpc.Channel) -> None:
    def counted() -> list[float]:
        return [inference.metric("gradserve_rows_total", method=name) for name in ("predict", "gradient")]

    before = counted()
    call(channel, "ModelInfer", request(ROWS, explain="gradient"))
    assert [now - was for now, was in zip(counted(), before, strict=True)] == [3, 3]
    call(channel, "ModelInfer", request(ROWS, ["map"], explain="gradient"))
    assert [now - was for now, was in zip(counted(), before, strict=True)] == [3, 6]


def test_classification_is_as_tritons(channel: grpc.Channel) -> None:
    asked = request(ROWS, ["probabilities"])
    plain = arrays(call(channel, "ModelInfer", asked))["probabilities"]
    fill(asked.outputs[0].parameters, {"classification": 2})
    (output,) = call(channel, "ModelInfer", asked).outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [3, 2])
    names = Stubs.of(channel).models.GetModel(models_pb2.GetModelRequest(name="digits"), timeout=PATIENCE).classes
    for row, texts in zip(plain, arrays(call(channel, "ModelInfer", asked))["probabilities"], strict=True):
        best = np.argsort(-row)[:2]
        assert list(texts) == [f"{row[k]:f}:{k}:{names[k]}" for k in best]


def test_what_is_told_of_the_server_and_its_models(channel: grpc.Channel) -> None:
    assert call(channel, "ServerLive", v2.ServerLiveRequest()).live
    assert call(channel, "ServerReady", v2.ServerReadyRequest()).ready
    assert call(channel, "ServerMetadata", v2.ServerMetadataRequest()).name == "gradserve"
    metadata = call(channel, "ModelMetadata", v2.ModelMetadataRequest(name="digits"))
    fixed = call(channel, "ModelMetadata", v2.ModelMetadataRequest(name="linear"))
    for model, shape in ((metadata, [-1, 3, -1, -1]), (fixed, [-1, 3, 8, 12])):
        (image,) = model.inputs
        assert (image.name, image.datatype, list(image.shape)) == ("image", "FP32", shape)
    outputs = {each.name: (each.datatype, list(each.shape)) for each in metadata.outputs}
    assert outputs["logits"] == ("FP32", [-1, CLASSES])
    assert outputs["map"] == ("FP32", [-1, -1, -1])
    assert outputs.keys() == {"logits", "probabilities", "labels", "map"}
    (version,) = metadata.versions
    for name, given, ready in (("digits", "", 1), ("digits", version, 1), ("digits", "2", 0), ("digit", "", 0)):
        assert call(channel, "ModelReady", v2.ModelReadyRequest(name=name, version=given)).ready == ready
    pinned = request(ROWS)
    pinned.model_version = version
    reply = call(channel, "ModelInfer", pinned)
    assert (reply.model_name, reply.model_version, reply.id) == ("digits", version, "mine")
    health = health_pb2_grpc.HealthStub(channel)
    one = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
    assert health.Check(one, timeout=PATIENCE).status == health_pb2.HealthCheckResponse.SERVING


def changed(**fields: Any) -> v2.ModelInferRequest:
    """A valid request with other fields of its tensor."""
    message = request(ROWS)
    for name, value in fields.items():
        if name == "shape":
            message.inputs[0].shape[:] = value
        elif name == "raw":
            message.raw_input_contents[:] = value
        else:
            setattr(message.inputs[0], name, value)
    return message


def changed_id(name: str) -> v2.ModelInferRequest:
    message = request(ROWS)
    message.id = name
    return message


def linear(rows: np.ndarray) -> v2.ModelInferRequest:
    message = request(rows)
    message.model_name = "linear"
    return message


def both_contents() -> v2.ModelInferRequest:
    message = request(ROWS)
    message.inputs[0].contents.uint_contents.append(1)
    return message


def other_contents() -> v2.ModelInferRequest:
    message = changed(raw=[])
    message.inputs[0].contents.fp32_contents.append(1)
    return message


def no_contents() -> v2.ModelInferRequest:
    return changed(raw=[])


def above_255() -> v2.ModelInferRequest:
    message = changed(raw=[])
    message.inputs[0].contents.uint_contents.extend([256] * ROWS.size)
    return message


def in_shared_memory() -> v2.ModelInferRequest:
    message = request(ROWS)
    message.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    return message


def classified(name: str, count: int) -> v2.ModelInferRequest:
    message = request(ROWS, [name])
    fill(message.outputs[0].parameters, {"classification": count})
    return message


def cut_off() -> v2.ModelInferRequest:
    message = request([png(row) for row in ROWS])
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]
    return message


BAD: dict[str, tuple[v2.ModelInferRequest, str, str]] = {
    "no tensor": (v2.ModelInferRequest(model_name="digits"), "inputs", "must be one tensor, image; there were: none"),
    "another name": (changed(name="data"), "inputs", "must be one tensor, image; there were: 'data'"),
    "another type": (changed(datatype="FP16"), "inputs[0].datatype", "of image must be FP32"),
    "three sides": (changed(shape=[3, 8, 8]), "inputs[0].shape", "of image must be [N, 3, H, W] or [N, H, W, 3]"),
    "four channels": (changed(shape=[3, 8, 8, 4]), "inputs[0].shape", "was [3, 8, 8, 4]"),
    "a negative side": (changed(shape=[3, -8, -8, 3]), "inputs[0].shape", "was [3, -8, -8, 3]"),
    "no rows": (changed(shape=[0, 8, 8, 3]), "inputs[0].shape", "was [0, 8, 8, 3]"),
    "many rows": (changed(shape=[257, 8, 8, 3]), "inputs[0].shape", "of image must have 1 to 256 rows"),
    "many BYTES": (changed(datatype="BYTES", shape=[3, 2]), "inputs[0].shape", "of image must be [N] or [N, 1]"),
    "few bytes": (changed(shape=[4, 8, 8, 3]), "raw_input_contents[0]", "takes 768 bytes; there were 576"),
    "huge": (changed(shape=[1, 3, 2**62, 2**62]), "raw_input_contents[0]", "image is UINT8"),
    "two contents": (changed(raw=[b"", b""]), "raw_input_contents", "must be one, that of image, were 2"),
    "raw and typed": (both_contents(), "inputs[0].contents", "of image must be empty"),
    "of another type": (other_contents(), "inputs[0].contents", "must have uint_contents alone for UINT8"),
    "nothing": (no_contents(), "inputs[0].contents.uint_contents", "takes 576 elements; there were 0"),
    "above 255": (above_255(), "inputs[0].contents.uint_contents", "image is UINT8: from 0 to 255"),
    "shared memory": (in_shared_memory(), "inputs[0].parameters", "shared memory is not served"),
    "not in [0, 1]": (request(ROWS.astype(np.float32)), "inputs[0]", "image, row 0: a float picture must lie in"),
    "NaN": (request(np.full((1, 8, 8, 3), np.nan, np.float32)), "inputs[0]", "image: a float picture must lie in"),
    "another size": (linear(np.zeros((1, 9, 9, 3), np.uint8)), "inputs[0]", "AS_IS needs a 12x8 picture for linear"),
    "no picture": (request([b"nothing"]), "inputs[0]", "image: not a picture"),
    "cut off": (cut_off(), "raw_input_contents[0]", "element 2 of image is cut off"),
    "fewer elements": (changed(datatype="BYTES", shape=[3], raw=[b""]), "raw_input_contents[0]", "there were 0"),
    "unknown output": (request(ROWS, ["logit"]), "outputs[0].name", "there is no output 'logit'; nearest: logits"),
    "twice": (request(ROWS, ["logits", "logits"]), "outputs", "must name each output once"),
    "map alone": (request(ROWS, ["map"]), "outputs[0].name", "map needs the parameter explain"),
    "classified labels": (classified("labels", 2), "outputs[0].parameters", "and not to labels"),
    "classified by 0": (classified("logits", 0), "outputs[0].parameters", "from 1 to 1000, was 0"),
    "unknown parameter": (request(ROWS, explan="gradient"), "parameters", "no parameter 'explan'; nearest: explain"),
    "unknown method": (request(ROWS, explain="grad_camm"), "parameters.explain", "no method 'grad_camm'"),
    "a number as method": (request(ROWS, explain=3), "parameters.explain", "there is no method 3; there are: gradient"),
    "of another method": (request(ROWS, explain="gradient", samples=3), "parameters", "no parameter 'samples'"),
    "out of range": (request(ROWS, explain="smooth_grad", samples=0), "parameters.samples", "must be an integer from"),
    "no number": (request(ROWS, explain="smooth_grad", samples="x"), "parameters.samples", "must be a whole number"),
    "negative": (request(ROWS, explain="smooth_grad", samples=-1), "parameters.samples", ""),
    "unknown class": (request(ROWS, explain="gradient", target="cat"), "parameters.target", "no class 'cat'"),
    "no such class": (request(ROWS, explain="gradient", target=10), "parameters.target", "must be from 0 to 9, was 10"),
    "a target alone": (request(ROWS, target="seven"), "parameters.target", "needs the parameter explain"),
    "long texts": (request(ROWS, explain="smooth_grad", samples="9" * 2000), "parameters", "at most 1000 characters"),
    "many": (request(ROWS, **{f"p{i}": i for i in range(65)}), "parameters", "must be at most 64, were 65"),
    "top_k": (request(ROWS, top_k=0), "parameters.top_k", "must be from 1 to 1000, was 0"),
    "timeout": (request(ROWS, timeout=0), "parameters.timeout", "microseconds"),
    "precision": (request(ROWS, precision="fats"), "parameters.precision", "must be one of auto, balanced, exact"),
    "preprocess": (request(ROWS, preprocess=1), "parameters.preprocess", "must be one of as_is"),
    "unset": (v2.ModelInferRequest(parameters={"seed": v2.InferParameter()}), "parameters.seed", "must be a whole"),
    "a long id": (changed_id("x" * 1001), "id", "must have at most 1000 characters, had 1001"),
    "large maps": (
        request([png(np.zeros((1000, 800, 3), np.uint8))] * 20, ["map"], explain="gradient", preprocess="as_is"),
        "inputs[0]",
        "the outputs of the 20 rows of image may take 61.0 MiB; a reply carries 60 MiB",
    ),
    "two sizes": (
        request([png(ROWS[0]), png(np.zeros((64, 64, 3), np.uint8))], preprocess="as_is"),
        "inputs[0]",
        "the pictures of image differ in size; send pictures of one size, or another preprocess",
    ),
    "passes": (
        request(np.zeros((9, 8, 8, 3), np.uint8), ["map"], explain="smooth_grad", samples=2000),
        "inputs[0]",
        "the 9 rows of image ask for 18009 passes; at most 16384",
    ),
}


def wordy(length: int) -> ModelCard:
    """A card of 1000 classes with names of so many characters."""
    card = prepared("resnet18").card
    return replace(card, classes=tuple(f"{k:0{length}}" for k in range(len(card.classes))))


def test_answers_that_are_too_large_are_refused_before_they_are_computed() -> None:
    card = wordy(400)
    sent = request(np.zeros((256, card.height, card.width, 3), np.uint8), top_k=1000)
    sent.model_name = card.name
    at = CallContext("id", time.monotonic(), None, ServedModels([card]), LimitSettings())
    with pytest.raises(RequestError) as caught:
        infer.bind(read(sent), at)
    ((field, text),) = caught.value.violations
    assert field == "inputs[0]"
    assert text.startswith(
        "the outputs of the 256 rows of image may take 100.6 MiB; a reply carries 60 MiB; send fewer"
    )
    sent.outputs.add(name="logits")
    infer.bind(read(sent), at)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_typed_contents_take_little_more_memory_than_their_elements(dtype: str) -> None:
    rows = np.resize(np.arange(251), (16, 256, 256, 3)).astype(dtype)
    sent = request(rows, raw=False)
    violations = Violations()
    tracemalloc.start()
    try:
        image = read_tensor(sent, violations)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image is not None
    np.testing.assert_array_equal(image.values, rows)
    one_slice = SLICE * 48  # A list of Python's numbers, and their array.
    assert peak < rows.nbytes + 2 * one_slice


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("classification", [0, 3, 1000])
def test_outputs_take_no_more_bytes_than_admitted(classification: int, raw: bool) -> None:
    card = wordy(200)
    logits = [np.full(len(card.classes), np.finfo(np.float32).min), np.zeros(len(card.classes), np.float32)]
    for wanted in (WantedOutput("logits", classification), WantedOutput("labels"), WantedOutput("map")):
        tensors = {"map": np.zeros((2, 70, 90), "<f4"), **class_outputs([wanted], logits, 5, card)}
        response = v2.ModelInferResponse()
        output = add_output(response, wanted.name, tensors[wanted.name], raw=raw)
        size = sum(map(len, response.raw_output_contents)) + output.contents.ByteSize()
        most = reply_bytes([wanted], 2, (70, 90), 5, card)
        assert most / 1.3 - 10 <= size <= most + 10


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_by_the_tensor(channel: grpc.Channel, case: str) -> None:
    sent, field, text = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", sent)
    refusal = refused(caught.value)
    assert refusal.code == "INVALID_ARGUMENT"
    assert text in refusal.violations[field]


def test_everything_wrong_is_told_at_once(channel: grpc.Channel) -> None:
    sent = request(ROWS, ["logit"], top_k=0, nothing=1)
    sent.model_name = "digit"
    sent.inputs[0].shape[3] = 4
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", sent)
    named = {"model_name", "inputs[0].shape", "outputs[0].name", "parameters", "parameters.top_k"}
    assert refused(caught.value).violations.keys() == named


def test_models_and_versions_that_are_not_there(channel: grpc.Channel) -> None:
    for name, version, reason in (("digit", "", "UNKNOWN_MODEL"), ("digits", "2", "UNKNOWN_VERSION")):
        sent = request(ROWS)
        sent.model_name, sent.model_version = name, version
        metadata = v2.ModelMetadataRequest(name=name, version=version)
        for rpc, message in (("ModelInfer", sent), ("ModelMetadata", metadata)):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, rpc, message)
            assert (refused(caught.value).code, refused(caught.value).reason) == ("NOT_FOUND", reason)


def test_networks_with_scores_of_positions_take_no_part(channel: grpc.Channel) -> None:
    rows = np.zeros((1, 32, 48, 3), np.uint8)
    plain, mapped = request(rows), request(rows, ["map"], explain="gradient", target=0)
    plain.model_name = mapped.model_name = "fine"
    assert not call(channel, "ModelReady", v2.ModelReadyRequest(name="fine")).ready
    for rpc, message in (
        ("ModelMetadata", v2.ModelMetadataRequest(name="fine")),
        ("ModelInfer", plain),
        ("ModelInfer", mapped),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, rpc, message)
        assert (refused(caught.value).code, refused(caught.value).reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
        assert "fine gives a score for each position, and this protocol is for networks" in caught.value.details()


def test_the_other_calls_are_refused_with_a_sentence(channel: grpc.Channel) -> None:
    for rpc, text in (
        ("ModelConfig", "ModelConfig is not served: gradserve.v1.ModelService tells of the models"),
        ("RepositoryModelLoad", "gradserve.v1.ModelManagementService changes the models"),
        ("SystemSharedMemoryRegister", "send the elements of tensors with the request"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")(b"", timeout=PATIENCE)
        assert caught.value.code().name == "UNIMPLEMENTED"
        assert text in caught.value.details()
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([b""]), timeout=PATIENCE))
    assert "call ModelInfer" in caught.value.details()


def test_tokens_rights_and_sums_of_pixels(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    rights = {
        "looker": 'rpcs = ["Predict"]',
        "painter": 'rpcs = ["Explain"]',
        "embedder": 'rpcs = ["Embed"]',
        "all": "",
    }
    tables = [f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{r}' for name, r in rights.items()]
    tokens.write_text("\n".join(tables))
    config = f'{SWITCH}token_file = "{tokens}"\n[limits]\nmax_request_pixels = 1000\n[models.digits]\n{LINEAR}'
    plain, explained = request(ROWS), request(ROWS, explain="gradient")
    only_map = request(ROWS, ["map"], explain="gradient")
    many = request(np.zeros((16, 8, 8, 3), np.uint8))
    most = request(np.zeros((15, 8, 8, 3), np.uint8), explain="gradient")  # 960 pixels, which are counted once.
    mapped = request(np.zeros((16, 8, 8, 3), np.uint8), explain="gradient")
    other = request(ROWS)
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        for name, message, code in (
            ("looker", plain, "OK"),
            ("looker", explained, "PERMISSION_DENIED"),
            ("painter", only_map, "OK"),
            ("painter", plain, "PERMISSION_DENIED"),
            ("embedder", plain, "PERMISSION_DENIED"),
            ("nobody", plain, "UNAUTHENTICATED"),
            ("looker", many, "INVALID_ARGUMENT"),
            ("all", most, "OK"),
            ("all", mapped, "INVALID_ARGUMENT"),
        ):
            metadata = [("authorization", f"Bearer {name}")]
            assert outcome(channel, "ModelInfer", message, metadata) == code, (name, code)
        assert outcome(channel, "ServerLive", v2.ServerLiveRequest(), []) == "UNAUTHENTICATED"
        assert outcome(channel, "ModelInfer", other, [("authorization", "Bearer looker")]) == "OK"


def outcome(channel: grpc.Channel, rpc: str, message: Any, metadata: list[tuple[str, str]]) -> str:
    try:
        call(channel, rpc, message, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
