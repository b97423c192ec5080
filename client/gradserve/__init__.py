"""gradserve: a client for the service that serves the gradients of vision models.

import gradserve

with gradserve.Client("127.0.0.1:50051") as client:
    print(client.predict("cat.jpg"))
    client.explain("cat.jpg", "grad_cam").save("cat-grad_cam.png")
"""

from importlib import metadata as _metadata

from gradserve.aio import AsyncClient
from gradserve.arguments import Contrast, Direction, Pick, Rank, Similarity, Unit
from gradserve.client import Client
from gradserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    GradserveError,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PictureError,
    RequestTooLarge,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from gradserve.messages.goals import Goal
from gradserve.parameters.method import Method
from gradserve.results.attack import Attack, AttackStage, Certificate, Judgement, TrajectoryStep
from gradserve.results.certify import CertifiedClass, ClassCount
from gradserve.results.common import Provenance, Region, Score
from gradserve.results.concepts import ClassSensitivity, ConceptDirection, KeptDirection
from gradserve.results.dense import DenseMap, DenseMaps
from gradserve.results.differentiate import Gradients
from gradserve.results.exemplars import ChannelExemplars, ExemplarPatch, Exemplars
from gradserve.results.explain import Curves, Explanation, Explanations, MapProgress, Segment, Trust
from gradserve.results.influence import Features, Influence, Reweighting, Suspects, TrainingExample
from gradserve.results.inspect import Activations, LayerRow, LayerTable, ReceptiveField, Weights
from gradserve.results.models import Applicability, ChangedModels, ChangeProgress, Layer, ModelCard
from gradserve.results.pictures import MaximizedImage, MaximizedImages, Progress, StylizedImage
from gradserve.results.predict import Prediction
from gradserve.results.project import PictureNeighbour, ProjectedLayer, ProjectedPicture, ProjectedPoint, Projection

try:
    __version__ = _metadata.version("gradserve")
except _metadata.PackageNotFoundError:  # The package is imported from a checkout that is not installed.
    __version__ = "0+unknown"

__all__ = [
    "Activations",
    "Applicability",
    "AsyncClient",
    "Attack",
    "AttackStage",
    "Cancelled",
    "Certificate",
    "CertifiedClass",
    "ChangeProgress",
    "ChangedModels",
    "ChannelExemplars",
    "ClassCount",
    "ClassSensitivity",
    "Client",
    "ConceptDirection",
    "Contrast",
    "Curves",
    "DeadlineExceeded",
    "DenseMap",
    "DenseMaps",
    "Direction",
    "ExemplarPatch",
    "Exemplars",
    "Explanation",
    "Explanations",
    "FailedPrecondition",
    "Features",
    "Goal",
    "Gradients",
    "GradserveError",
    "Influence",
    "InternalError",
    "InvalidArgument",
    "Judgement",
    "KeptDirection",
    "Layer",
    "LayerRow",
    "LayerTable",
    "MapProgress",
    "MaximizedImage",
    "MaximizedImages",
    "Method",
    "ModelCard",
    "NotFound",
    "PermissionDenied",
    "Pick",
    "PictureError",
    "PictureNeighbour",
    "Prediction",
    "Progress",
    "ProjectedLayer",
    "ProjectedPicture",
    "ProjectedPoint",
    "Projection",
    "Provenance",
    "Rank",
    "ReceptiveField",
    "Region",
    "RequestTooLarge",
    "ResourceExhausted",
    "Reweighting",
    "Score",
    "Segment",
    "ServiceError",
    "Similarity",
    "StylizedImage",
    "Suspects",
    "TrainingExample",
    "TrajectoryStep",
    "Trust",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unit",
    "Violation",
    "Weights",
]
