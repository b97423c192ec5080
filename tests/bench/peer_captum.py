"""A peer: plain gRPC and Captum as their documentation shows them, one request at a time under a lock.

`python -m tests.bench.peer_captum MODEL` prints its port.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import captum.attr
import grpc
import numpy as np
import torch
import torchattacks
from torch import Tensor

from .peer import (
    ALPHA,
    CLASS,
    EPS,
    METHODS,
    NOISE,
    SAMPLES,
    SCALED,
    STEPS,
    SUBTRACTED,
    decoded,
    encoded,
    network,
)

THREADS = 16


def main(model: str) -> None:
    """Serves until it is ended."""
    lock, methods = threading.Lock(), Methods(model)

    def ask(request: bytes, context: grpc.ServicerContext) -> bytes:
        """One byte for the method, then a JPEG; PNG back."""
        x = decoded(request[1:])
        with lock:
            values = methods(METHODS[request[0]], x)
        return encoded(values)

    server = grpc.server(ThreadPoolExecutor(THREADS))
    handler = grpc.method_handlers_generic_handler("peer", {"Ask": grpc.unary_unary_rpc_method_handler(ask)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


class Normalised(torch.nn.Module):
    """Pixels to logits."""

    def __init__(self, net: torch.nn.Module) -> None:
        """Around a network that wants normalised images."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, H, W] in [0, 1] -> [n, classes]."""
        logits: Tensor = self.net((x - SUBTRACTED) / SCALED)
        return logits


class Methods:
    """What the libraries offer for each method, in float32."""

    def __init__(self, model: str) -> None:
        """Loads."""
        self.net = Normalised(network(model)).eval()
        self.saliency = captum.attr.Saliency(self.net)
        self.tunnel = captum.attr.NoiseTunnel(self.saliency)
        self.pgd = torchattacks.PGD(self.net, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)

    def __call__(self, method: str, x: Tensor) -> np.ndarray:
        """[1, 3, H, W] -> uint8 [H, W], or [H, W, 3] for the attack."""
        target = torch.tensor([CLASS])
        if method == "gradient":
            return levels(self.saliency.attribute(x, target)[0])
        if method == "smooth_grad":
            spread = NOISE * float(x.max() - x.min())
            return levels(self.tunnel.attribute(x, nt_samples=SAMPLES, stdevs=spread, target=target)[0])
        if method == "pgd":
            return (self.pgd(x, target)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        with torch.no_grad():
            return levels(self.net(x))


def levels(values: Tensor) -> np.ndarray:
    """Channels summed, stretched to 0..255."""
    grey = values.detach().abs().sum(0) if values.dim() == 3 else values.detach()
    return ((grey - grey.min()) / (grey.max() - grey.min()) * 255).byte().numpy()


if __name__ == "__main__":
    main(sys.argv[1])
