import inspect
import re

import numpy as np
import pytest
from PIL import Image

from gradserve import Client, Contrast, Method, Rank, Similarity, Unit, errors
from gradserve.cli import parse
from gradserve.messages import fields, inputs
from gradserve.messages.attack import attack_request, attack_result
from gradserve.messages.common import request_options
from gradserve.messages.explain import EXPLAIN_METHOD, explain_request, explanations
from gradserve.v1 import attack_pb2, common_pb2, explain_pb2

PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


def explain(methods, **arguments):
    return explain_request(PIXELS, methods, **arguments)


@pytest.mark.parametrize(
    ("asked", "shorthand"),
    [
        ("smooth_grad", {"samples": 25, "statistic": "variance"}),
        (("smooth_grad", {"samples": 25}), {"statistic": "variance"}),
        (("smooth_grad", {"samples": 25, "statistic": "variance"}), {}),
        (Method("smooth_grad", samples=25, statistic="variance"), {}),
    ],
)
def test_a_method_in_all_its_spellings(asked, shorthand):
    (method,) = explain(asked, **shorthand).methods
    assert method == explain_pb2.ExplainMethod(
        smooth_grad={"samples": 25, "statistic": explain_pb2.SMOOTH_GRAD_STATISTIC_VARIANCE}
    )


def test_every_method_without_parameters():
    names = fields.names(EXPLAIN_METHOD)
    request = explain(names)
    assert [method.WhichOneof("method") for method in request.methods] == names
    assert "grad_cam" in names


def test_every_choice_has_a_name_and_goes_there_and_back():
    enums = [
        field.enum_type
        for method in EXPLAIN_METHOD.oneofs_by_name["method"].fields
        for field in method.message_type.fields
        if field.enum_type
    ]
    enums += [common_pb2.Priority.DESCRIPTOR, common_pb2.Precision.DESCRIPTOR, common_pb2.Preprocess.DESCRIPTOR]
    for enum in enums:
        for value in enum.values:
            name = fields.choice_name(enum, value.number)
            assert value.name.lower().endswith(name)
            if name != "unspecified":
                assert fields.choice(enum, name) == value.number
    assert fields.choice_name(common_pb2.DType.DESCRIPTOR, common_pb2.DTYPE_UINT8) == "uint8"


def test_no_parameter_hides_an_argument_of_explain():
    arguments = set(inspect.signature(Client.explain).parameters)
    for method in EXPLAIN_METHOD.oneofs_by_name["method"].fields:
        assert not arguments & {field.name for field in method.message_type.fields}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, {"class_index": 3}),
        (0, {"class_index": 0}),
        (np.int64(3), {"class_index": 3}),
        ("tabby cat", {"class_name": "tabby cat"}),
        (Rank(2), {"rank": 2}),
        (Unit("layer4.1", 17), {"unit": {"layer": "layer4.1", "channel": 17}}),
        (Unit("layer4.1", 17, y=0, x=5), {"unit": {"layer": "layer4.1", "channel": 17, "y": 0, "x": 5}}),
    ],
)
def test_targets(target, message):
    assert list(explain("gradient", target=target).targets) == [common_pb2.Target(**message)]


def test_regions():
    box = common_pb2.ScoreRegion(box=common_pb2.Box(x0=1, y0=2.5, x1=3, y1=4))
    assert [each.region for each in explain("gradient", target=["cat", 3], region=(1, 2.5, 3, 4)).targets] == [box, box]
    (target,) = explain("gradient", region=PIXELS[..., 0]).targets
    assert (target.rank, target.region.WhichOneof("kind")) == (1, "mask")
    assert not explain("gradient", target="cat").targets[0].HasField("region")
    with pytest.raises(ValueError, match="region is a box of four numbers"):
        explain("gradient", region=(1, 2, 3))
    assert explain("gradient", region=[1, 2.5, 3, 4]).targets[0].region == box
    with pytest.raises(ValueError, match=r"region is a box of four numbers .* not \[1, 2\]"):
        explain("gradient", region=[1, 2])
    labels = np.array([[7, 0, 7], [1, 7, 2]])
    (masked,) = explain("gradient", region=labels == 7).targets
    assert masked.region.mask == inputs.message(np.uint8([[255, 0, 255], [0, 255, 0]]))
    with pytest.raises(ValueError, match="a mask as an array has no alpha"):
        explain("gradient", region=np.zeros((8, 8, 4), np.uint8))
    attack = attack_request(PIXELS, region=(1, 2.5, 3, 4))
    assert attack.score_region == box


def test_masks_of_attacks(photo_path):
    made = attack_request(PIXELS, mask=(1, 2.5, 3, 4))
    assert (made.mask.box.x0, made.mask.box.y0, made.mask.box.x1, made.mask.box.y1) == (1, 2.5, 3, 4)
    assert not made.HasField("score_region")
    assert not attack_request(PIXELS).HasField("mask")
    labels = np.array([[7, 0, 7], [1, 7, 2]])
    white = inputs.message(np.uint8([[255, 0, 255], [0, 255, 0]]))
    assert attack_request(PIXELS, mask=labels == 7).mask.picture == white
    for mask in (photo_path, photo_path.read_bytes()):
        assert attack_request(PIXELS, mask=mask).mask.picture.encoded == photo_path.read_bytes()
    assert attack_request(PIXELS, mask=Image.open(photo_path)).mask.picture.WhichOneof("kind") == "encoded"
    with pytest.raises(ValueError, match="mask is a box of four numbers"):
        attack_request(PIXELS, mask=(1, 2, 3))
    with pytest.raises(ValueError, match="a mask as an array has no alpha"):
        attack_request(PIXELS, mask=np.zeros((8, 8, 4), np.uint8))


def test_regions_of_the_command_line(photo_path):
    assert parse.region(None) is None
    assert parse.region("box:1,2.5,3,4") == (1, 2.5, 3, 4)
    assert parse.region(str(photo_path)) == photo_path
    with pytest.raises(ValueError, match=r"--mask 1,2,3,4 is no file; write --mask box:1,2,3,4"):
        parse.region("1,2,3,4", "--mask")


FORM = "write box:x0,y0,x1,y1 in pixels of the photo, or a mask's file"
WRONG_REGIONS = {
    "box:1,2": f"--region box:1,2: {FORM}",
    "box:1 2.5 -3 4": "write --region box:1,2.5,-3,4",
    "100,50,300,250": "--region 100,50,300,250 is no file; write --region box:100,50,300,250",
    "(100, 50, 300, 250)": "write --region box:100,50,300,250",
    "BOX=100;50;300;250": "write --region box:100,50,300,250",
    "mask:m.png": "--region mask:m.png is no file; a mask is its file alone; write --region m.png",
    "gone.png": f"--region gone.png is no file; {FORM}",
    "1,2,3": FORM,
    "": FORM,
}


@pytest.mark.parametrize("text", WRONG_REGIONS)
def test_the_right_form_of_a_region_is_told(text):
    with pytest.raises(ValueError, match=re.escape(WRONG_REGIONS[text]) + "$"):
        parse.region(text)


PART_OF_A_TARGET = {
    "contrast": {"target": [0, Contrast(0, 1)]},
    "similarity": {"target": Similarity(PIXELS)},
    "region": {"target": [1], "region": (1, 2, 3, 4)},
    "contrast and no region": {"target": Contrast(0, 1), "region": (1, 2, 3, 4)},
}


@pytest.mark.parametrize("part", PART_OF_A_TARGET)
def test_a_server_that_leaves_out_a_part_of_a_target_is_told_of(part):
    """An older server reads neither; what it answers is of class 0 or of the predicted class."""
    request = explain(["gradient", "deconvnet"], **PART_OF_A_TARGET[part])
    assert not list(explanations(explain("gradient"), explain_pb2.ExplainResponse()))
    answers = [explain_pb2.Explanation(target=common_pb2.Target(class_index=0))] * 2 * len(request.targets)
    provenance = common_pb2.Provenance(server_version="0.0.1")
    says = f"the server, version 0.0.1, is older than this client and knows no {part} as target: it answered for ano"
    with pytest.raises(errors.Unimplemented, match=says):
        explanations(request, explain_pb2.ExplainResponse(explanations=answers, provenance=provenance))
    if part in ("contrast", "similarity"):
        maps = {"maps": "gradient", "maps_target": Contrast(0, 1) if part == "contrast" else Similarity(PIXELS)}
        reply = attack_pb2.AttackResponse(map_before=answers[0], provenance=provenance)
        with pytest.raises(errors.Unimplemented, match=says):
            attack_result(attack_request(PIXELS, **maps), reply)


@pytest.mark.parametrize(("part", "code"), [("segment", "NO_SEGMENT"), ("trust", "NOT_JUDGED")])
def test_a_server_that_leaves_out_what_is_measured_of_a_map_is_told_of(part, code):
    request = explain("gradient", target=1, **{part: True})
    raw = common_pb2.Tensor(shape=[1, 1], dtype=common_pb2.DTYPE_FLOAT32, data=bytes(4))
    answer = explain_pb2.Explanation(target=common_pb2.Target(class_index=1), raw=raw)
    with pytest.raises(errors.Unimplemented, match=f"knows no {part}: it left it out"):
        explanations(request, explain_pb2.ExplainResponse(explanations=[answer]))
    answer.warnings.append(f"{code}: made up")
    assert len(explanations(request, explain_pb2.ExplainResponse(explanations=[answer]))) == 1


def test_a_region_is_no_target():
    for text, where in (("box:1,2,3,4", "box:1,2,3,4"), ("mask:m.png", "m.png")):
        with pytest.raises(ValueError, match=f"and its region is --region {where}$"):
            parse.target(text)
    assert parse.target("mask: of gauze") == "mask: of gauze"
    assert parse.target("box: open") == "box: open"


def test_no_target_and_many():
    assert not explain("gradient").targets
    assert len(explain("gradient", target=[0, "tabby cat", Rank(1)]).targets) == 3


def test_options():
    options = request_options(
        priority="batch", precision="exact", seed=0, time_budget=0.25, allow_partial=True, quick_decode=True, alone=True
    )
    assert options.priority == common_pb2.PRIORITY_BATCH
    assert options.precision == common_pb2.PRECISION_EXACT
    assert options.HasField("seed")
    assert options.time_budget.nanos == 250_000_000
    assert options.allow_partial
    assert options.quick_decode
    assert not request_options().quick_decode
    assert options.alone
    plain = request_options()
    assert not plain.HasField("seed")
    assert not plain.HasField("time_budget")
    assert not plain.alone


def test_any_sequence_of_methods_is_several():
    several = explain(("gradient", ("grad_cam", {"signed": True})))
    assert several == explain(["gradient", Method("grad_cam", signed=True)])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: explain("smoothgrad"), "no method 'smoothgrad'; nearest: smooth_grad"),
        (lambda: explain("zzz"), "deconvnet, grad_cam"),
        (
            lambda: explain("smooth_grad", sample=3),
            "no parameter of smooth_grad 'sample'; nearest: samples",
        ),
        (lambda: explain("grad_cam", precison="fast"), "no argument of explain 'precison'; nearest: precision"),
        (lambda: explain("grad_cam", tagret=3), "no argument of explain 'tagret'; nearest: target"),
        (lambda: explain("grad_cam", lyer="fc"), "no parameter of grad_cam 'lyer'; nearest: layer"),
        (lambda: explain("smooth_grad", samples=2.5), "smooth_grad.samples: must be a whole number"),
        (lambda: explain("smooth_grad", samples=True), "smooth_grad.samples: must be a whole number"),
        (lambda: explain("smooth_grad", samples=-1), "smooth_grad.samples"),
        (lambda: explain("smooth_grad", noise="much"), "smooth_grad.noise: must be a number"),
        (lambda: explain("grad_cam", signed=1), "grad_cam.signed: must be true or false"),
        (lambda: explain("gradient", reduce="mean"), "gradient.reduce: must be one of max, signed, sum"),
        (lambda: explain(["gradient"], reduce="max"), "write Method"),
        (lambda: explain(17), "several go in a list"),
        (lambda: explain("gradient", target=(1, 2)), "several go in a list"),
        (lambda: explain("gradient", target=-1), "target must be"),
        (lambda: explain("gradient", target=True), "a target is"),
        (lambda: explain("gradient", format="jpeg"), "format must be one of float16, float32, png"),
        (lambda: request_options(priority="urgent"), "priority must be one of batch, interactive"),
        (lambda: explain("rise", until_stable="soon"), "until_stable must be a number, not 'soon'"),
        (lambda: request_options(time_budget=0), "time_budget"),
        (lambda: request_options(time_budget="soon"), "time_budget must be a number, not 'soon'"),
        (lambda: request_options(seed=-1), "seed"),
        (lambda: Unit("layer4", 1, y=3), "go together"),
    ],
)
def test_what_makes_no_sense_is_a_value_error(broken, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        broken()


@pytest.mark.parametrize(
    ("method", "name", "text", "value"),
    [
        ("smooth_grad", "samples", "25", 25),
        ("smooth_grad", "noise", "0.1", 0.1),
        ("occlusion", "patch", "1/7", 1 / 7),
        ("gradient", "log_prob", "yes", True),
        ("gradient", "reduce", "max", "max"),
        ("grad_cam", "layer", "features.18", "features.18"),
    ],
)
def test_parameters_of_the_command_line(method, name, text, value):
    assert fields.parse(EXPLAIN_METHOD, method, name, text) == value


def test_parameters_of_the_command_line_that_cannot_be_read():
    with pytest.raises(ValueError, match="samples must be a whole number, not 'many'"):
        fields.parse(EXPLAIN_METHOD, "smooth_grad", "samples", "many")


def test_values_can_be_keys():
    assert {Method("gradient", reduce="max"): 1}[Method("gradient", reduce="max")] == 1
    assert repr(Method("smooth_grad", samples=25)) == "Method('smooth_grad', samples=25)"
    assert str(Unit("layer4.1", 17, 3, 5)) == "layer4.1:17 (3, 5)"


def test_numbers_beyond_their_field_are_refused_by_name():
    assert request_options(seed=2**64 - 1).seed == 2**64 - 1
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*64, not 18446744073709551616"):
        request_options(seed=2**64)
    with pytest.raises(ValueError, match=r"target must be below 2\*\*32, not 4294967296"):
        explain("gradient", target=2**32)
