"""Triton's own client against a server: the example of the documentation, and an error.

It needs an environment of its own, whose protobuf is below 7: `python -m venv ENV; ENV/bin/pip install
'tritonclient[grpc]'`, and then GRADSERVE_TRITON_PYTHON=ENV/bin/python.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import MODELS, Server

import gradserve
from gradserve.cli.demo.samples import photos

PYTHON = os.environ.get("GRADSERVE_TRITON_PYTHON")
PAGE = Path(__file__).resolve().parents[2] / "docs/inference-protocol.md"
SAVED = """
np.savez("out.npz", **{name: result.as_numpy(name) for name in ("logits", "map")})
half = triton.InferInput("image", [1, 3, 8, 8], "FP32")
half.set_data_from_numpy(np.zeros((1, 3, 8, 8), np.float32))
assert client.is_server_live() and client.is_model_ready("digits") and not client.is_model_ready("digit")
assert client.get_model_metadata("digits").inputs[0].name == "image"
top = client.infer("digits", [half], outputs=[triton.InferRequestedOutput("logits", class_count=3)])
assert top.as_numpy("logits").shape == (1, 3)
half.set_shape([1, 3, 8, 9])
try:
    client.infer("digits", [half])
except triton.InferenceServerException as error:
    print(error)
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="needs GRADSERVE_TRITON_PYTHON, an interpreter with tritonclient")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    config = f"[server]\ninference_protocol = true\n[models.imagenet]\n{MODELS}"
    with Server(config, "--workers", "1") as server:
        yield server


def test_tritons_client_gets_predictions_maps_and_errors(server: Server, tmp_path: Path) -> None:
    assert PYTHON
    for photo, name in zip(photos("cat", "coffee"), ("cat.jpg", "dog.jpg"), strict=True):
        photo.open().save(tmp_path / name)
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    code = example.replace("127.0.0.1:50051", server.address) + SAVED
    done = subprocess.run([PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "raw_input_contents[0]: image is FP32 [1, 3, 8, 9], which takes 864 bytes; there were 768" in done.stdout
    with np.load(tmp_path / "out.npz") as found, gradserve.Client(server.address) as client:
        for i, name in enumerate(("cat.jpg", "dog.jpg")):
            expected = client.explain(tmp_path / name, "grad_cam", target="tabby", model="imagenet").map
            np.testing.assert_allclose(found["map"][i], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
            top = client.predict(tmp_path / name, model="imagenet").top[0]
            assert found["logits"][i].argmax() == top.class_index
            assert found["logits"][i].max() == pytest.approx(top.logit, rel=1e-4)
