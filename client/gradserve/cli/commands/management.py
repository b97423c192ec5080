"""`gradserve load`, `unload` and `reload`: which models a server serves, changed while it serves."""

from collections.abc import Callable
from typing import Annotated

import typer

from gradserve.cli import options, output
from gradserve.messages.models import CHANGE_TIMEOUT
from gradserve.results.models import ChangedModels, ChangeProgress

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the server's catalogue.")]
STATES = {
    "waiting": "waits for an earlier change",
    "reading": "reads the catalogue",
    "loading": "loads",
    "warming_up": "warms up",
    "ready": "is ready",
}


@options.grouped
def load(
    names: Names,
    *,
    connection: options.Connection,
    timeout: options.Timeout = CHANGE_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Load models of a server's catalogue: tables of its configuration file, which may be new.

    The server must allow it. It goes on serving meanwhile; where a model cannot be loaded, nothing changes.

    Example: `gradserve load resnet50`
    """
    with connection.client(timeout) as client:
        _change(client.load_model, "load", names, timeout, as_json)


@options.grouped
def unload(
    names: Names,
    *,
    connection: options.Connection,
    timeout: options.Timeout = CHANGE_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Take models away from a server, which must allow it.

    Example: `gradserve unload resnet50`
    """
    with connection.client(timeout) as client:
        _change(client.unload_model, "unload", names, timeout, as_json)


@options.grouped
def reload(
    names: Names,
    *,
    connection: options.Connection,
    timeout: options.Timeout = CHANGE_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Replace models by what a server's configuration file, and the files that it names, have now.

    The server must allow it. No request fails meanwhile; where a model cannot be loaded, the one before stays.

    Example: `gradserve reload imagenet`
    """
    with connection.client(timeout) as client:
        _change(client.reload_model, "reload", names, timeout, as_json)


def _change(call: Callable[..., ChangedModels], action: str, names: list[str], timeout: float, as_json: bool) -> None:
    with output.steps(f"{action} {', '.join(names)}") as tell:
        changed = call(*names, on_progress=lambda progress: tell(_words(progress)), timeout=timeout)
    if as_json:
        output.print_json(changed.to_dict())
        return
    for card in changed.models:
        output.out().print(f"{card.name}: weights {card.weights_digest}")
    output.out().print(f"{action}ed in {changed.seconds:.1f} s; served: {', '.join(changed.served)}")


def _words(progress: ChangeProgress) -> str:
    who = f"worker {progress.worker} of {progress.workers}" if progress.worker else "the server"
    return " ".join(filter(None, [who, STATES.get(progress.state, progress.state), progress.model]))
