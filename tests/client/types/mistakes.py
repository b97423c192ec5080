"""Typical mistakes, one to a line that ends in `# Mistake`: mypy --strict rejects every one, and nothing else here."""

import gradserve
from gradserve import Client, Method, PictureError


def one_picture(client: Client) -> None:
    client.explain("cat.jpg", "smooth_grad", smaples=3)  # Mistake
    client.explain("cat.jpg", "grad_camm")  # Mistake
    client.explain("cat.jpg", "grad_cam", precison="fast")  # Mistake
    client.explain("cat.jpg", "grad_cam", precision="fats")  # Mistake
    client.explain("cat.jpg", "grad_cam", priority="batchh")  # Mistake
    client.explain("cat.jpg", ["gradient", "grad_camm"])  # Mistake
    client.explain("cat.jpg", "smooth_grad", samples="25")  # Mistake
    client.explain("cat.jpg", ("smooth_grad", {"smaples": 25}))  # Mistake
    client.explain("cat.jpg", "gradient", reduce="mean")  # Mistake
    client.explain("cat.jpg", "gradient", format="jpeg")  # Mistake
    client.explain("cat.jpg", "pgd")  # Mistake
    client.predict("cat.jpg", preprocess="asis")  # Mistake
    client.predict("cat.jpg", top=3)  # Mistake
    client.predict("cat.jpg", layout="NCHW")  # Mistake
    client.predict(42)  # Mistake
    client.attack("cat.jpg", "pgd", steps=40, nrom="l2")  # Mistake
    client.attack("cat.jpg", "pgd", norm="l1")  # Mistake
    client.attack("cat.jpg", "pgdd")  # Mistake
    client.attack("cat.jpg", defence="jpg")  # Mistake
    client.attack("cat.jpg", eot={"samplse": 4})  # Mistake
    client.influence("cat.jpg", "last_layr")  # Mistake
    client.influence("cat.jpg", goal="los")  # Mistake
    client.suspects(order="random")  # Mistake
    client.embed("cat.jpg", pooling="average")  # Mistake
    client.inspect("filters", "conv1")  # Mistake
    client.inspect("activations", "conv1")  # Mistake
    client.inspect("weights", "conv1", order="max")  # Mistake
    client.differentiate(["cat.jpg"], rule="lrp")  # Mistake
    client.maximize("flamingo", preset="strng")  # Mistake
    client.maximize("flamingo", optimizer="adamw")  # Mistake
    client.stylize("cat.jpg", "wave.jpg", style_wieght=2.0)  # Mistake


def methods() -> None:
    Method("smooth_grad", smaples=3)  # Mistake
    Method("grad_cam", samples=3)  # Mistake
    Method("grad_camm")  # Mistake
    Method("fgsm", steps=3)  # Mistake
    Method("corruption", kind="fogg")  # Mistake


def many_pictures(client: Client) -> None:
    client.predict_many(["cat.jpg"], topk=3)  # Mistake
    client.predict_many(["cat.jpg"], on_error="skip")  # Mistake
    client.explain_many(["cat.jpg"], "smooth_grad", smaples=3)  # Mistake
    client.attack_many(["cat.jpg"], "pgd", priority="batchh")  # Mistake
    for found in client.predict_many(["cat.jpg"], on_error="return"):
        print(found.top)  # Mistake
    for map_or_maps in client.explain_many(["cat.jpg"], ["gradient"]):
        print(map_or_maps.map)  # Mistake


async def asynchronous() -> None:
    client = gradserve.AsyncClient(tls=3)  # Mistake
    await client.explain("cat.jpg", "smooth_grad", smaples=3)  # Mistake
    print(client.predict("cat.jpg").top)  # Mistake
    async for found in client.attack_many(["cat.jpg"], on_error="return"):
        print(found.error if isinstance(found, PictureError) else found.found, found.certificate)  # Mistake
