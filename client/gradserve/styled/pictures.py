"""Makes stylised pictures and keeps them in a folder; a run that was killed goes on where it was."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from gradserve.arguments import ImageLike
from gradserve.client import Client
from gradserve.errors import PictureError
from gradserve.folders.claims import SETTINGS, check_same, replace_file, write_settings
from gradserve.messages import inputs
from gradserve.results.explain import picture_sha256
from gradserve.results.pictures import StylizedImage
from gradserve.transport.ordered import in_order, raise_if_common

_KEY = "gradserve"  # Of the text within each PNG, which has the SHA-256 of all that the picture was made from.


@dataclass(frozen=True)
class Wanted:
    """A stylised picture: its file within the folder, the pictures that it is made from, and Stylize's arguments."""

    file: str
    content: Callable[[], ImageLike] = field(repr=False)  # Read only when it is needed.
    style: ImageLike = field(repr=False)
    arguments: Mapping[str, Any]


@dataclass
class StyledReport:
    """What became of the pictures."""

    total: int
    done: int = 0
    found: int = 0  # Those that were there before.
    failed: dict[str, str] = field(default_factory=dict)  # Files, and why they are not there.


class _Incomplete(inputs.UnusablePicture):
    """The server ended before the last step, as where numbers overflow."""


class StyledFolder:
    """A folder of stylised pictures of one recipe and one network."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        """`settings`: all that the pictures depend on.

        Raises OtherSettings where its pictures were made with others, and ValueError where it holds anything else.
        """
        if (path / SETTINGS).is_file():
            if not restart:
                check_same(path, settings, "pictures", "Give another --out, or --restart to make all of them anew")
            else:
                _remove_pictures(path)
        elif path.is_dir() and any(each.name[0] != "." for each in path.iterdir()):
            raise ValueError(f"{path} holds files and no {SETTINGS} of such a run; give an empty folder, or a new one")
        write_settings(path, settings)
        self.path = path
        self._settings = json.dumps(settings, sort_keys=True)

    def make(
        self, client: Client, wanted: Sequence[Wanted], concurrency: int, advance: Callable[[int], None]
    ) -> StyledReport:
        """Makes the pictures that are not there, so many at a time; `advance` is told how many more were seen to.

        A file is written as soon as its picture has come, whole or not at all. What is wrong with one content is
        reported, and the others go on. Raises GradserveError for what is wrong with all.
        """
        report = StyledReport(len(wanted))

        def ask(each: Any) -> bool:
            key = self._key(each)
            if self._has(each.file, key):
                return False
            self._keep(each.file, key, client.stylize(each.content(), each.style, **each.arguments))
            return True

        with closing(in_order(ask, wanted, concurrency, "return")) as answers:  # type: ignore[arg-type]
            for each, answer in zip(wanted, answers, strict=True):
                if isinstance(answer, PictureError):
                    answer.error.add_note(f"this was {each.file}")
                    raise_if_common(answer, "content")
                    report.failed[each.file] = str(answer.error)
                elif answer:
                    report.done += 1
                else:
                    report.found += 1
                advance(1)
        return report

    def _key(self, wanted: Wanted) -> str:
        """The SHA-256 of all that decides the picture."""
        digests = [picture_sha256(inputs.message(each)) for each in (wanted.content(), wanted.style)]
        arguments = {name: value for name, value in wanted.arguments.items() if name != "priority"}
        text = json.dumps([self._settings, *digests, arguments], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _has(self, file: str, key: str) -> bool:
        """Whether the picture is here, of this key and whole."""
        try:
            with Image.open(self.path / file) as picture:
                found = picture.info.get(_KEY) == key
                picture.load()
        except (OSError, ValueError, SyntaxError):  # There is none, or it is damaged.
            return False
        return found

    def _keep(self, file: str, key: str, made: StylizedImage) -> None:
        if made.done < made.asked:
            why = "; ".join(made.warnings) or "no reason was told"
            raise _Incomplete(f"only {made.done} of {made.asked} steps were made: {why}")
        text, data = PngImagePlugin.PngInfo(), io.BytesIO()
        text.add_text(_KEY, key)
        made.image.save(data, "PNG", pnginfo=text)
        path = self.path / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data.getvalue())
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error}") from error


def _remove_pictures(folder: Path) -> None:
    """Removes the pictures of earlier runs, which may have other names and would stay among the new ones."""
    for path in folder.rglob("*.png"):
        try:
            with Image.open(path) as picture:
                is_ours = _KEY in picture.info
        except (OSError, ValueError, SyntaxError):  # It is damaged, or something else.
            continue
        if is_ours:
            path.unlink()
