"""Reports of maps before all of a request are there."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ...engine.job import Job, MethodContext, Progress, Steps

MIN_SAMPLES_SHOWN = 2  # The fewest samples that a map is shown of.

# Warnings of maps that are 0 everywhere.
ZERO = "ZERO_MAP: the target does not depend on this image in any pixel"
ZERO_BY_LAYER = (
    "ZERO_MAP: nothing at the layer speaks for the target on the whole, and what speaks against it is cut off; "
    "ask for signed=true, another layer or another method"
)


class PartOfAnswer(NamedTuple):
    """One map of an answer: its number among the calls, the map as it stands, and whether it is finished."""

    place: int
    explained: Any  # Explained
    finished: bool


def reporting(steps: Steps, run: MethodContext, place: int, explained: Callable[[Any], Any]) -> Steps:
    """Runs a method, and reports its map as it stands whenever more samples are done. Returns its result.

    `explained` makes an answer of a map.
    """

    def so_far() -> PartOfAnswer:
        assert run.so_far is not None, "it is asked only then"
        return PartOfAnswer(place, explained(run.so_far()), False)

    resume: Callable[[], Any] = partial(next, steps)
    shown = MIN_SAMPLES_SHOWN - 1
    while True:
        try:
            request = resume()
        except StopIteration as stop:
            return stop.value
        if run.so_far is not None and run.done > shown:
            shown = run.done
            yield Progress(run.done, run.asked, {}, part=place, answer=so_far)
        try:
            answer = yield request
        except Exception as error:  # The time is up, or an answer is not finite; a method may answer with less then.
            resume = partial(steps.throw, error)
        else:
            resume = partial(steps.send, answer)


def report(job: Job, place: int, result: Any, run: MethodContext) -> Steps:
    """Reports a map that is finished, an Explained, where that is wanted."""
    if job.tells_parts:
        whole = PartOfAnswer(place, result, True)
        yield Progress(run.done, run.asked, {}, part=place, answer=lambda: whole, final=True)


def warn_of_zeros(run: MethodContext, *, by_layer: bool) -> None:
    """Warns that a map is 0 everywhere, unless its method has said why."""
    if not any(text.startswith("NOT_SHOWN") for text in run.warnings):
        run.warn(ZERO_BY_LAYER if by_layer else ZERO)


def warn_of_error(run: MethodContext, error: float | None) -> None:
    """Warns where all samples were drawn, and the map is not known to be as stable as it was asked to be."""
    if run.until_stable is None or run.done < run.asked or (error is not None and error <= run.until_stable):
        return
    if error is None:
        found = f"{run.asked} samples are too few to tell the standard error of the map"
    else:
        found = f"after all {run.asked} samples the standard error is {error:.3g} of the map"
    run.warn(f"NOT_STABLE: {found}, and {run.until_stable:g} was asked for; ask for more samples")
