"""A peer: LitServe with batches of at most 8, grouped by method, in the precision that the caller names.

`python -m tests.bench.peer_litserve MODEL PRECISION PORT`. The careful user's server: the same prepared network as
gradserve's (folded, channels_last, bfloat16), every method vectorised over the requests of a batch.
"""

import base64
import sys
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
import torch
from torch import Tensor

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from .peer import ALPHA, CLASS, EPS, NOISE, SAMPLES, STEPS, decoded, encoded
from .peer_captum import levels

BATCH, TIMEOUT = 8, 0.01

Asked = tuple[str, Tensor]


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The four methods."""

    def __init__(self, model: str, precision: str, **facts: Any) -> None:
        """What to serve."""
        super().__init__(**facts)
        self.model, self.precision = model, precision

    def setup(self, device: str) -> None:
        """Loads, in each worker."""
        torch.set_num_threads(1)
        self.net: Prepared = prepare(ModelSpec(name=self.model, weights="random"), torch.device("cpu")).at(
            self.precision
        )

    def decode_request(self, request: dict[str, str], **_: Any) -> Asked:
        """Base64 to pixels."""
        return request["method"], decoded(base64.b64decode(request["image"]))

    def batch(self, inputs: Sequence[Asked]) -> list[Asked]:
        """As they come."""
        return list(inputs)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        """As they are."""
        return output

    def predict(self, inputs: list[Asked], **_: Any) -> list[np.ndarray]:
        """Method by method, each with all its requests in one batch."""
        methods = {"gradient": self.gradient, "smooth_grad": self.smooth_grad, "pgd": self.pgd, "predict": self.logits}
        found: dict[int, np.ndarray] = {}
        for method in dict.fromkeys(method for method, _ in inputs):
            which = [i for i, (asked, _) in enumerate(inputs) if asked == method]
            x = torch.cat([inputs[i][1] for i in which]).contiguous(memory_format=torch.channels_last)
            found.update(zip(which, methods[method](x), strict=True))
        return [found[i] for i in range(len(inputs))]

    def encode_response(self, output: np.ndarray, **_: Any) -> dict[str, str]:
        """PNG as base64."""
        return {"png": base64.b64encode(encoded(output)).decode()}

    def slope(self, x: Tensor) -> Tensor:
        """Gradients of the class by the pixels."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.net(x)[:, CLASS].sum(), x)[0]

    def gradient(self, x: Tensor) -> list[np.ndarray]:
        """Maps."""
        return [levels(each) for each in self.slope(x)]

    def smooth_grad(self, x: Tensor) -> list[np.ndarray]:
        """One noisy copy of every request at a time."""
        spread = NOISE * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
        total = sum(self.slope(x + spread * torch.randn_like(x)) for _ in range(SAMPLES))
        return [levels(each) for each in total]  # type: ignore[union-attr]

    def pgd(self, x: Tensor) -> list[np.ndarray]:
        """All requests step by step."""
        at = x
        for _ in range(STEPS):
            at = (at - ALPHA * self.slope(at).sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
        return list((at * 255).round().byte().permute(0, 2, 3, 1).numpy())

    def logits(self, x: Tensor) -> list[np.ndarray]:
        """Logits."""
        with torch.no_grad():
            return [levels(each) for each in self.net(x)]


def main(model: str, precision: str, port: int) -> None:
    """Serves until it is ended, a worker for each of two cores."""
    api = Api(model, precision, max_batch_size=BATCH, batch_timeout=TIMEOUT)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, timeout=600)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
