"""The front-end has no torch, and reads of the methods what they say where torch is there."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from serving import Server, Stubs, methods, picture

from gradserve.v1 import attack_pb2, certify_pb2, influence_pb2, maximize_pb2, models_pb2, predict_pb2, stylize_pb2
from gradserve.v1 import explain_pb2 as explain
from gradserve_server.methods.attack import METHODS as ATTACKS
from gradserve_server.methods.attack.defences import DEFENCES
from gradserve_server.methods.attack.input_transform import eot
from gradserve_server.methods.explain import METHODS
from gradserve_server.methods.parameters import model_of

IMAGE = picture(0, 8, 8)
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"explain.{name}": method.function for name, method in METHODS.items()},
    **{f"attack.{name}": method.function for name, method in ATTACKS.items()},
    **{f"defence.{name}": function for name, function in DEFENCES.items()},
    "eot": eot,
}


def maps_torch(process: psutil.Process) -> bool:
    return any("libtorch" in each.path for each in process.memory_maps())


def test_a_front_end_that_has_answered_every_rpc(server: Server, stubs: Stubs) -> None:
    digits, gradients = {"model": "digits", "image": IMAGE}, stubs.gradients
    goal = maximize_pb2.Goal(summands=[{"target": {"class_index": 0}}])
    steps = maximize_pb2.MaximizeSettings(steps=1)
    maximize = maximize_pb2.MaximizeRequest(model="digits", goals=[goal], settings=steps)
    stylize = stylize_pb2.StylizeRequest(model="small", content=IMAGE, styles=[{"image": IMAGE}], settings={"steps": 1})
    attack = attack_pb2.AttackRequest(**digits, method={"pgd": {}}, maps={"gradient": {}})
    stubs.models.ListModels(models_pb2.ListModelsRequest())
    stubs.models.GetModel(models_pb2.GetModelRequest(name="small"))
    gradients.Predict(predict_pb2.PredictRequest(**digits))
    asked = explain.ExplainRequest(**digits, methods=methods(occlusion={}, smooth_grad={"samples": 2}, lime={}))
    gradients.Explain(asked)
    assert list(gradients.StreamExplain(asked))
    gradients.Attack(attack)
    gradients.Certify(certify_pb2.CertifyRequest(**digits, samples=2))
    gradients.Maximize(maximize)
    gradients.Stylize(stylize)
    assert list(gradients.StreamMaximize(maximize))
    assert list(gradients.StreamStylize(stylize))
    gradients.Influence(influence_pb2.InfluenceRequest(**digits))
    gradients.Suspects(influence_pb2.SuspectsRequest(model="digits"))
    gradients.Embed(influence_pb2.EmbedRequest(**digits))
    assert not maps_torch(server.process)
    assert all(maps_torch(worker) for worker in server.workers), "this test sees where torch is"


IN_A_FRONT_END = """
import json, sys
from gradserve_server.without_torch import without_torch

with without_torch():
    from test_without_torch import FUNCTIONS, schemas
    import gradserve_server.api.service
    import torch.nn.functional as F
    from torch import Tensor, nn
    import torch


class Network(nn.Module):
    pass


stand_in = torch
assert not any(name.partition(".")[0] in ("torch", "torchvision") for name in sys.modules)
said = []
for call in (Network, lambda: torch.zeros(2), lambda: F.relu(0), lambda: Tensor.view(0)):
    try:
        said.append(str(call()))
    except RuntimeError as error:
        said.append(str(error))
import torch
import safetensors.torch
assert torch is not stand_in and torch.zeros(2).sum() == 0 and safetensors.torch.torch is torch
print(json.dumps([schemas(), said]))
"""


def schemas() -> dict[str, Any]:
    """Names, types, ranges and defaults of the parameters of all functions that take them from a request."""
    return {name: model_of(function).model_json_schema() for name, function in FUNCTIONS.items()}


def test_parameters_are_read_alike_and_nothing_is_computed() -> None:
    command = [sys.executable, "-c", IN_A_FRONT_END]
    paths = {"PYTHONPATH": ":".join([str(__file__).rpartition("/")[0], *filter(None, sys.path)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=paths)
    assert done.returncode == 0, done.stderr
    read, said = json.loads(done.stdout)
    assert read == schemas()
    assert len(read) > 20
    assert all("is called in the front-end, which has no torch" in text for text in said), said
