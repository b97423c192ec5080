"""Who calls: by the token that was sent, or else by the address that the call came from."""

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...config import StartError

BEARER = "bearer "  # In any case (RFC 9110, section 11.1).
SHOWN_DIGITS = 12  # The hexadecimal digits that stand for a token without a name.


class Caller(NamedTuple):
    """A caller's name, and its share of the service beside others."""

    name: str
    weight: float = 1.0


NOBODY = Caller("")


class Callers:
    """Tells callers apart, and refuses those without a token where tokens are asked for."""

    def __init__(self, tokens: Mapping[str, str] | None, weights: Mapping[str, float]) -> None:
        """`tokens`: names by token; None lets everybody in. `weights`: by name; others have 1. Raises StartError."""
        unknown = [] if tokens is None else [name for name in weights if name not in tokens.values()]
        if unknown:
            raise StartError(f"[callers] {unknown[0]}: no token has that name; a line of the file is TOKEN NAME")
        self._tokens = None if tokens is None else {token.encode(): name for token, name in tokens.items()}
        self._weights = weights

    def of(self, metadata: Mapping[str, Any], peer: str) -> Caller | None:
        """The caller, or None where the token is missing or unknown.

        Where no tokens are asked for, one that is sent tells callers behind one address apart.
        """
        sent = str(metadata.get("authorization", ""))
        token = sent[len(BEARER) :].strip().encode() if sent[: len(BEARER)].lower() == BEARER else b""
        if self._tokens is None:
            name = _short(token) if token else address(peer)
        else:
            names = [name for known, name in self._tokens.items() if secrets.compare_digest(known, token)]
            if not names:
                return None
            name = names[0]
        return Caller(name, self._weights.get(name, 1.0))


def address(peer: str) -> str:
    """A peer as gRPC names it, without its port: "ipv4:10.0.0.7:41234" becomes "ipv4:10.0.0.7"."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer


def read_tokens(path: Path | None) -> dict[str, str] | None:
    """Names by token, of a file that has a token in each line, and after it a name if weights are given for it.

    Raises OSError, StartError.
    """
    if path is None:
        return None
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise StartError(f"{path} is empty: it must hold the tokens that callers send, each in a line of its own")
    if bad := next((number for number, words in enumerate(lines, 1) if len(words) > 2), None):
        raise StartError(f"{path}: token {bad} has more than a token and a name; a line is TOKEN or TOKEN NAME")
    return {words[0]: words[1] if len(words) > 1 else _short(words[0].encode()) for words in lines}


def _short(token: bytes) -> str:
    return "token:" + hashlib.sha256(token).hexdigest()[:SHOWN_DIGITS]
