"""What the process of a front-end runs, `python -m gradserve_server.keeper.front_end`; its keeper starts it."""

import signal
import sys

import uvloop

from .. import memory
from ..config import FrontEndSettings
from ..logs import configure
from ..without_torch import without_torch

# How long a thread waits for the interpreter before it asks for it; the default is five times as long. Parsing and
# decoding run in threads, and the event loop's answers wait for each turn that these have.
SWITCH_SECONDS = 0.001


def main() -> int:
    """Reads its arguments, FrontEndSettings in a line of JSON, from the standard input; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # The keeper says when it ends.
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    with without_torch():
        from ..api.service import run
        from ..metrics import count_in_place

    settings = FrontEndSettings.model_validate_json(sys.stdin.buffer.readline())
    configure(settings.log)
    count_in_place(settings.place)
    memory.freeze()
    return uvloop.run(run(settings))  # Its loop takes an eighth less processor time than asyncio's.


if __name__ == "__main__":
    sys.exit(main())
