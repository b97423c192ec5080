"""Explains all pictures of a folder, many at a time; a run that was killed goes on where it was."""

import base64
import errno
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from gradserve.client import Client
from gradserve.colours import Colormap
from gradserve.errors import PictureError
from gradserve.folders.files import MapFolder, Picture, is_partial, pictures
from gradserve.messages.explain import explain_request
from gradserve.results.explain import Explanations
from gradserve.transport.ordered import raise_if_common

_NO_PICTURE = np.zeros((1, 1, 3), np.uint8)  # A placeholder in the request that all pictures share.
_BYTES_FIELDS = {"encoded", "data"}  # The fields of messages that hold bytes of pictures and masks.
# The numbers of OSErrors in saving that concern one picture alone; those that Pillow raises have none.
_OWN_ERRNOS = {None, errno.ENAMETOOLONG}


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
        """What decides the maps, as it is written beside them, for the model of that name and digest.

        Pictures and masks of the request are named by the SHA-256 of their bytes.
        """
        own = {name: value for name, value in self.arguments.items() if name != "concurrency"}
        request = explain_request(_NO_PICTURE, self.methods, target=list(self.targets), **own)
        for field_name in ("image", "model"):
            request.ClearField(field_name)
        for field_name in ("priority", "time_budget"):
            request.options.ClearField(field_name)
        asked = json_format.MessageToDict(request, preserving_proto_field_name=True)
        return {"model": model, "weights_digest": digest, **_without_bytes(asked)}


@dataclass
class FolderReport:
    """What became of the pictures."""

    total: int
    done: int = 0
    found: int = 0  # Those whose maps were there before.
    partial: int = 0  # Those whose maps are partial, since time ran out; another run computes them again.
    failed: list[tuple[str, str]] = field(default_factory=list)  # Names of pictures, and why they have no maps.


class FolderRun:
    """Saves the maps of every picture that has none, with `restart` of all."""

    def __init__(self, client: Client, plan: FolderPlan, *, restart: bool = False) -> None:
        """Raises ValueError where the folder has maps that were made with other settings, or there are no pictures."""
        self._client, self._plan = client, plan
        self.pictures, unread = pictures(plan.folder, plan.out)
        self._card = client.model(plan.model)
        settings = plan.settings(self._card.name, self._card.weights_digest)
        self.maps = MapFolder(plan.out, settings, restart=restart)
        self.report = FolderReport(len(self.pictures), failed=unread)

    def explain(self, advance: Callable[[int], None]) -> None:
        """Explains the pictures that have no maps; `advance` is told how many more were seen to.

        What is wrong with one picture is reported, and the others go on. Raises GradserveError for what is wrong with
        all, and OSError where the folder of the maps cannot be written.
        """
        left = [picture for picture in self.pictures if not self.maps.has(picture)]
        self.report.found = len(self.pictures) - len(left)
        advance(self.report.found)
        answers = self._client.explain_many(
            [picture.path for picture in left],
            list(self._plan.methods),
            target=list(self._plan.targets),
            on_error="return",
            model=self._card.name,
            **self._plan.arguments,
        )
        for picture, answer in zip(left, answers, strict=True):
            if isinstance(answer, PictureError):
                raise_if_common(answer)
                self.report.failed.append((picture.name, str(answer.error)))
            else:
                self._keep(picture, answer)
            advance(1)

    def _keep(self, picture: Picture, answer: Any) -> None:
        maps = answer if isinstance(answer, Explanations) else Explanations([answer])
        try:
            self.maps.keep(picture, maps, self._plan.colormap)
        except OSError as error:
            if error.errno not in _OWN_ERRNOS:
                raise
            self.report.failed.append((picture.name, str(error)))
            return
        if any(is_partial(each.to_dict()) for each in maps):
            self.report.partial += 1
        else:
            self.report.done += 1


def _without_bytes(value: Any) -> Any:
    """A message as JSON, with the SHA-256 of pictures and masks in place of their bytes."""
    if isinstance(value, list):
        return [_without_bytes(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: {"sha256": hashlib.sha256(base64.b64decode(each)).hexdigest()}
        if name in _BYTES_FIELDS and isinstance(each, str)
        else _without_bytes(each)
        for name, each in value.items()
    }
