"""Explains all pictures of a folder, many at a time; a run that was killed goes on where it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from gradserve.client import Client
from gradserve.colours import Colormap
from gradserve.errors import DeadlineExceeded, InternalError, InvalidArgument, PictureError
from gradserve.folders.files import MapFolder, Picture, pictures
from gradserve.inputs import UnusablePicture
from gradserve.messages.explain import explain_request
from gradserve.results.explain import Explanations

_NO_PICTURE = np.zeros((1, 1, 3), np.uint8)  # Stands for each of the pictures.


@dataclass(frozen=True)
class FolderPlan:
    """What is computed for every picture: methods and targets as `Client.explain` takes them, and its arguments."""

    folder: Path
    out: Path
    methods: Sequence[Any]
    targets: Sequence[Any]
    model: str
    arguments: Mapping[str, Any]
    colormap: Colormap | None = None

    def settings(self, model: str, digest: str) -> dict[str, Any]:
        """What decides the maps, as it is written beside them, for the model of that name and digest."""
        own = {name: value for name, value in self.arguments.items() if name != "concurrency"}
        request = explain_request(_NO_PICTURE, self.methods, target=list(self.targets), **own)
        for field_name in ("image", "model"):
            request.ClearField(field_name)
        for field_name in ("priority", "time_budget"):
            request.options.ClearField(field_name)
        asked = json_format.MessageToDict(request, preserving_proto_field_name=True)
        return {"model": model, "weights_digest": digest, **asked}


@dataclass
class FolderReport:
    """What became of the pictures."""

    total: int
    done: int = 0
    found: int = 0  # Those whose maps were there before.
    failed: list[tuple[str, str]] = field(default_factory=list)  # Names of pictures, and why they have no maps.


def explain_folder(
    client: Client, plan: FolderPlan, advance: Callable[[int], None], *, restart: bool = False
) -> tuple[FolderReport, MapFolder, list[Picture]]:
    """Saves the maps of every picture that has none, with `restart` of all; `advance` is told of each that has them.

    What is wrong with one picture is reported, and the others go on. Raises GradserveError for what is wrong with all,
    and ValueError where the folder of the maps is one of other settings.
    """
    found = pictures(plan.folder, plan.out)
    card = client.model(plan.model)
    maps = MapFolder(plan.out, plan.settings(card.name, card.weights_digest), restart=restart)
    report = FolderReport(len(found))
    left = [picture for picture in found if not maps.has(picture)]
    report.found = len(found) - len(left)
    advance(report.found)
    answers = client.explain_many(
        [picture.path for picture in left],
        list(plan.methods),
        target=list(plan.targets),
        on_error="return",
        model=card.name,
        **plan.arguments,
    )
    for picture, answer in zip(left, answers, strict=True):
        if isinstance(answer, PictureError):
            _check_own(answer)
            report.failed.append((picture.name, str(answer.error)))
        else:
            maps.keep(picture, _as_several(answer), plan.colormap)
            report.done += 1
        advance(1)
    return report, maps, found


def _as_several(answer: Any) -> Explanations:
    return answer if isinstance(answer, Explanations) else Explanations([answer])


def _check_own(failure: PictureError) -> None:
    """Raises the error where it is not the picture's own, since all others would fail of it too."""
    error = failure.error
    own = isinstance(error, (UnusablePicture, OSError, DeadlineExceeded, InternalError)) or (
        isinstance(error, InvalidArgument)
        and bool(error.violations)
        and all(field.startswith("image") for field, _ in error.violations)
    )
    if not own:
        raise error
