"""Attack as callers see it: arguments, results, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gradserve import AttackStage, Pick, Unimplemented, cli
from gradserve.messages.attack import attack_request, attack_result
from gradserve.v1 import attack_pb2 as pb

from .fake_attack import BEFORE, CHANGE, attacked

PHOTO = np.zeros((4, 4, 3), np.uint8)


def request(method="pgd", shorthand=None, **facts):
    return attack_request(PHOTO, method, **(shorthand or {}), **facts)


def test_arguments_become_a_request():
    made = request(
        "pgd",
        {"steps": 40, "random_start": False},
        label="cat",
        target=Pick.LEAST_LIKELY,
        eps="8/255",
        norm="l2",
        loss="margin",
        defence=("jpeg", {"quality": 50}),
        adaptive=True,
        eot={"samples": 4},
        first_success=False,
        maps="grad_cam",
    )
    assert (made.method.pgd.steps, made.method.pgd.random_start) == (40, False)
    assert (made.label.class_name, made.target.pick) == ("cat", pb.PICK_LEAST_LIKELY)
    assert (made.eps, made.norm, made.loss) == (8 / 255, pb.NORM_L2, pb.LOSS_MARGIN)
    assert (made.defence.jpeg.quality, made.adaptive, made.eot.samples) == (50, True, 4)
    assert made.HasField("first_success")
    assert made.maps.WhichOneof("method") == "grad_cam"
    bare = request()
    assert not any(
        bare.HasField(name) for name in ("eps", "label", "target", "defence", "eot", "first_success", "maps")
    )
    assert request(target=3).target.class_index == 3
    assert request("corruption", {"kind": "snow"}).method.corruption.kind == pb.CORRUPTION_KIND_SNOW


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"method": "pdg"}, "nearest: pgd"),
        ({"shorthand": {"step_count": 3}}, "no parameter of pgd 'step_count'"),
        ({"eps": "eight"}, "eps is a number or a fraction"),
        ({"norm": "l1"}, "norm must be one of l2, linf"),
        ({"defence": "jpg"}, "nearest: jpeg"),
        ({"eot": {"sample": 3}}, "nearest: samples"),
        ({"eot": "default"}, "eot is True or settings, such as {'samples': 16}, not 'default'"),
        ({"target": True}, "target"),
    ],
)
def test_arguments_that_make_no_sense_are_named(facts, text):
    with pytest.raises(ValueError, match=text):
        request(**facts)


def test_a_result_has_the_picture_and_its_certificate(client, tmp_path):
    found = client.attack(PHOTO, "pgd", perturbation=True, trajectory=True)
    assert found.found
    assert np.array_equal(found.pixels, BEFORE + CHANGE)
    assert np.array_equal(np.asarray(found.original_image()), BEFORE)
    certificate = found.certificate
    assert (certificate.verdict, certificate.before.predicted.class_name) == ("found", "cat")
    assert (certificate.after.margin, certificate.first_success, certificate.target) == (-1.5, 3, None)
    assert [step.predicted.class_name for step in found.trajectory] == ["cat", "dog"]
    assert "found, cat (75.0%) -> dog (90.0%), linf 4/255 of 4/255, 11 queries" in repr(found)
    assert np.array_equal(np.asarray(Image.open(found.save(tmp_path / "adv.png"))), found.pixels)
    with pytest.raises(ValueError, match="other formats would change"):
        found.save(tmp_path / "adv.jpg")
    with pytest.raises(ValueError, match="was not asked for"):
        client.attack(PHOTO).perturbation_image()


def test_where_the_prediction_stays_the_label_that_was_attacked_is_shown(client):
    c = client.attack(PHOTO, "pgd").certificate
    assert [score.class_name for score in c.change] == ["cat", "dog"]
    cat = replace(c.before.label, probability=0.2)
    lost = replace(c, before=replace(c.before, predicted=c.after.predicted), after=replace(c.after, label=cat))
    assert lost.change == (c.before.label, cat)
    for other in (replace(lost, verdict="not_found"), replace(lost, target=2)):
        assert other.change == (c.after.predicted, c.after.predicted)


def test_where_the_prediction_does_not_tell_what_became_of_the_target_its_score_is_shown(client):
    c = client.attack(PHOTO, "pgd").certificate
    cat, dog, bird = c.before.label, c.after.predicted, replace(c.before.label, class_index=2, class_name="bird")
    absent, present = replace(bird, probability=0.1), replace(bird, probability=0.8)
    beside = replace(
        c, target=2, before=replace(c.before, target=absent), after=replace(c.after, predicted=cat, target=present)
    )
    assert beside.change == (absent, present)
    assert replace(beside, verdict="not_found").change == (absent, present)
    other = replace(beside, after=replace(beside.after, predicted=dog))
    assert other.change == (absent, present)
    assert replace(other, verdict="not_found").change == (cat, dog)
    reached = replace(beside, after=replace(beside.after, predicted=present))
    assert reached.change == (cat, present)


def test_many_come_in_order(client):
    found = list(client.attack_many([PHOTO] * 5, "fgsm", seed=3, mask=(0, 0, 2, 2)))
    assert [each.method for each in found] == ["fgsm"] * 5
    assert [each.certificate.mask_pixels for each in found] == [12] * 5
    assert client.attack(PHOTO).certificate.mask_pixels is None


def test_a_server_that_read_past_the_mask_is_told():
    reply = attacked(request(), region=None, provenance=None)
    with pytest.raises(Unimplemented, match="knows no mask of an attack: it changed all pixels; ask a newer server"):
        attack_result(request(mask=(0, 0, 2, 2)), reply)


def run(server, capsys, tmp_path, *arguments, code=0):
    photo = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(photo)
    with pytest.raises(SystemExit, match=str(code)):
        cli.main(["attack", str(photo), "--server", server.target, *arguments])
    return capsys.readouterr()


def test_the_command_saves_and_tells(server, capsys, tmp_path):
    out, difference = tmp_path / "adv.png", tmp_path / "difference.png"
    asked = ["--method", "pgd", "--param", "steps=3", "--target", "least-likely", "--eps", "4/255", "--trajectory"]
    asked += ["--mask", "box:0,1,2,3"]
    told = run(server, capsys, tmp_path, *asked, "--out", str(out), "--save-difference", str(difference))
    assert np.array_equal(np.asarray(Image.open(out)), BEFORE + CHANGE)
    assert difference.exists()
    assert "found" in told.out
    assert "cat 75.0%" in told.out
    assert "2.500" in told.out, "the trajectory"
    assert "warning: SATURATED" in told.err
    sent = server.requests[-1]
    assert (sent.method.pgd.steps, sent.target.pick, sent.eps) == (3, pb.PICK_LEAST_LIKELY, 4 / 255)
    assert (sent.mask.box.y0, sent.mask.box.x1) == (1, 2)


def test_warnings_name_the_picture_where_there_are_several(server, capsys, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(BEFORE).save(other)
    told = run(server, capsys, tmp_path, str(other), "--out", str(tmp_path / "adversarial"))
    assert "warning: other.png: SATURATED" in told.err
    assert "survives" not in told.out, "nothing was changed at random"


def test_the_command_in_json(server, capsys, tmp_path):
    out = str(tmp_path / "a.png")
    asked = ["--json", "--out", out, "--defence", "jpeg:quality=40", "--eot", "samples=3,rotation=5", "--label", "7"]
    (found,) = json.loads(run(server, capsys, tmp_path, *asked).out)["attacks"]
    assert (found["certificate"]["verdict"], found["picture"]) == ("found", out)
    assert len(found["trajectory"]) == 2
    sent = server.requests[-1]
    assert (sent.defence.jpeg.quality, sent.eot.samples, sent.eot.rotation, sent.label.class_index) == (40, 3, 5.0, 7)


def test_the_stages_of_an_ensemble_are_told(server, client, capsys, tmp_path):
    assert client.attack(PHOTO, "pgd").stages == ()
    stages = (AttackStage("apgd", False, 7, 6), AttackStage("apgd_targeted", True, 4, 3))
    assert client.attack(PHOTO, "ensemble").stages == stages
    flags = ["--method", "ensemble", "--out", str(tmp_path / "adv.png")]
    lines = [line.split() for line in run(server, capsys, tmp_path, *flags).out.splitlines()]
    assert ["apgd", "no", "7", "6"] in lines
    assert ["apgd_targeted", "yes", "4", "3"] in lines
    (found,) = json.loads(run(server, capsys, tmp_path, *flags, "--json").out)["attacks"]
    assert found["stages"][1] == {"method": "apgd_targeted", "reached": True, "queries": 4, "gradients": 3}


def test_the_command_refuses_nonsense(server, capsys, tmp_path):
    assert "nearest: pgd" in run(server, capsys, tmp_path, "--method", "pdg", code=2).err
    assert "eps is a number or a fraction" in run(server, capsys, tmp_path, "--eps", "4/0", code=2).err
    asked = len(server.requests)
    assert "saved as .png" in run(server, capsys, tmp_path, "--out", str(tmp_path / "a.jpg"), code=2).err
    assert len(server.requests) == asked, "nothing is asked in vain"
