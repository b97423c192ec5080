"""Lines, bands and stacked bars in pixels, for a template that draws them as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 260  # Pixels of a chart.
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 40  # Pixels around its plot.
_LETTER = 6.2  # Pixels of a letter of an axis, about.
_MIN_SECONDS = 1e-4  # Shorter times are drawn as this one on the logarithmic axis.

Points = Sequence[tuple[float, float | None]]  # A value of None is a gap.
SharePoint = tuple[float, float, float, float]  # Where, the share there, and the lower and upper end of its band.


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, in pixels, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line's name, its path as SVG writes it, and its points, in pixels."""

    name: str
    path: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """The area between two lines, with the name of the line that it belongs to, and its outline as SVG writes it."""

    name: str
    path: str


@dataclass(frozen=True)
class Bar:
    """A rectangle in pixels; several with one name have one colour."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """Lines or bars between axes; the names are those of the legend, in order."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    names: Sequence[str]
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    bands: Sequence[Band] = ()


def latencies(title: str, x_label: str, x_end: float, series: Mapping[str, Points]) -> Chart:
    """Lines of seconds by their names, on a logarithmic axis; the other one goes from 0 to `x_end`."""
    series = {name: points for name, points in series.items() if any(y is not None for _, y in points)}
    ys = [max(y, _MIN_SECONDS) for points in series.values() for _, y in points if y is not None] or [1.0]
    first, last = math.floor(math.log10(min(ys))), math.floor(math.log10(max(ys))) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        return _x(x / x_end), _y((math.log10(max(y, _MIN_SECONDS)) - first) / (last - first))

    return Chart(
        title=title,
        x_label=x_label,
        y_label="seconds",
        x_ticks=[Tick(_x(x / x_end), f"{x:g}") for x in _steps(x_end)],
        y_ticks=[Tick(place(0, y)[1], f"{y:g}") for power in range(first, last) for y in _of_decade(power)],
        names=list(series),
        lines=[_line(name, [None if y is None else place(x, y) for x, y in points]) for name, points in series.items()],
    )


def shares(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[SharePoint]]) -> Chart:
    """Lines of shares by their names, each within its band; both axes begin at 0."""
    x_end = max((x for points in series.values() for x, *_ in points), default=1.0) or 1.0
    lines = {name: [(_x(x / x_end), _y(y)) for x, y, _, _ in points] for name, points in series.items()}
    outlines = {
        name: [(_x(x / x_end), _y(low)) for x, _, low, _ in points]
        + [(_x(x / x_end), _y(high)) for x, _, _, high in reversed(points)]
        for name, points in series.items()
    }
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(_x(x / x_end), f"{x:g}") for x in _steps(x_end)],
        y_ticks=[Tick(_y(percent / 100), f"{percent} %") for percent in range(0, 101, 25)],
        names=list(series),
        lines=[_line(name, points) for name, points in lines.items()],
        bands=[Band(name, _line(name, points).path + "Z") for name, points in outlines.items()],
    )


def by_name(
    title: str, x_label: str, y_label: str, places: Sequence[str], series: Mapping[str, Sequence[float]]
) -> Chart:
    """Lines of shares by their names, over places that have names themselves; long ones are cut at their beginning."""
    room = max(4, int((WIDTH - LEFT - RIGHT) / max(1, len(places)) / _LETTER))
    across = [_x((i + 0.5) / len(places)) for i in range(len(places))]
    names = [name if len(name) <= room else f"\u2026{name[1 - room :]}" for name in places]
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(x, name) for x, name in zip(across, names, strict=True)],
        y_ticks=[Tick(_y(percent / 100), f"{percent} %") for percent in range(0, 101, 25)],
        names=list(series),
        lines=[
            _line(name, [(x, _y(y)) for x, y in zip(across, values, strict=True)]) for name, values in series.items()
        ],
    )


def stacked(title: str, x_label: str, y_label: str, width: float, series: Mapping[str, Sequence[float]]) -> Chart:
    """Stacked bars by their names, of that width on the horizontal axis; the first stack begins at 0."""
    count = max(map(len, series.values()), default=1)
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    highest, x_end = max(totals, default=1.0) or 1.0, count * width
    bars, below = [], [0.0] * count
    for name, values in series.items():
        for place, value in enumerate(values):
            top = below[place] + value
            if value:
                left, right = _x(place / count), _x((place + 1) / count)
                bars.append(
                    Bar(name, left, _y(top / highest), right - left, _y(below[place] / highest) - _y(top / highest))
                )
            below[place] = top
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(_x(x / x_end), f"{x:g}") for x in _steps(x_end)],
        y_ticks=[Tick(_y(y / highest), f"{y:g}") for y in _steps(highest)],
        names=list(series),
        bars=bars,
    )


def _line(name: str, points: Sequence[tuple[float, float] | None]) -> Line:
    path, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
            pen = "L"
    return Line(name, "".join(path), [point for point in points if point])


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _of_decade(power: int) -> list[float]:
    """Round numbers from 10 to that power up to the next."""
    return [factor * 10.0**power for factor in (1, 2, 5, 10)]


def _steps(end: float) -> list[float]:
    """Four to ten round numbers from 0 to `end`."""
    power = 10.0 ** math.floor(math.log10(end / 4))
    step = next(factor * power for factor in (5, 2.5, 2, 1) if end / (factor * power) >= 4)
    return [step * i for i in range(int(end / step) + 1)]
