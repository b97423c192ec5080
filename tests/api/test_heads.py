"""Every head through a real server: what is answered, beside plain torch, and what is refused."""

import io
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from heads import KINDS, SIZE
from PIL import Image
from serving import PATIENCE, Refused, Server, Stubs, methods, picture, refused, values
from torch import Tensor

import gradserve
from gradserve.cli import main
from gradserve.v1 import attack_pb2, certify_pb2, explain_pb2, influence_pb2, maximize_pb2, models_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

IMAGE = picture(5, SIZE["height"], SIZE["width"])
HEADS = {"softmax": models_pb2.HEAD_SOFTMAX, "binary": models_pb2.HEAD_BINARY, "multilabel": models_pb2.HEAD_MULTILABEL}


def as_toml(name: str, entry: dict[str, object]) -> str:
    def text(value: object) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key} = {text(each)}" for key, each in value.items()) + " }"
        return str(list(value)) if isinstance(value, tuple) else repr(value)

    return "\n".join([f"[models.{name}]", *(f"{key} = {text(value)}" for key, value in entry.items()), ""])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    entries = {name: kind.entry for name, kind in KINDS.items()}
    averaged = {"outputs": 5, "end": "softmax_averaged"}
    entries["averaged"] = {**KINDS["softmax"].entry, "arguments": averaged}
    entries["undeclared"] = {key: value for key, value in KINDS["one_logit"].entry.items() if key != "head"}
    config = "".join(as_toml(name, {**entry, "precisions": ("exact",)}) for name, entry in entries.items())
    with Server(config, "--workers", "1") as server:
        yield server


@pytest.fixture(scope="module")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)


def pixels_of(image: pb.Image) -> np.ndarray:
    return np.frombuffer(image.tensor.data, np.uint8).reshape(tuple(image.tensor.shape))


def right(name: str, pixels: np.ndarray) -> Tensor:
    """The logits [classes] of a picture [H, W, 3] in plain torch."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(SIZE[fact]).view(3, 1, 1) for fact in ("mean", "std"))
    with torch.no_grad():
        return KINDS[name].logits((x - mean) / std)[0]


def judged(name: str, score: pb.Score, logits: Tensor) -> None:
    """A class with its score, beside the logits of the same picture."""
    chances = KINDS[name].probabilities(logits[None])[0]
    assert score.logit == pytest.approx(float(logits[score.class_index]), abs=2e-4)
    assert score.probability == pytest.approx(float(chances[score.class_index]), abs=1e-4)


def attack(stubs: Stubs, name: str, **facts: object) -> attack_pb2.AttackResponse:
    usual = {"method": {"pgd": {"steps": 5}}, "preprocess": pb.PREPROCESS_AS_IS, "eps": 0.1, "image": IMAGE}
    return stubs.gradients.Attack(attack_pb2.AttackRequest(model=name, **{**usual, **facts}), timeout=PATIENCE)


def fails(stubs: Stubs, name: str, **facts: object) -> Refused:
    with pytest.raises(grpc.RpcError) as error:
        attack(stubs, name, **facts)
    return refused(error.value)


@pytest.mark.parametrize("name", KINDS)
def test_predict(stubs: Stubs, name: str) -> None:
    asked = predict_pb2.PredictRequest(model=name, image=IMAGE, preprocess=pb.PREPROCESS_AS_IS)
    reply = stubs.gradients.Predict(asked, timeout=PATIENCE)
    logits = right(name, pixels_of(IMAGE))
    assert [score.class_index for score in reply.top] == logits.argsort(descending=True, stable=True).tolist()
    for score in reply.top:
        judged(name, score, logits)
    if KINDS[name].head != "multilabel":
        assert sum(score.probability for score in reply.top) == pytest.approx(1)
    assert not reply.provenance.warnings


@pytest.mark.parametrize("name", KINDS)
def test_explain_the_predicted_class(stubs: Stubs, name: str) -> None:
    asked = explain_pb2.ExplainRequest(
        model=name,
        image=IMAGE,
        preprocess=pb.PREPROCESS_AS_IS,
        methods=methods(gradient={"reduce": explain_pb2.REDUCE_SIGNED}),
        format=explain_pb2.MAP_FORMAT_FLOAT32,
    )
    (found,) = stubs.gradients.Explain(asked, timeout=PATIENCE).explanations
    logits = right(name, pixels_of(IMAGE))
    assert found.target.class_index == int(logits.argmax())
    assert found.target_value == pytest.approx(float(logits.max()), abs=2e-4)
    x = (torch.from_numpy(pixels_of(IMAGE).copy()).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    mean, std = (torch.tensor(SIZE[fact]).view(3, 1, 1) for fact in ("mean", "std"))
    (grad,) = torch.autograd.grad(KINDS[name].logits((x - mean) / std).amax(), x)
    own = grad[0].sum(0).numpy()
    assert np.abs(values(found.raw) - own).max() < 1e-3 * np.abs(own).max()


@pytest.mark.parametrize("loss", [attack_pb2.LOSS_CROSS_ENTROPY, attack_pb2.LOSS_MARGIN])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_certificates(stubs: Stubs, name: str, targeted: bool, loss: int) -> None:
    kind, before = KINDS[name], right(name, pixels_of(IMAGE))
    facts = {"target": {"class_index": int(before.argmin())}} if targeted else {}
    reply = attack(stubs, name, loss=loss, **facts)
    certificate = reply.certificate
    after = right(name, np.asarray(Image.open(io.BytesIO(reply.adversarial))))
    about, sign = (int(before.argmin()), -1) if targeted else (int(before.argmax()), 1)
    assert certificate.label == int(before.argmax())
    for look, logits in ((certificate.before, before), (certificate.after, after)):
        judged(name, look.predicted, logits)
        judged(name, look.label, logits)
        assert look.HasField("target") == targeted
        if targeted:
            assert look.target.class_index == certificate.target
            judged(name, look.target, logits)
        assert look.margin == pytest.approx(sign * float(kind.margin(logits[None], about)), abs=5e-4)
    assert (certificate.verdict == attack_pb2.VERDICT_FOUND) == (certificate.after.margin < 0)
    assert certificate.after.margin < certificate.before.margin
    assert not certificate.warnings


@pytest.mark.parametrize("method", ["fgsm", "apgd", "square", "sphere", "one_pixel", "fooling", "patch", "corruption"])
@pytest.mark.parametrize("name", ["one_logit", "label_sigmoids"])
def test_every_method_takes_every_head(stubs: Stubs, name: str, method: str) -> None:
    before = right(name, pixels_of(IMAGE))
    short: dict[str, dict[str, object]] = {
        "apgd": {"steps": 3},
        "square": {"queries": 20},
        "sphere": {"points": 8},
        "one_pixel": {"population": 8, "generations": 2},
        "fooling": {"population": 8, "generations": 2},
        "patch": {"steps": 2},
        "corruption": {"kind": attack_pb2.CORRUPTION_KIND_CONTRAST},
    }
    facts: dict[str, object] = {"method": {method: short.get(method, {})}}
    if method == "fooling":
        facts |= {"target": {"class_index": int(before.argmin())}, "image": None}
    reply = attack(stubs, name, **(facts if method in ("fgsm", "apgd", "square", "sphere") else facts | {"eps": None}))
    after = right(name, np.asarray(Image.open(io.BytesIO(reply.adversarial))))
    sign, about = (-1, int(before.argmin())) if method == "fooling" else (1, int(before.argmax()))
    assert reply.certificate.after.margin == pytest.approx(sign * float(after[about]), abs=5e-4)


@pytest.mark.parametrize("name", ["one_logit", "one_sigmoid", "label_logits", "label_sigmoids"])
def test_a_loss_that_compares_classes_is_refused(stubs: Stubs, name: str) -> None:
    found = fails(stubs, name, loss=attack_pb2.LOSS_DLR)
    assert found.code == "FAILED_PRECONDITION"
    assert f"{name} has the head {KINDS[name].head}; take MARGIN" in found.text


@pytest.mark.parametrize("method", ["apgd_targeted", "fab_targeted", "ensemble", "malt"])
def test_methods_that_try_classes_need_some_that_exclude_each_other(stubs: Stubs, method: str) -> None:
    found = fails(stubs, "label_logits", method={method: {}})
    assert found.code == "FAILED_PRECONDITION"
    assert "and label_logits has the head multilabel; take apgd or square" in found.text
    if method == "fab_targeted":
        attack(stubs, "two_logits", method={method: {"steps": 2}})
    else:
        found = fails(stubs, "two_logits", method={method: {}})
        assert (found.code, "needs 4 classes" in found.text) == ("FAILED_PRECONDITION", True)
    if method in ("apgd_targeted", "malt"):
        assert "take MARGIN" in found.text
        attack(stubs, "two_logits", method={method: {"steps": 2}}, loss=attack_pb2.LOSS_MARGIN)


@pytest.mark.parametrize("name", ["one_logit", "label_sigmoids"])
def test_a_probability_margin_is_climbed_under_every_head(stubs: Stubs, name: str) -> None:
    reply = attack(stubs, name, method={"apgd": {"steps": 5}}, loss=attack_pb2.LOSS_PROBABILITY_MARGIN)
    assert reply.loss == attack_pb2.LOSS_PROBABILITY_MARGIN
    assert reply.certificate.after.margin < reply.certificate.before.margin


def test_a_surrogate_must_mean_the_same(stubs: Stubs) -> None:
    found = fails(stubs, "two_logits", method={"transfer": {"surrogate": "one_logit"}})
    assert found.code == "INVALID_ARGUMENT"
    assert found.violations["method.transfer.surrogate"] == (
        "must mean the same by its outputs: one_logit has the head binary, two_logits has softmax; "
        "name a surrogate with the head softmax"
    )
    crafted = attack(stubs, "one_logit", method={"transfer": {"surrogate": "one_sigmoid", "steps": 3}})
    assert crafted.certificate.after.margin < crafted.certificate.before.margin


def test_an_absent_label_is_misclassified_already(stubs: Stubs) -> None:
    absent = int(right("label_logits", pixels_of(IMAGE)).argmin())
    found = attack(stubs, "label_logits", label={"class_index": absent}).certificate
    assert found.verdict == attack_pb2.VERDICT_ALREADY_MISCLASSIFIED
    assert found.before.margin < 0
    assert found.before.label.probability < 0.5


def test_picked_targets_are_absent_labels(stubs: Stubs) -> None:
    logits = right("label_logits", pixels_of(IMAGE))
    absent = [c for c in logits.argsort(descending=True).tolist() if logits[c] <= 0]
    for pick, target in ((attack_pb2.PICK_RUNNER_UP, absent[0]), (attack_pb2.PICK_LEAST_LIKELY, absent[-1])):
        assert attack(stubs, "label_logits", target={"pick": pick}).certificate.target == target


@pytest.mark.parametrize("name", ["one_logit", "label_sigmoids"])
def test_maximise_a_class(stubs: Stubs, name: str) -> None:
    goal = {"summands": [{"target": {"class_index": 0}}]}
    asked = maximize_pb2.MaximizeRequest(model=name, goals=[goal], settings={"steps": 3})
    (found,) = stubs.gradients.Maximize(asked, timeout=PATIENCE).images
    logits = right(name, np.asarray(Image.open(io.BytesIO(found.png))))
    assert found.value == pytest.approx(float(logits[0]), abs=5e-4)
    for score in found.top:
        judged(name, score, logits)


@pytest.mark.parametrize("name", ["label_logits", "label_sigmoids"])
def test_independent_labels_have_no_influence(stubs: Stubs, name: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Influence(influence_pb2.InfluenceRequest(model=name, image=IMAGE), timeout=PATIENCE)
    found = refused(error.value)
    assert found.code == "FAILED_PRECONDITION"
    assert "independent labels" in found.text
    assert "one label for each example" in found.text


def test_logits_made_of_probabilities_are_told(stubs: Stubs) -> None:
    asked = predict_pb2.PredictRequest(model="averaged", image=IMAGE, preprocess=pb.PREPROCESS_AS_IS)
    reply = stubs.gradients.Predict(asked, timeout=PATIENCE)
    scores = right("softmax", pixels_of(IMAGE))
    own = (scores.softmax(0) + (scores / 3).softmax(0)) / 2
    for score in reply.top:
        assert score.probability == pytest.approx(float(own[score.class_index]), abs=1e-5)
    certificate = attack(stubs, "averaged").certificate
    for warnings in (reply.provenance.warnings, certificate.warnings):
        assert [warning.partition(":")[0] for warning in warnings] == ["SOFTMAX_OUTPUTS"]


def test_the_command_line_shows_the_target_that_was_reached(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    logits = right("label_logits", pixels_of(IMAGE))
    absent = max((c for c in range(len(logits)) if logits[c] <= 0), key=lambda c: float(logits[c]))
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels_of(IMAGE)).save(photo)
    asked = [
        "--model",
        "label_logits",
        "--target",
        str(absent),
        "--preprocess",
        "as_is",
        "--eps",
        "0.3",
        "--first-success",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["attack", str(photo), *asked, "--out", str(tmp_path / "a.png"), "--server", server.address])
    assert ended.value.code == 0
    after = right("label_logits", np.asarray(Image.open(tmp_path / "a.png")))
    chances = [f"class {absent} {float(each[absent].sigmoid()):.1%}" for each in (logits, after)]
    told = " ".join(capsys.readouterr().out.split())
    assert "found" in told
    assert " ".join(chances) in told


@pytest.mark.parametrize(
    ("name", "says"),
    [("softmax", "classes that exclude"), ("one_logit", "yes-or-no"), ("label_sigmoids", "independent labels")],
)
def test_the_command_line_shows_the_head(
    server: Server, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", name, "--server", server.address])
    assert ended.value.code == 0
    assert says in capsys.readouterr().out


def test_a_single_logit_without_a_head_is_refused(stubs: Stubs) -> None:
    reply = stubs.models.ListModels(models_pb2.ListModelsRequest())
    (one,) = reply.unavailable
    assert one.name == "undeclared"
    assert 'write head = "binary" into its entry, with labels = [NO, YES]' in one.reason


def test_cards_tell_the_head(server: Server, stubs: Stubs) -> None:
    own = {name: kind.head for name, kind in KINDS.items()} | {"averaged": "softmax"}
    models = stubs.models.ListModels(models_pb2.ListModelsRequest()).models
    assert {model.name: model.head for model in models} == {name: HEADS[head] for name, head in own.items()}
    with gradserve.Client(server.address) as client:
        assert {card.name: card.head for card in client.models()} == own
        assert client.model("one_sigmoid").classes == ("not cat", "cat")
        assert client.predict(pixels_of(IMAGE), model="one_logit", preprocess="as_is")[0].class_name in ("dog", "cat")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.head != "multilabel"])
def test_certify_counts_the_classes_that_plain_torch_gives(stubs: Stubs, name: str) -> None:
    facts = {"sigma": 0.25, "selection_samples": 20, "samples": 200, "options": {"seed": 3}}
    request = certify_pb2.CertifyRequest(model=name, image=IMAGE, preprocess=pb.PREPROCESS_AS_IS, **facts)
    found = stubs.gradients.Certify(request, timeout=PATIENCE)
    image = torch.from_numpy(pixels_of(IMAGE).copy()).permute(2, 0, 1).float() / 255
    seeds = [int(np.random.SeedSequence([3, i]).generate_state(1, np.uint64)[0]) >> 1 for i in range(220)]
    noise = [torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    mean, std = (torch.tensor(SIZE[fact]).view(3, 1, 1) for fact in ("mean", "std"))
    with torch.no_grad():
        logits = KINDS[name].logits((image + 0.25 * torch.stack(noise) - mean) / std)
    classes = logits.argmax(1)
    for each in found.counts:
        assert each.selection_count == int((classes[:20] == each.class_index).sum())
        assert each.count == int((classes[20:] == each.class_index).sum())
    assert sum(each.count for each in found.counts) == 200
