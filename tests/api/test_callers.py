"""Who calls: tokens with names and weights, or addresses."""

from pathlib import Path

import pytest

from gradserve_server.api.admission.callers import Caller, Callers, address, read_tokens
from gradserve_server.config import StartError


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tokens_have_names_and_names_have_weights() -> None:
    callers = Callers({"sesame": "nightly", "open": "token:1"}, {"nightly": 0.5})
    assert callers.of(bearer("sesame"), "") == Caller("nightly", 0.5)
    assert callers.of(bearer("open"), "") == Caller("token:1", 1.0)


@pytest.mark.parametrize("metadata", [{}, bearer("other"), {"authorization": "sesame"}, bearer("")])
def test_without_a_known_token_nobody_is_let_in(metadata: dict[str, str]) -> None:
    assert Callers({"sesame": "nightly"}, {}).of(metadata, "ipv4:10.0.0.7:1") is None


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


def test_a_weight_needs_a_token_of_that_name() -> None:
    with pytest.raises(StartError, match="no token has that name"):
        Callers({"sesame": "nightly"}, {"daily": 2.0})
    assert Callers(None, {"ipv4:10.0.0.7": 2.0}).of({}, "ipv4:10.0.0.7:1") == Caller("ipv4:10.0.0.7", 2.0)


def test_an_address_has_no_port() -> None:
    assert address("ipv4:10.0.0.7:41234") == "ipv4:10.0.0.7"
    assert address("unix:/run/gradserve.sock") == "unix:/run/gradserve.sock"


def test_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    assert read_tokens(None) is None
    path.write_text("sesame nightly\n\nopen\n")
    tokens = read_tokens(path)
    assert tokens is not None
    assert tokens["sesame"] == "nightly"
    assert tokens["open"].startswith("token:")
    for text, wrong in ((" \n", "is empty"), ("a b\nc d e\n", "token 2 has more")):
        path.write_text(text)
        with pytest.raises(StartError, match=wrong):
            read_tokens(path)
