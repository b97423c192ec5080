"""Who calls, by token or address, and what each may use."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradserve_server.api.admission import callers as module
from gradserve_server.api.admission import tokens
from gradserve_server.api.admission.callers import BURST_SECONDS, Caller, Callers, address
from gradserve_server.api.admission.tokens import RPCS, TokenFile, read_tokens
from gradserve_server.api.errors import Full, RequestError
from gradserve_server.api.request import model_of
from gradserve_server.config import StartError
from gradserve_server.models.served import ServedModels


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def table(name: str, token: str, rights: str = "") -> str:
    return f'[{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n{rights}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def callers_of(path: Path, text: str, weights: dict[str, float] | None = None) -> Callers:
    path.write_text(text)
    return Callers(TokenFile(path, weights or {}), {})


def known(callers: Callers, token: str) -> Caller:
    caller = callers.of(bearer(token), "")
    assert caller is not None
    return caller


def test_tokens_have_names_and_names_have_weights(tmp_path: Path) -> None:
    callers = callers_of(tmp_path / "tokens", "sesame nightly\n\nopen\n", {"nightly": 0.5})
    assert callers.of(bearer("sesame"), "") == Caller("nightly", 0.5)
    unnamed = known(callers, "open")
    assert unnamed.name.startswith("token:")
    assert "open" not in unnamed.name, "the log tells no token"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_in_any_case(path: Path, scheme: str) -> None:
    callers = callers_of(path, table("nightly", "sesame"))
    assert callers.of({"authorization": f"{scheme} sesame"}, "") == Caller("nightly")


@pytest.mark.parametrize("metadata", [{}, bearer("other"), {"authorization": "sesame"}, bearer(""), bearer("Sesame")])
def test_without_a_known_token_nobody_is_let_in(path: Path, metadata: dict[str, str]) -> None:
    assert callers_of(path, table("nightly", "sesame")).of(metadata, "ipv4:10.0.0.7:1") is None


def test_where_no_tokens_are_asked_for_addresses_tell_callers_apart_and_tokens_that_are_sent() -> None:
    callers = Callers(None, {})
    peers = ["ipv4:10.0.0.7:41234", "ipv4:10.0.0.7:41235", "ipv4:10.0.0.8:41234", "ipv6:%5B::1%5D:5", "unix:"]
    names = [caller.name for peer in peers if (caller := callers.of({}, peer))]
    assert names == ["ipv4:10.0.0.7", "ipv4:10.0.0.7", "ipv4:10.0.0.8", "ipv6:%5B::1%5D", "unix:"]
    one, two = callers.of(bearer("one"), peers[0]), callers.of(bearer("two"), peers[0])
    assert one is not None
    assert two is not None
    assert len({one.name, two.name, names[0]}) == 3
    assert "one" not in one.name, "the log tells no token"
    assert all(callers.may_call(one, rpc) for rpc in RPCS)
    assert callers.rights(one).reflection


def test_a_weight_needs_a_token_of_that_name(path: Path) -> None:
    with pytest.raises(StartError, match="no token has that name"):
        callers_of(path, table("nightly", "sesame"), {"daily": 2.0})
    assert known(callers_of(path, table("nightly", "sesame", "weight = 3")), "sesame").weight == 3
    assert Callers(None, {"ipv4:10.0.0.7": 2.0}).of({}, "ipv4:10.0.0.7:1") == Caller("ipv4:10.0.0.7", 2.0)


def test_an_address_has_no_port() -> None:
    assert address("ipv4:10.0.0.7:41234") == "ipv4:10.0.0.7"
    assert address("unix:/run/gradserve.sock") == "unix:/run/gradserve.sock"


def test_a_token_may_call_some_rpcs_alone(path: Path) -> None:
    callers = callers_of(path, table("looker", "a", 'rpcs = ["Predict", "Stylize"]') + table("all", "b"))
    looker, all_ = known(callers, "a"), known(callers, "b")
    assert [rpc for rpc in (*RPCS, "StreamStylize") if callers.may_call(looker, rpc)] == [
        *(rpc for rpc in RPCS if rpc in ("Predict", "Stylize")),
        "StreamStylize",
    ]
    with pytest.raises(RequestError, match="looker may not call Attack; it may call: Predict, Stylize") as caught:
        callers.check_rpc(looker, "Attack")
    assert (caught.value.code.name, caught.value.reason) == ("PERMISSION_DENIED", "NOT_ALLOWED")
    callers.check_rpc(all_, "Attack")
    assert not callers.rights(all_).reflection, "it is a right of its own"


def test_a_rate_lets_a_silent_caller_use_ten_seconds_of_it_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    callers = callers_of(path, table("a", "a", "gflop_per_second = 5") + table("b", "b"))
    a, b = known(callers, "a"), known(callers, "b")
    callers.check_rate(a)
    callers.charge(a, 5 * BURST_SECONDS + 10)
    callers.charge(b, 1e9)
    callers.check_rate(b)
    with pytest.raises(Full, match="a may use 5 GFLOP a second, and has used more") as caught:
        callers.check_rate(a)
    assert caught.value.refused == "rate"
    assert caught.value.retry_after is not None
    assert 2 <= caught.value.retry_after <= 3, "10 GFLOP too many, at 5 a second, and a random share more"
    now += 2.01
    callers.check_rate(a)
    now += 1000
    callers.check_rate(a)
    callers.charge(a, 5 * BURST_SECONDS)
    callers.check_rate(a)
    callers.charge(a, 0.01)
    with pytest.raises(Full):
        callers.check_rate(a)


def test_front_ends_share_a_rate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    path.write_text(table("a", "a", "gflop_per_second = 5"))
    callers = Callers(TokenFile(path, {}), {}, front_ends=2)
    a = known(callers, "a")
    callers.check_rate(a)
    callers.charge(a, 5 * BURST_SECONDS / 2 + 0.01)
    with pytest.raises(Full):
        callers.check_rate(a)


def test_a_file_is_read_again_when_it_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "RELOAD_SECONDS", 0)
    callers = callers_of(path, table("a", "one", 'rpcs = ["Predict"]'))
    assert not callers.may_call(known(callers, "one"), "Explain")
    path.write_text(table("a", "two") + table("b", "three"))
    assert callers.of(bearer("one"), "") is None
    assert callers.may_call(known(callers, "two"), "Explain")
    other = path.with_name("other")
    other.write_text(table("c", "four"))
    os.replace(other, path)
    assert known(callers, "four").name == "c"
    path.write_text("[broken")
    assert known(callers, "four").name == "c", "a file at fault changes nothing"
    path.unlink()
    assert known(callers, "four").name == "c"
    path.write_text(table("d", "four"))
    assert known(callers, "four").name == "d"


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("tokens", " \n", "is empty"),
        ("tokens", "a b\nc d e\n", "token 2 has more"),
        ("tokens.toml", "", "is empty"),
        ("tokens.toml", "[a", "tokens.toml"),
        ("tokens.toml", '[a]\nsha256 = "abc"', r"tokens.toml, \[a\]: sha256"),
        ("tokens.toml", "a = 3", r"tokens.toml, \[a\]"),
        ("tokens.toml", table("a", "a", 'rpcs = ["Predictt"]'), "no RPC 'Predictt'; nearest: Predict"),
        ("tokens.toml", table("a", "a", "right = 3"), "right"),
        ("tokens.toml", table("a", ""), r"\[a\] sha256: is that of no token at all"),
        ("tokens.toml", table("a", "x") + table("b", "x"), r"\[b\] sha256: \[a\] has the same"),
        ("tokens.toml", table("a", "a", "weight = 0"), "weight"),
    ],
)
def test_a_file_at_fault(tmp_path: Path, name: str, text: str, wrong: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(StartError, match=wrong):
        read_tokens(path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="is no text in UTF-8"):
        read_tokens(tmp_path / "tokens")


def test_a_file_that_cannot_be_read_for_a_moment_is_read_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError("not yet")

    monkeypatch.setattr(tokens, "RELOAD_SECONDS", 0)
    callers = callers_of(path, table("a", "one"))
    path.write_text(table("a", "two"))
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "read_tokens", fail)
        assert known(callers, "one").name == "a"
    assert callers.of(bearer("one"), "") is None, "the token was taken away"
    assert known(callers, "two").name == "a"


def test_a_weight_without_its_token_is_no_better_in_a_new_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "RELOAD_SECONDS", 0)
    callers = callers_of(path, table("a", "one"), {"a": 2.0})
    path.write_text(table("b", "two"))
    assert known(callers, "one") == Caller("a", 2.0), "a restart would refuse that file, and so does reading it again"


def test_where_none_of_the_callers_models_is_there_it_is_told(path: Path) -> None:
    callers = callers_of(path, table("a", "a", 'models = ["gone"]'))
    caller, models = known(callers, "a"), ServedModels([SimpleNamespace(name="m")])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="a may not use m; it may use: gone"):
        callers.models(caller, models, "")
    for name in ("gone", "unknown"):
        with pytest.raises(RequestError, match=f"there is no model '{name}'") as caught:
            model_of(name, callers.models(caller, models, name))
        assert caught.value.code.name == "NOT_FOUND"
