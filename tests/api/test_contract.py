"""What the contract offers is what the server, the clients and the tests have; a place that was forgotten is named."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from client.fake import FakeServer

from gradserve import AsyncClient, Client
from gradserve.v1 import attack_pb2, explain_pb2, influence_pb2, service_pb2
from gradserve_server.methods.attack import METHODS as ATTACKS
from gradserve_server.methods.explain import METHODS as EXPLANATIONS
from gradserve_server.methods.influence import METHODS as INFLUENCES

from .test_unknown_model import CASES

RPCS = [rpc.name for rpc in service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods]
METHODS = {**EXPLANATIONS, **ATTACKS}


def offered(contract: Any) -> dict[str, Any]:
    """The messages of a contract's methods by name."""
    return {field.name: field.message_type for field in contract.DESCRIPTOR.oneofs_by_name["method"].fields}


MESSAGES = offered(explain_pb2.ExplainMethod) | offered(attack_pb2.AttackMethod)


@pytest.mark.parametrize(
    ("contract", "methods"),
    [
        (explain_pb2.ExplainMethod, EXPLANATIONS),
        (attack_pb2.AttackMethod, ATTACKS),
        (influence_pb2.InfluenceMethod, INFLUENCES),
    ],
)
def test_the_contract_offers_the_servers_methods(contract: Any, methods: Mapping[str, Any]) -> None:
    name = contract.DESCRIPTOR.name
    assert not offered(contract).keys() - methods.keys(), f"{name} offers what METHODS of the server has no row for"
    assert not methods.keys() - offered(contract).keys(), f"METHODS of the server has a row that {name} does not offer"


@pytest.mark.parametrize("method", METHODS)
def test_a_message_has_the_parameters_of_its_method(method: str) -> None:
    function: Callable[..., Any] = METHODS[method].function
    parameters = inspect.signature(function).parameters.values()
    assert {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} == set(MESSAGES[method].fields_by_name)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("rpc", RPCS)
def test_the_clients_have_every_rpc(client: type, rpc: str) -> None:
    word = rpc.removeprefix("Stream").lower()
    assert hasattr(client, f"{word}_stream" if rpc.startswith("Stream") else word)


@pytest.mark.parametrize("rpc", RPCS)
def test_the_clients_tests_answer_every_rpc(rpc: str) -> None:
    assert rpc in vars(FakeServer)


def test_what_is_wrong_with_a_request_is_tested_for_every_rpc() -> None:
    assert set(CASES) == {rpc for rpc in RPCS if not rpc.startswith("Stream")}
