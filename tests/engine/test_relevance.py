"""Rows with relevance beside others: no row changes for its company, and what a pass costs is counted."""

import pytest
import torch
from zoo import at, off, pictures, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import NotApplicable, logit
from gradserve_server.engine.query import Answer, Part, Query, Tap
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.rules import Relevance, Rule

RULES: list[Rule] = [
    "plain",
    Relevance(),
    "guided",
    Relevance("gamma", 0.25, "box"),
    "plain",
    Relevance("epsilon"),
    Relevance(input="flat"),
    Relevance("epsilon", input="flat"),
]
CNNS = ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet", "imagenet"]


def together(model: Prepared, rules: list[Rule]) -> list[Answer]:
    """A row for each rule, each a query of its own."""
    x = pictures(model, len(rules))
    queries = [Query(x[i : i + 1], logit(i), "image", rule=rule) for i, rule in enumerate(rules)]
    return differentiate(model, [Part(query, range(1)) for query in queries])


def distance(a: Answer, b: Answer) -> float:
    assert a.image_grad is not None
    assert b.image_grad is not None
    return off(a.image_grad, b.image_grad)


@pytest.mark.parametrize("name", CNNS)
def test_company_with_relevance_leaves_every_bit(name: str) -> None:
    """Logits, plain rows and guided ones. Relevance is computed for the rows of a rule alone, and rounds otherwise."""
    model = prepared(name)
    mixed, plain = together(model, RULES), together(model, ["plain"] * len(RULES))
    for rule in dict.fromkeys(RULES):
        pure = together(model, [rule] * len(RULES))
        for i in (i for i, each in enumerate(RULES) if each == rule):
            assert torch.equal(mixed[i].logits, pure[i].logits)  # type: ignore[arg-type]
            if isinstance(rule, str):
                assert torch.equal(mixed[i].image_grad, pure[i].image_grad)  # type: ignore[arg-type]
            else:
                assert distance(mixed[i], pure[i]) < 1e-5
                assert rule == Relevance("epsilon") or distance(mixed[i], plain[i]) > 0.01


@pytest.mark.parametrize(("name", "bound"), [("vit_b_32", 1e-5), ("swin_t", 1e-5), ("convnext_tiny", 1e-5)])
def test_company_in_transformers(name: str, bound: float) -> None:
    """Attention projects queries, keys and values one by one under the rules, which rounds otherwise."""
    model = prepared(name)
    rules = [rule for rule in RULES if rule != "guided"]
    mixed = together(model, rules)
    for rule in dict.fromkeys(rules):
        pure = together(model, [rule] * len(rules))
        for i in (i for i, each in enumerate(rules) if each == rule):
            assert off(mixed[i].logits, pure[i].logits) < bound  # type: ignore[arg-type]
            assert distance(mixed[i], pure[i]) < bound


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "vit_b_32"])
def test_ruled_rows_equal_their_lone_run(name: str) -> None:
    """Up to the rounding of another batch size."""
    model = prepared(name)
    rules = [rule for rule in RULES if rule != "guided" or name != "vit_b_32"]
    x = pictures(model, len(rules))
    for i, answer in enumerate(together(model, rules)):
        query = Query(x[i : i + 1], logit(i), "image", rule=rules[i])
        assert distance(answer, differentiate(model, [Part(query, range(1))])[0]) < 1e-4


def test_a_layers_gradient_times_the_layer_is_its_relevance() -> None:
    """With epsilon on a network of ReLUs without biases after it, all of the logit."""
    model = prepared("resnet18")
    x = pictures(model, 1)
    query = Query(x, logit(4), "taps", (Tap("avgpool"),), rule=Relevance())
    (answer,) = differentiate(model, [Part(query, range(1))])
    relevance = answer.acts[0] * answer.act_grads[0]
    bias = model.network.get_submodule("fc").bias[4]
    assert answer.value is not None
    assert float(relevance.sum()) == pytest.approx(float(answer.value - bias), rel=1e-4)


@pytest.mark.parametrize("precision", ["balanced", "fast"])
def test_other_precisions_are_refused(precision: str) -> None:
    model = at(prepared("resnet18"), precision)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="EXACT alone"):
        together(model, [Relevance()])


def test_a_row_costs_as_much_as_its_rule() -> None:
    model = prepared("resnet18")
    x = pictures(model, 1)

    def steps(rule: Rule) -> Steps:
        return (yield Query(x, logit(1), "image", rule=rule))

    spent = {}
    for rule in ("plain", Relevance("epsilon"), Relevance(), Relevance("gamma")):
        engine = Engine({"model": model})
        job = Job("job", "model", lambda job, rule=rule: steps(rule))  # type: ignore[misc]
        engine.submit(job)
        while not engine.idle:
            engine.step()
        spent[rule] = job.gflop, engine.passes[0].gflop, job.rows
    plain = spent["plain"][0]
    factors = {
        rule: 1 if isinstance(rule, str) else {"epsilon": 2, "z_plus": 4, "gamma": 7}[rule.convolution]
        for rule in spent
    }
    for rule, (gflop, of_pass, rows) in spent.items():
        assert gflop == of_pass == pytest.approx(plain * factors[rule])
        assert rows == 1
