"""Options that many commands have, and groups of options: dataclasses that `grouped` writes out for a command."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gradserve.aio import AsyncClient
from gradserve.client import Client
from gradserve.errors import DeadlineExceeded, GradserveError, Unavailable
from gradserve.messages import fields
from gradserve.transport import environment, reach
from gradserve.transport.address import DEFAULT_ADDRESS
from gradserve.transport.channel import Endpoint
from gradserve.v1 import common_pb2

DEFAULT_TIMEOUT = 60.0  # Seconds that a call may take.
_CONNECTION, _REQUEST = "Connection", "Request"


def one_of(*flags: str, names: Iterable[str], text: str, **others: Any) -> Any:
    """An option that takes one of these names, which its help, its completion and its errors list.

    In the text of the help the list takes the place of {}.
    """
    allowed = list(names)
    listed = " or ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1])))

    def checked(value: Any) -> Any:
        for each in value if isinstance(value, list) else [value]:
            if each and each not in allowed:
                close = get_close_matches(each, allowed, n=3, cutoff=0.5)
                hint = f"; nearest: {', '.join(close)}" if close else ""
                raise typer.BadParameter(f"must be one of {', '.join(allowed)}; not {each!r}{hint}")
        return value

    def completed(incomplete: str) -> list[str]:
        return [name for name in allowed if name.startswith(incomplete)]

    return typer.Option(
        *flags,
        callback=checked,
        autocompletion=completed,
        metavar="NAME",
        help=text.replace("{}", listed),
        **others,
    )


PREPROCESS_NAMES = list(fields.choices(common_pb2.Preprocess.DESCRIPTOR))
PREPROCESS_TEXT = "model_default (resize and crop as the model's card says), whole_image (no crop) or as_is (no resize)"

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDRESS",
        help="The server: HOST:PORT, unix:PATH, grpc://HOST:PORT or with TLS grpcs://HOST:PORT. "
        f"Default: {environment.SERVER}, or {DEFAULT_ADDRESS}.",
        rich_help_panel=_CONNECTION,
    ),
]
Tls = Annotated[
    bool | None,
    typer.Option(
        "--tls", help=f"Use the system's certificates. Default: {environment.TLS}.", rich_help_panel=_CONNECTION
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", help=f"Trust this CA certificate (PEM). Default: {environment.CA}.", rich_help_panel=_CONNECTION
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        help="Certificate (PEM) to show to a server that asks for one, with --key.",
        rich_help_panel=_CONNECTION,
    ),
]
Key = Annotated[
    Path | None, typer.Option("--key", help="Private key (PEM) of --certificate.", rich_help_panel=_CONNECTION)
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", help=f"Token that the server wants. Default: {environment.TOKEN}.", rich_help_panel=_CONNECTION
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a call may take.", rich_help_panel=_CONNECTION)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel="Output")]

Photos = Annotated[list[Path], typer.Argument(help="Picture files.", exists=True, dir_okay=False)]
Photo = Annotated[Path, typer.Argument(help="Picture file.", exists=True, dir_okay=False)]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Take only so many pictures, drawn by the seed.")]
Size = Annotated[int | None, typer.Option("--size", min=1, help="Longer side in pixels.")]
PictureOrNumbers = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File for the picture, or for the numbers (.npz).", rich_help_panel="Output"),
]
Channels = Annotated[list[int], typer.Option("--channel", min=0, help="A channel. May be repeated.")]
Snapshots = Annotated[list[int], typer.Option("--snapshot", min=0, help="Also save the picture after this step.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name of the model; the server's default if left out.")]
Preprocess = Annotated[
    str,
    one_of("--preprocess", names=PREPROCESS_NAMES, text=f"{PREPROCESS_TEXT}.", rich_help_panel=_REQUEST),
]
PRIORITIES = list(fields.choices(common_pb2.Priority.DESCRIPTOR))
Priority = Annotated[str, one_of("--priority", names=PRIORITIES, text="{}.", rich_help_panel=_REQUEST)]
Precision = Annotated[
    str,
    one_of("--precision", names=fields.choices(common_pb2.Precision.DESCRIPTOR), text="{}.", rich_help_panel=_REQUEST),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random. Default: 0.", rich_help_panel=_REQUEST)
]
TimeBudget = Annotated[
    float | None,
    typer.Option("--time-budget", help="The most seconds that an answer may take.", rich_help_panel=_REQUEST),
]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="When time runs out, take what there is.", rich_help_panel=_REQUEST),
]
QuickDecode = Annotated[
    bool,
    typer.Option(
        "--quick-decode",
        help="Decode large JPEG photos at a fraction of their size: faster, and maps change.",
        rich_help_panel=_REQUEST,
    ),
]
Alone = Annotated[
    bool,
    typer.Option("--alone", help="Share no pass with others: repeatable to the bit.", rich_help_panel=_REQUEST),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Photos that are under way at once.", rich_help_panel=_REQUEST)
]


@dataclass(frozen=True)
class Connection:
    """Where the server is, and how to reach it."""

    server: Server = None
    tls: Tls = None
    ca: Ca = None
    token: Token = None
    certificate: Certificate = None
    key: Key = None

    @property
    def address(self) -> str:
        """The server's address, which may come from the environment."""
        return environment.server(self.server)

    def client(self, timeout: float = DEFAULT_TIMEOUT) -> Client:
        """A client of that server."""
        return Client(timeout=timeout, **self._settings())

    def endpoint(self, connections: int = 1) -> Endpoint:
        """That server without retries, so that every failed call is seen."""
        return Endpoint(retries=0, connections=connections, **self._settings())

    def explained(self, error: Exception) -> None:
        """Adds to an error, where no answer came from the server, what can be told of the reason."""
        down = error if isinstance(error, (Unavailable, DeadlineExceeded)) else error.__cause__
        if isinstance(down, (Unavailable, DeadlineExceeded)) and not (down.reason or down.request_id):
            text = reach.cause(self.endpoint(), late=isinstance(down, DeadlineExceeded))
            if text and down is error:
                down.details = f"{text}\n  ({down.details})"
            elif text:
                error.add_note(text)

    def async_client(self, timeout: float) -> AsyncClient:
        """A client of that server for asyncio."""
        return AsyncClient(timeout=timeout, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """The arguments of a client. Variables of the environment stand for options that were left out."""
        return {
            "target": self.address,
            "tls": self.ca or environment.ca() or environment.tls(self.tls),
            "token": environment.token(self.token),
            "certificate": self.certificate,
            "key": self.key,
        }


@dataclass(frozen=True)
class PhotoRequest:
    """What a request about a photo carries."""

    preprocess: Preprocess = "model_default"
    priority: Priority = "interactive"
    time_budget: TimeBudget = None
    quick_decode: QuickDecode = False
    alone: Alone = False


@dataclass(frozen=True)
class PhotosRequest(PhotoRequest):
    """What requests about many photos carry, and how many are under way at once."""

    precision: Precision = "auto"
    concurrency: Concurrency = 8


@dataclass(frozen=True)
class GradientsRequest(PhotosRequest):
    """What requests carry for methods that may be random, or take many passes."""

    seed: Seed = None
    allow_partial: AllowPartial = False


@dataclass(frozen=True)
class PictureRequest:
    """What a request carries that makes a picture."""

    priority: Priority = "interactive"
    precision: Precision = "auto"
    seed: Seed = None
    time_budget: TimeBudget = None
    allow_partial: AllowPartial = False
    alone: Alone = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: a parameter that is a dataclass gives way to one for each of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}

    @wraps(command)
    def ungrouped(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        try:
            command(**values)
        except (GradserveError, ValueError) as error:
            for each in values.values():
                if isinstance(each, Connection):
                    each.explained(error)
            raise

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        parameters += _parameters(groups[name]) if name in groups else [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    ungrouped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    ungrouped.__annotations__ = {each.name: each.annotation for each in parameters}
    return ungrouped


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """The fields of a dataclass as parameters of a function; one without a default must be given."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        default: Any = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )
