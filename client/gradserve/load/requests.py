"""From the entries of a mix to the bytes of requests, which are built once and sent many times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import message_factory
from google.protobuf.message import Message

from gradserve.arguments import MaximizeArguments, StylizeArguments
from gradserve.load.mix import MixEntry
from gradserve.messages import fields
from gradserve.messages.attack import attack_request
from gradserve.messages.certify import CertifyArguments, certify_request
from gradserve.messages.differentiate import DifferentiateArguments, differentiate_request
from gradserve.messages.explain import explain_request
from gradserve.messages.influence import EmbedArguments, InfluenceArguments, embed_request, influence_request
from gradserve.messages.pictures import maximize_request, stylize_request
from gradserve.messages.predict import PredictArguments, predict_request
from gradserve.parameters.method import Method
from gradserve.transport import channel
from gradserve.v1 import service_pb2

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GradientService"]


class BuiltRequest(NamedTuple):
    """A request as it is sent: the place of its entry in the mix, the RPC's path, and the message's bytes."""

    entry: int
    path: str
    body: bytes


def built(mix: Sequence[MixEntry], pictures: Sequence[bytes]) -> list[list[BuiltRequest]]:
    """For each entry its requests, one for each picture; ValueError names the entry and what is wrong with it."""
    return [[_built(place, entry, picture) for picture in pictures] for place, entry in enumerate(mix)]


def path(rpc: str) -> str:
    """The path of the RPC, as gRPC calls it."""
    return f"/{_SERVICE.full_name}/{rpc.capitalize()}"


def rows_of(rpc: str) -> Callable[[bytes], int]:
    """A function from a reply's bytes to the rows that were computed for it."""
    reply: Any = message_factory.GetMessageClass(_SERVICE.methods_by_name[rpc.capitalize()].output_type)

    def rows(body: bytes) -> int:
        return int(reply.FromString(body).provenance.rows)

    return rows


def message(entry: MixEntry, picture: bytes) -> Message:
    """The request of an entry about a picture."""
    arguments = {**entry.parameters, "model": entry.model, "priority": entry.priority}
    if entry.method and entry.rpc not in ("explain", "attack", "influence"):
        raise ValueError(f"{entry.rpc} has no methods, and so no {entry.method!r}")
    return _BUILDERS[entry.rpc](picture, entry.method, arguments)


def _built(place: int, entry: MixEntry, picture: bytes) -> BuiltRequest:
    try:
        request = message(entry, picture)
    except (TypeError, ValueError) as error:
        raise ValueError(f"requests[{place}] ({entry.name}): {error}") from None
    channel.check_size(request)
    return BuiltRequest(place, path(entry.rpc), request.SerializeToString())


def _checked(rpc: str, arguments: Mapping[str, Any], allowed: Iterable[str]) -> Mapping[str, Any]:
    for name in arguments:
        if name not in allowed:
            raise fields.unknown(f"parameter of {rpc}", name, allowed)
    return arguments


def _predict(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    return predict_request(picture, **_checked("predict", arguments, PredictArguments.__annotations__))


def _explain(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    return explain_request(picture, Method.named(method or "gradient"), **arguments)


def _attack(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    return attack_request(picture, Method.named(method or "pgd"), **arguments)


def _certify(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    return certify_request(picture, **_checked("certify", arguments, CertifyArguments.__annotations__))


def _influence(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    given = _checked("influence", arguments, InfluenceArguments.__annotations__)
    return influence_request(picture, Method.named(method) if method else None, **given)


def _embed(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    return embed_request(picture, **_checked("embed", arguments, EmbedArguments.__annotations__))


def _differentiate(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    """A batch of one picture, of which the model sees its usual crop; `rows` sends it several times."""
    given = _checked("differentiate", arguments, {**DifferentiateArguments.__annotations__, "goals": None, "rows": 1})
    others = {name: value for name, value in given.items() if name not in ("goals", "rows")}
    pictures = [picture] * int(given.get("rows", 1))
    return differentiate_request(pictures, given.get("goals"), **{"preprocess": "model_default", **others})


def _maximize(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    """The goal is class 0 if none is given; the picture is the start of the preset "dream" alone."""
    given = _checked("maximize", arguments, {**MaximizeArguments.__annotations__, "goals": None})
    start = {"image": picture} if given.get("preset") == "dream" else {}
    others = {name: value for name, value in given.items() if name != "goals"}
    return maximize_request(given.get("goals", 0), **{**start, **others})


def _stylize(picture: bytes, method: str, arguments: Mapping[str, Any]) -> Message:
    """The picture is the content; the style is a picture's path, or the picture itself."""
    given = _checked("stylize", arguments, {**StylizeArguments.__annotations__, "style": None})
    others = {name: value for name, value in given.items() if name != "style"}
    return stylize_request(picture, given.get("style", picture), **others)


_BUILDERS: dict[str, Callable[[bytes, str, Mapping[str, Any]], Message]] = {
    "predict": _predict,
    "explain": _explain,
    "attack": _attack,
    "certify": _certify,
    "maximize": _maximize,
    "stylize": _stylize,
    "influence": _influence,
    "embed": _embed,
    "differentiate": _differentiate,
}
