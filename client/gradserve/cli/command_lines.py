"""Commands to be typed by people, which the command line prints: they name the server and hold no secret."""

import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

from gradserve.cli.options import Connection
from gradserve.transport import environment
from gradserve.transport.address import DEFAULT_ADDRESS

ARGUMENTS: ContextVar[Sequence[str]] = ContextVar("ARGUMENTS", default=())  # What `gradserve` was called with.
_TOKEN = f'"${environment.TOKEN}"'
_MAX_PICTURES = 8  # Pictures that a command names.


def judge(pictures: Sequence[Path], model: str, connection: Connection) -> str:
    """The command that predicts pictures as a certificate does: as they are and in fp32; of many, the first."""
    words = ["gradserve", "predict", *map(str, pictures if len(pictures) <= _MAX_PICTURES else pictures[:1])]
    words += ["--model", model, "--preprocess", "as_is", "--precision", "exact"]
    words += ["--server", connection.server] if connection.server else []
    words += ["--ca", str(connection.ca)] if connection.ca else ["--tls"] if connection.tls else []
    pair = (("--certificate", connection.certificate), ("--key", connection.key))
    words += [word for flag, path in pair if path for word in (flag, str(path))]
    secret = connection.token is not None and connection.token != environment.token(None)
    return shlex.join(words) + (f" --token {_TOKEN}" if secret else "")


def repeat(model: str, server: str) -> str:
    """The command that is running, with the model and the server that it found elsewhere; "" where none is known."""
    words = list(ARGUMENTS.get())
    if not words:
        return ""
    words += ["--model", model] if not _has(words, "--model", "-m") else []
    words += ["--server", server] if server != DEFAULT_ADDRESS and not _has(words, "--server") else []
    hidden = [
        _TOKEN if before == "--token" else f"--token={_TOKEN}" if word.startswith("--token=") else shlex.quote(word)
        for before, word in zip(["", *words], words, strict=False)
    ]
    return " ".join(["gradserve", *hidden])


def _has(words: Sequence[str], *flags: str) -> bool:
    return any(word.partition("=")[0] in flags for word in words)
