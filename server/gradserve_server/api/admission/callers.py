"""Who calls: by the token that was sent, or else by the address that the call came from; and what they may use."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from ...models.served import ServedModels
from ..errors import Full, RequestError, shown
from .tokens import Rights, TokenFile, short_name

BEARER = "bearer "  # Upper and lower case are the same here (RFC 9110, section 11.1).
BURST_SECONDS = 10.0  # A caller that was idle may use at once what its rate allows in so many seconds.
ALL_RIGHTS = Rights(sha256="0" * 64, reflection=True)
TOKEN_FILE_HINT = "or set token_file, so that only tokens whose rpcs name it may call it"


class Caller(NamedTuple):
    """A caller's name, and its share of the service beside others."""

    name: str
    weight: float = 1.0


NOBODY = Caller("")


class Callers:
    """Tells callers apart, and refuses those without a token, or without a right, where tokens are asked for."""

    def __init__(self, tokens: TokenFile | None, weights: Mapping[str, float], front_ends: int = 1) -> None:
        """`tokens`: None lets everybody in. `weights`: by address. `front_ends`: those that share a caller's work."""
        self._tokens, self._weights, self._front_ends = tokens, weights, front_ends
        self._rights: dict[str, Rights] = {}  # By name, of callers that have sent a token.
        self._budgets: dict[str, Budget] = {}

    @property
    def need_tokens(self) -> bool:
        """Whether callers have to send one."""
        return self._tokens is not None

    def of(self, metadata: Mapping[str, Any], peer: str) -> Caller | None:
        """The caller, or None where the token is missing or unknown.

        Where no tokens are asked for, one that is sent tells callers behind one address apart.
        """
        sent = str(metadata.get("authorization", ""))
        token = sent[len(BEARER) :].strip().encode() if sent[: len(BEARER)].lower() == BEARER else b""
        if self._tokens is None:
            name = short_name(token) if token else address(peer)
            return Caller(name, self._weights.get(name, 1.0))
        known = self._tokens.find(token)
        if known is None:
            return None
        self._rights[known.name] = known.rights
        return Caller(known.name, self._tokens.weight(known))

    def key(self, caller: Caller, peer: str) -> str:
        """A name that a caller cannot choose: that of its token where tokens are needed, else its address."""
        return caller.name if self.need_tokens else address(peer)

    def owner(self, caller: Caller) -> str:
        """The owner of what a caller keeps on the server: the name of its token; empty, for all, without tokens."""
        return caller.name if self.need_tokens else ""

    def rights(self, caller: Caller) -> Rights:
        """The rights of a caller that `of` has returned; all rights where no tokens are asked for."""
        return self._rights.get(caller.name, ALL_RIGHTS)

    def may_call(self, caller: Caller, rpc: str) -> bool:
        """Whether the caller may call that RPC of GradientService."""
        allowed = self.rights(caller).rpcs
        return allowed is None or rpc.removeprefix("Stream") in allowed

    def check_rpc(self, caller: Caller, rpc: str) -> None:
        """Raises PERMISSION_DENIED for an RPC that the caller may not call."""
        if not self.may_call(caller, rpc):
            allowed = self.rights(caller).rpcs
            may = f"it may call: {', '.join(allowed)}" if allowed else "it may call none"
            raise denied(f"{caller.name} may not call {rpc}; {may}")

    def check_change(self, caller: Caller, rpc: str, names: Sequence[str], *, without_tokens: bool) -> None:
        """Raises PERMISSION_DENIED where the caller may not change these models by that RPC.

        `without_tokens`: whether everybody may, where no tokens are asked for.
        """
        if not self.need_tokens:
            if not without_tokens:
                raise denied(f"{rpc} is off: to allow it, set model_management = true in [server]; {TOKEN_FILE_HINT}")
            return
        rights = self.rights(caller)
        if rpc not in (rights.rpcs or ()):
            raise denied(f"{caller.name} may not call {rpc}: its table in a TOML file of tokens must name it in rpcs")
        other = [name for name in names if rights.models is not None and name not in rights.models]
        if other:
            models = f"its models are: {', '.join(rights.models or ())}"
            raise denied(f"{caller.name} may not change {shown(other[0])}; {models}")

    def check_rate(self, caller: Caller) -> None:
        """Raises Full where the caller has used more than its rate allows."""
        rate = self.rights(caller).gflop_per_second
        if rate is None:
            return
        budget = self._budgets.setdefault(caller.name, Budget())
        wait = budget.wait(rate / self._front_ends)
        if wait > 0:
            raise Full("rate", f"{caller.name} may use {rate:g} GFLOP a second, and has used more", wait)

    def charge(self, caller: Caller, gflop: float) -> None:
        """Counts work against the caller's rate."""
        if caller.name in self._budgets:
            self._budgets[caller.name].left -= gflop

    def models(self, caller: Caller, models: ServedModels, name: str) -> ServedModels:
        """The models that the caller may use. Raises PERMISSION_DENIED where the request's model is none of them.

        `name`: the model that the request names, empty for the default one.
        """
        allowed = self.rights(caller).models
        if allowed is None:
            return models
        wanted = name or models.default
        if wanted not in allowed and (wanted in models or wanted in models.unavailable):
            may = f"it may use: {', '.join(allowed)}" if allowed else "it may use none"
            raise denied(f"{caller.name} may not use {wanted}; {may}")
        return models.only(allowed)


class Budget:
    """What a caller may use now, in GFLOP; below 0 where it has used more."""

    def __init__(self) -> None:
        self.left = float("inf")  # `wait` bounds it by what the rate allows in BURST_SECONDS.
        self._when = time.monotonic()

    def wait(self, rate: float) -> float:
        """Seconds until something is left, at so many GFLOP a second."""
        now = time.monotonic()
        self.left = min(rate * BURST_SECONDS, self.left + rate * (now - self._when))
        self._when = now
        return max(0.0, -self.left / rate)


def denied(text: str) -> RequestError:
    """PERMISSION_DENIED."""
    return RequestError(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", text)


def address(peer: str) -> str:
    """A peer as gRPC names it, without its port: "ipv4:10.0.0.7:41234" becomes "ipv4:10.0.0.7"."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
