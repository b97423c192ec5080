"""What the process of a front-end runs, `python -m gradserve_server.keeper.front_end`; its keeper starts it."""

import asyncio
import signal
import sys

from ..config import FrontEndSettings
from ..logs import configure
from ..without_torch import without_torch


def main() -> int:
    """Reads its arguments, FrontEndSettings in a line of JSON, from the standard input; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # The keeper says when it ends.
        signal.signal(number, signal.SIG_IGN)
    with without_torch():
        from ..api.service import run
        from ..metrics import count_in_place

    settings = FrontEndSettings.model_validate_json(sys.stdin.buffer.readline())
    configure(settings.log)
    count_in_place(settings.place)
    return asyncio.run(run(settings))


if __name__ == "__main__":
    sys.exit(main())
