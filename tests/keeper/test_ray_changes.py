"""Models are changed while Ray places the workers: successors need room in the cluster."""

import numpy as np
import pytest
from ports import free_ports
from ray_cluster import ray_nodes
from serving import PATIENCE, Server

from gradserve import Client

pytest.importorskip("ray")

PICTURE = np.zeros((32, 32, 3), np.uint8)
CONFIG = """
[server]
model_management = true
[pool]
engine = "ray"
workers = 1
device = "cpu"
listen = "127.0.0.1:{port}"
[models.small]
builder = "squeezenet1_1"
weights = "random"
seed = {seed}
precisions = ["exact"]
height = 32
width = 32
resize = 32
"""


def test_a_model_is_replaced_where_the_cluster_has_room() -> None:
    port = free_ports(2)[0]
    with ray_nodes(2) as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        with Server(CONFIG.format(port=port, seed=0)) as server, Client(server.address, timeout=PATIENCE) as client:
            before = client.predict(PICTURE).provenance.weights_digest
            (server.folder / "server.toml").write_text(CONFIG.format(port=port, seed=1))
            (card,) = client.reload_model("small").models
            assert card.weights_digest != before
            assert client.predict(PICTURE).provenance.weights_digest == card.weights_digest
            assert server.stop() == 0
