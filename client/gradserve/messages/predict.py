"""Pure functions for Predict: arguments -> request message, reply -> result."""

from typing import Unpack

from gradserve.arguments import ImageLike, Layout, Options, PhotoOptions
from gradserve.messages import inputs
from gradserve.messages.common import (
    PREPROCESS,
    choice,
    count,
    provenance_of,
    region_of,
    request_options,
    score_of,
    split,
)
from gradserve.parameters.common import Preprocess
from gradserve.results.predict import Prediction
from gradserve.v1 import predict_pb2


class PredictArguments(PhotoOptions, total=False):
    """What `predict` takes beside the picture. top_k: how many classes; 5 if it is left out."""

    top_k: int


_OWN = PredictArguments.__annotations__.keys() | {"timeout"}


def predict_request(image: ImageLike, **arguments: Unpack[PredictArguments]) -> predict_pb2.PredictRequest:
    """The arguments of Predict as a message."""
    own, _ = split("predict", arguments, _OWN, frozenset())
    return _request(image, **own)


def _request(
    image: ImageLike,
    *,
    model: str = "",
    top_k: int = 5,
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> predict_pb2.PredictRequest:
    return predict_pb2.PredictRequest(
        model=model,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        top_k=count("top_k", top_k),
        options=request_options(**options),
    )


def prediction(reply: predict_pb2.PredictResponse) -> Prediction:
    """The reply of Predict as a result."""
    return Prediction(tuple(map(score_of, reply.top)), region_of(reply.region), provenance_of(reply.provenance))
