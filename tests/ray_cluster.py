"""A Ray cluster of several nodes on this machine, in a process of its own, since Ray reads its environment once.

`python tests/ray_cluster.py NODES` prints a line of JSON, and then removes each node whose number it reads.
`python tests/ray_cluster.py serve [FLAGS]` starts two nodes, and a server on them with these flags (`make serve-ray`).
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ports import free_ports

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Nothing listens on other addresses than 127.0.0.1.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # At Ray's 15, beside other tests, it takes a worker a minute to begin.
}


SERVER = """
[pool]
engine = "ray"
workers = 2
device = "cpu"
listen = "127.0.0.1:{port}"
"""


@dataclass
class RayNodes:
    """A cluster whose head has no processors, and whose nodes have one each."""

    process: "subprocess.Popen[str]"
    environment: dict[str, str]  # What its driver needs.
    raylets: list[int]  # For each node, the number of the process that starts its workers.

    @classmethod
    def started(cls, count: int) -> Self:
        """A cluster with so many nodes."""
        environment = ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        command, pipe = [sys.executable, __file__, str(count)], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment)
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.startswith("{"))
        facts = json.loads(next(lines))
        return cls(process, environment | {"RAY_ADDRESS": facts["address"]}, facts["raylets"])

    def remove(self, number: int) -> None:
        """Ends a node at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """A cluster, until the end of the `with`."""
    nodes = RayNodes.started(count)
    try:
        yield nodes
    finally:
        nodes.process.communicate(timeout=60)


def serve(flags: list[str]) -> int:
    """Serves on a cluster of two nodes until Ctrl-C; returns the server's exit code."""
    with ray_nodes(2) as nodes, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ray.toml"
        config.write_text(SERVER.format(port=free_ports(9)[0]))
        command = [sys.executable, "-m", "gradserve_server", "--config", str(config), *flags]
        process = subprocess.Popen(command, env=os.environ | nodes.environment)
        with suppress(KeyboardInterrupt):
            return process.wait()
        return process.wait()


def run_cluster(count: int) -> None:
    """Runs a cluster until the standard input ends."""
    from ray.cluster_utils import Cluster

    node = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **node})
    nodes = [cluster.add_node(num_cpus=1, **node) for _ in range(count)]
    raylets = [each.all_processes["raylet"][0].process.pid for each in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.exit(serve(sys.argv[2:]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It ends with its standard input, after the server.
    run_cluster(int(sys.argv[1]))
