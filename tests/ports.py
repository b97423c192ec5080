"""Ports for servers whose address must be known before they start."""

import random
import socket
from contextlib import ExitStack

LOWEST, HIGHEST = 20_000, 32_000  # Below the ports that systems give to outgoing connections, on Linux from 32768.


def free_ports(count: int = 1) -> range:
    """So many free ports of 127.0.0.1 in a row, which no other process is given by chance before they are used."""
    for _ in range(100):
        first = random.SystemRandom().randrange(LOWEST, HIGHEST)
        ports = range(first, first + count)
        try:
            with ExitStack() as stack:
                for port in ports:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports
    raise OSError(f"no {count} free ports in a row from {LOWEST} to {HIGHEST}")
