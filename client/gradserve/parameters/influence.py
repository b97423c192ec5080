# Generated from influence.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that influence.proto knows, as types."""

from typing import Literal, TypedDict

InfluenceGoal = Literal["loss", "margin", "logit"]

SuspectOrder = Literal["rank_sum", "self_influence", "loss", "disagreement"]

Pooling = Literal["mean", "max", "none"]


class LastLayerParameters(TypedDict, total=False):
    """Parameters of "last_layer"."""

    newton: bool


InfluenceName = Literal["projected", "last_layer", "neighbours"]


class InfluenceParameters(TypedDict, total=False):
    """Parameters of all methods of Influence together."""

    newton: bool
