"""Right uses, none of which mypy --strict rejects."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from PIL import Image

import gradserve
from gradserve import Client, Explanation, Explanations, Method, PictureError, Prediction
from gradserve.parameters.explain import ExplainName

METHODS: list[ExplainName] = ["gradient", "grad_cam"]


def connections() -> Iterator[Client]:
    yield Client()
    yield Client("127.0.0.1:50051", tls=True, token="open sesame", retries_when_full=3, compression="gzip")
    yield Client(tls=Path("ca.pem"), certificate="client.pem", key="client.key")
    yield Client(options=[("grpc.primary_user_agent", "mine")], interceptors=[])
    yield Client(channel=grpc.insecure_channel("127.0.0.1:50051"))


def pictures(client: Client) -> None:
    client.predict("cat.jpg")
    client.predict(Path("cat.jpg"))
    client.predict(b"JPEG")
    client.predict(io.BytesIO(b"JPEG"))
    with Path("cat.jpg").open("rb") as file:
        client.predict(file)
    client.predict(Image.new("RGB", (8, 8)))
    client.predict(np.zeros((8, 8, 3), np.uint8))
    client.predict(torch.zeros(3, 8, 8), layout="CHW")
    client.predict_many(np.zeros((2, 8, 8, 3)))
    client.predict_many([Path("cat.jpg"), Path("dog.jpg")])
    client.certify("cat.jpg", sigma=0.5, samples=10_000, seed=3, preprocess="whole_image")
    client.certify_many(np.zeros((2, 8, 8, 3)), alpha=0.01, on_error="return")
    client.differentiate(torch.zeros(2, 3, 8, 8), layout="CHW")
    client.differentiate(["cat.jpg", np.zeros((8, 8, 3))], rule="lrp_z_plus")


def explanations(client: Client, name: str, settings: dict[str, Any]) -> None:
    one: Explanation = client.explain("cat.jpg", "smooth_grad", samples=25, statistic="variance", priority="batch")
    one = client.explain("cat.jpg", ("smooth_grad", {"samples": 25}), target="tabby")
    one = client.explain("cat.jpg", Method("grad_cam", layer="blocks.9"), target=gradserve.Rank(2))
    one = client.explain("cat.jpg", Method.named(name, **settings))
    several: Explanations = client.explain("cat.jpg", ["gradient", ("grad_cam", {"signed": True}), Method("lrp")])
    several = client.explain("cat.jpg", METHODS, precision="exact", seed=3, timeout=10)
    several = client.explain("cat.jpg", [Method("lrp", rule="gamma")], overlay=True, format="png")
    several = client.explain("cat.jpg", "gradient", target=[1, "tabby"])
    labels = [1, 2]
    several = client.explain("cat.jpg", "gradient", target=labels)
    print(one.map, several["gradient"].map)


def others(client: Client) -> None:
    client.attack("cat.jpg", "pgd", steps=40, eps="8/255", norm="l2", loss="margin", defence=("blur", {"sigma": 2.0}))
    client.attack("cat.jpg", eot={"samples": 4}, maps="grad_cam", target=gradserve.Pick.RUNNER_UP)
    client.attack(None, Method("sphere", points=10), eot=True)
    client.attack("cat.jpg", maps=("grad_cam", {"layer": "blocks.9"}))
    client.influence("cat.jpg", ("last_layer", {"newton": False}))
    client.influence("cat.jpg", "last_layer", goal="margin", label="tabby")
    client.suspects(order="self_influence")
    client.embed("cat.jpg", layer="blocks.9", pooling="max")
    client.inspect("weights", "conv1", channels=[1, 2]).save("filters.png")
    client.inspect("activations", "blocks.9", "cat.jpg", order="max").means[0] + 1
    client.inspect("table", images=["cat.jpg"], labels=[281])["conv1"].parameters + 1
    client.exemplars("blocks.9", channels=[1, 2]).channels[0].exemplars[0].value + 1
    client.inspect("receptive_field", "blocks.9").effective_size + 1
    client.maximize([gradserve.Goal("flamingo"), 3], preset="dream", image="cat.jpg", steps=10, optimizer="adam")
    client.stylize("cat.jpg", ["wave.jpg", ("stars.jpg", 0.5)], style_weight=2.0, start="noise")


def many_pictures(client: Client, settings: dict[str, Any]) -> list[Prediction]:
    paths = sorted(Path("photos").glob("*.jpg"))
    maps: Iterator[Explanation] = client.explain_many(paths, "smooth_grad", samples=25, concurrency=4)
    both: Iterator[Explanations] = client.explain_many(paths, METHODS, target=["tabby", 3])
    print(maps, both, *(attack.certificate for attack in client.attack_many(paths, "fgsm", **settings)))
    found = list(client.predict_many(paths, on_error="return", top_k=1))
    for each in found:
        if isinstance(each, PictureError):
            print(each.index, each.picture, each.error)
    return [each for each in found if not isinstance(each, PictureError)]


async def asynchronous() -> None:
    async with gradserve.AsyncClient(timeout=10) as client:
        print((await client.predict("cat.jpg", top_k=3)).top)
        print((await client.explain("cat.jpg", "grad_cam")).map)
        async for found in client.explain_many(["cat.jpg"], "grad_cam", on_error="return"):
            print(found if isinstance(found, PictureError) else found.map)
