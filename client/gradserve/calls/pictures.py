# Generated from aio_pictures.py by protos/sync_client.py: edit that file, then `make protos`.
"""The calls that make pictures: Maximize and Stylize, at once or as a stream."""

from collections.abc import Iterator
from typing import Any, Unpack

from gradserve.arguments import ImageLike, MaximizeArguments, StyleLike, StylizeArguments
from gradserve.messages import pictures
from gradserve.messages.goals import GoalLike
from gradserve.results.pictures import MaximizedImage, MaximizedImages, Progress, StylizedImage
from gradserve.transport.connection import Connection


class PictureCalls(Connection):
    """A connection with the calls that make pictures."""

    def maximize(
        self,
        goals: GoalLike | list[Any],
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[MaximizeArguments],
    ) -> MaximizedImage | MaximizedImages:
        """The picture that a goal is maximal on, or with a list of goals all of theirs.

        A goal is a class's index or name, a Unit, or a Goal: sums and differences of those, of layers and directions.
        """
        request = pictures.maximize_request(goals, **arguments)
        return pictures.maximized(goals, self._call(self._stubs.gradients.Maximize, request, timeout))

    def maximize_stream(
        self,
        goals: GoalLike | list[Any],
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[MaximizeArguments],
    ) -> Iterator[Progress | MaximizedImage | MaximizedImages]:
        """Progress while it is made, and in the end what `maximize` returns; leaving the loop ends the work."""
        request = pictures.maximize_request(goals, **arguments)
        for event in self._stream(self._stubs.gradients.StreamMaximize, request, timeout):
            yield pictures.maximize_event(goals, event)

    def stylize(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[StylizeArguments],
    ) -> StylizedImage:
        """The content in the style of a picture, of a list, or of (picture, weight) pairs (Gatys et al. 2016).

        Without a style the content is reconstructed from its layers; with None as content the style gives a texture.
        """
        request = pictures.stylize_request(content, style, **arguments)
        return pictures.stylized(self._call(self._stubs.gradients.Stylize, request, timeout))

    def stylize_stream(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[StylizeArguments],
    ) -> Iterator[Progress | StylizedImage]:
        """Progress while it is made, and in the end what `stylize` returns; leaving the loop ends the work."""
        request = pictures.stylize_request(content, style, **arguments)
        for event in self._stream(self._stubs.gradients.StreamStylize, request, timeout):
            yield pictures.stylize_event(event)
