"""The file of tokens: who may call, what each may use, and how much. It is read again when it changes."""

import hashlib
import logging
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from gradserve.v1 import management_pb2, service_pb2

from ...config import Section, StartError
from ...models.tables import mistakes, nearest

log = logging.getLogger(__name__)

SHOWN_DIGITS = 12  # The hexadecimal digits that stand for a token without a name.
RELOAD_SECONDS = 1.0  # Between two looks at whether the file has changed.
RPCS = tuple(
    rpc.name
    for rpc in service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods
    if not rpc.name.startswith("Stream")
)
MANAGEMENT_RPCS = tuple(
    rpc.name for rpc in management_pb2.DESCRIPTOR.services_by_name["ModelManagementService"].methods
)


class Rights(Section):
    """`[NAME]` in a TOML file of tokens: a token's hash, and what its caller may use."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the token: printf %s TOKEN | sha256sum")
    rpcs: tuple[str, ...] | None = Field(
        None, description="that it may call, StreamX with X; default: all but changes of models"
    )
    models: tuple[str, ...] | None = Field(None, description="that it may use; default: all")
    weight: float | None = Field(None, gt=0, description="its share of the device beside others; default: 1")
    gflop_per_second: float | None = Field(None, gt=0, description="that it may use on average; default: no limit")
    reflection: bool = Field(False, description="whether it may ask for the services' descriptions")


@dataclass(frozen=True)
class Token:
    """A token, by its hash, with its caller's name and rights."""

    name: str
    rights: Rights


def read_tokens(path: Path) -> dict[bytes, Token]:
    """The tokens of a file, by hash.

    In a TOML file each has a table of `Rights`. Any other file has a token in each line, with all rights but to
    change models, and after it a name if weights are given for it. Raises OSError, StartError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is no text in UTF-8: {error}") from error
    tokens = _of_tables(text, path) if path.suffix == ".toml" else _of_lines(text, path)
    if not tokens:
        raise StartError(f"{path} is empty: it must hold the tokens that callers send")
    return tokens


def _of_tables(text: str, path: Path) -> dict[bytes, Token]:
    tokens: dict[bytes, Token] = {}
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{path}: {error}") from error
    for name, table in tables.items():
        try:
            rights = Rights.model_validate(table)
        except ValidationError as error:
            raise StartError(mistakes(error, f"{path.name}, [{name}]", Rights)) from error
        known = (*RPCS, *MANAGEMENT_RPCS)
        unknown = [rpc for rpc in rights.rpcs or () if rpc not in known]
        if unknown:
            hint = nearest(unknown[0], known) or f"; there are: {', '.join(known)}"
            raise StartError(f"{path.name}, [{name}] rpcs: there is no RPC {unknown[0]!r}{hint}")
        digest = bytes.fromhex(rights.sha256)
        if digest == hash_of(b""):
            raise StartError(f"{path.name}, [{name}] sha256: is that of no token at all; was the variable empty?")
        if digest in tokens:
            raise StartError(f"{path.name}, [{name}] sha256: [{tokens[digest].name}] has the same; give each its own")
        tokens[digest] = Token(name, rights)
    return tokens


def _of_lines(text: str, path: Path) -> dict[bytes, Token]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if bad := next((number for number, words in enumerate(lines, 1) if len(words) > 2), None):
        raise StartError(f"{path}: token {bad} has more than a token and a name; a line is TOKEN or TOKEN NAME")
    tokens = {}
    for token, *name in lines:
        digest = hash_of(token.encode())
        rights = Rights(sha256=digest.hex(), reflection=True)
        tokens[digest] = Token(name[0] if name else short_name(token.encode()), rights)
    return tokens


def hash_of(token: bytes) -> bytes:
    """SHA-256, which is safe for tokens that are long and random."""
    return hashlib.sha256(token).digest()


def short_name(token: bytes) -> str:
    """What stands for a token without a name."""
    return "token:" + hash_of(token).hex()[:SHOWN_DIGITS]


class TokenFile:
    """The tokens of a file as it is now. Where a changed file has a fault, that is logged, and the old tokens stay."""

    def __init__(self, path: Path, weights: Mapping[str, float]) -> None:
        """`weights`: by name, for tokens that have none of their own. Raises OSError, StartError."""
        self._path, self._weights = path, weights
        self._looked, self._fault = time.monotonic(), ""
        self._state = _state(path)
        self._tokens = self._read()

    def find(self, token: bytes) -> Token | None:
        """The entry of a token that was sent."""
        self._look()
        if not token:
            return None
        return self._tokens.get(hash_of(token))  # The time that the search takes tells of hashes alone, not of tokens.

    def weight(self, token: Token) -> float:
        """Its caller's share of the device beside others."""
        return token.rights.weight or self._weights.get(token.name, 1.0)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < RELOAD_SECONDS:
            return
        self._looked = now
        try:
            state = _state(self._path)
            if state == self._state:
                return
            self._tokens = self._read()
        except (OSError, StartError) as error:  # It is tried again, since it may be being written.
            if str(error) != self._fault:
                log.error("the new file of tokens is at fault, and the old one stays: %s", error)
            self._fault = str(error)
        else:
            self._state, self._fault = state, ""
            log.info("%s was read again: %d tokens", self._path, len(self._tokens))

    def _read(self) -> dict[bytes, Token]:
        tokens = read_tokens(self._path)
        names = {token.name for token in tokens.values()}
        if unknown := [name for name in self._weights if name not in names]:
            raise StartError(f"[callers] {unknown[0]}: no token has that name; a line of the file is TOKEN NAME")
        return tokens


def _state(path: Path) -> tuple[int, int, int]:
    """What changes where a file is written, is replaced, or becomes readable: its inode, change time and size."""
    stat = path.stat()
    return stat.st_ino, stat.st_ctime_ns, stat.st_size
