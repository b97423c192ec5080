"""How a worker starts: one model that fails keeps no other from being served, unless that is wanted."""

import re
from pathlib import Path

import pytest

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import OutOfMemory
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import LoadError
from gradserve_server.pool import startup
from gradserve_server.pool.startup import begin
from gradserve_server.pool.wire import WorkerSettings


def own(name: str, builder: str, **facts: object) -> ModelSpec:
    size = {"height": 16, "width": 16, "precisions": ("exact",)}
    return ModelSpec.model_validate({"name": name, "builder": f"own_networks:{builder}", **size, **facts})


GOOD, OTHER = own("good", "trunk"), own("other", "convolutional_head")
BAD = [
    (own("bad", "raises"), "LookupError: no such recipe: soup"),
    (own("bad", "imports_nothing"), "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
    (own("bad", "leaves"), "SystemExit: 3"),
    (own("bad", "scripted"), "the network is a TorchScript module"),
    (own("bad", "trunk", channels=1), "leave channels = 1 out"),
    (own("bad", "trunk", index=Path("/nowhere")), "/nowhere"),
]


@pytest.mark.parametrize(("bad", "says"), BAD, ids=[says for _, says in BAD])
def test_a_model_that_cannot_be_loaded(bad: ModelSpec, says: str) -> None:
    engine, ready = begin(WorkerSettings((bad, GOOD, OTHER), "cpu"))
    assert [card.name for card in ready.cards] == ["good", "other"]
    assert set(engine.models) == {name for name, _ in ready.speeds} == {"good", "other"}
    assert list(ready.unavailable) == ["bad"]
    assert says in ready.unavailable["bad"]
    assert not ready.unavailable["bad"].startswith("model bad: "), "its name is said by whoever tells the reason"
    with pytest.raises(LoadError, match=r"^model bad: (?!model)"):
        begin(WorkerSettings((GOOD, bad), "cpu", strict=True))
    with pytest.raises(LoadError, match=r"^model bad: (?!model)"):
        begin(WorkerSettings((bad,), "cpu"))


def test_the_log_tells_which_model_is_loading(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", startup.__name__)
    models = (own("bad", "raises"), GOOD, OTHER)
    begin(WorkerSettings(models, "cpu"))
    assert not caplog.records, "one worker of a server tells it"
    _, ready = begin(WorkerSettings(models, "cpu", logs_models=True))
    loading, loaded = caplog.messages[:3], caplog.messages[3:]
    assert loading == ["loading bad (1 of 3)", "loading good (2 of 3)", "loading other (3 of 3)"]
    for card, line in zip(ready.cards, loaded, strict=True):
        rows, digest = ready.rows[card.name, "exact"], card.digest[:12]
        expected = rf"loaded {card.name} in \d+\.\d s: rows per pass {rows} in EXACT; weights {digest}"
        assert re.fullmatch(expected, line)


def test_strict_tells_all_that_failed() -> None:
    with pytest.raises(LoadError, match=r"^model one: .*\nmodel two: [^\n]*$"):
        begin(WorkerSettings((own("one", "raises"), GOOD, own("two", "leaves")), "cpu", strict=True))


def test_all_reasons_are_told_where_no_model_is_left() -> None:
    with pytest.raises(LoadError) as caught:
        begin(WorkerSettings((own("one", "raises"), own("two", "leaves")), "cpu"))
    one, two = str(caught.value).splitlines()
    assert one.startswith("model one: ")
    assert two.startswith("model two: ")


def test_a_model_that_fails_in_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = startup._measure_gradient

    def short_of_memory(engine: Engine, model: startup.Prepared, precision: startup.Precision) -> startup.PassStats:
        if model.card.name == "other":
            raise OutOfMemory("one row does not fit")
        return plain(engine, model, precision)

    monkeypatch.setattr(startup, "_measure_gradient", short_of_memory)
    engine, ready = begin(WorkerSettings((GOOD, OTHER), "cpu"))
    assert [card.name for card in ready.cards] == ["good"]
    assert set(engine.models) == {"good"}, "nothing of it stays in memory"
    assert ready.unavailable == {"other": "one row does not fit"}
    with pytest.raises(LoadError, match="model other: one row does not fit"):
        begin(WorkerSettings((GOOD, OTHER), "cpu", strict=True))


def test_weights_that_are_others_at_every_call() -> None:
    _, ready = begin(WorkerSettings((own("it", "unseeded"), GOOD), "cpu"))
    cards = {card.name: card for card in ready.cards}
    _, again = begin(WorkerSettings((own("it", "unseeded"), GOOD), "cpu", served=cards))
    assert [card.name for card in again.cards] == ["good"]
    assert "other weights at every call" in again.unavailable["it"]


def test_answers_that_are_others_at_every_call() -> None:
    """With the same weights: what is drawn by chance is kept outside of them."""
    _, ready = begin(WorkerSettings((own("it", "draws_outside"), GOOD), "cpu"))
    cards = {card.name: card for card in ready.cards}
    _, again = begin(WorkerSettings((own("it", "draws_outside"), GOOD), "cpu", served=cards))
    assert [card.name for card in again.cards] == ["good"]
    assert again.cards[0].digest == cards["good"].digest
    assert "with the same weights but other answers" in again.unavailable["it"]
    indexed = own("it", "draws_outside", index=Path("/nowhere"))
    assert (
        "with the same weights but other answers" in begin(WorkerSettings((indexed, GOOD), "cpu"))[1].unavailable["it"]
    )
