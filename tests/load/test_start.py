"""The default server starts and serves its models, also on a processor whose bfloat16 is emulated."""

from serving import Server, Stubs

from gradserve.v1 import models_pb2


def test_the_default_server_serves_the_embedded_models() -> None:
    """A start that never ends fails by `PATIENCE` of serving.py; how long one takes is not asserted."""
    with Server("", "--workers", "1") as server, server.channel() as channel:
        listed = Stubs.of(channel).models.ListModels(models_pb2.ListModelsRequest())
        assert {model.name for model in listed.models} == {"imagenet", "digits", "cifar10", "cifar10-robust"}
        assert not listed.unavailable
        assert listed.default_model == "imagenet"
