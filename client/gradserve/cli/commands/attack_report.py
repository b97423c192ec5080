"""What `gradserve attack` prints of its attacks: a table, the stages of ensembles, steps, or JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from gradserve.cli import output
from gradserve.results.attack import Attack


@dataclass(frozen=True)
class Saved:
    """An attack and where its pictures went."""

    photo: Path
    result: Attack
    picture: Path
    difference: Path | None
    maps: tuple[Path, ...] = ()


def show(saved: list[Saved], trajectory: bool, as_json: bool) -> None:
    """Print warnings, and the attacks as a table or as JSON; `trajectory`: each step too."""
    several = len(saved) > 1
    output.warn(text for each in saved for text in _warnings(each, f"{each.photo.name}: " if several else ""))
    if as_json:
        output.print_json({"attacks": [_json(each) for each in saved]})
        return
    output.out().print(_table(saved))
    for each in saved:
        if each.result.stages:
            output.out().print(_stages(each))
    for each in saved if trajectory else ():
        output.out().print(_steps(each))


def _warnings(each: Saved, about: str) -> Iterator[str]:
    result = each.result
    maps = filter(None, (result.map_before, result.map_after))
    for text in (*result.certificate.warnings, *(text for one in maps for text in one.warnings)):
        yield f"{about}{text}"
    yield from result.provenance.warnings


def _table(saved: list[Saved]) -> Table:
    table = Table(box=None)
    for column in ("photo", "verdict", "before", "after"):
        table.add_column(column)
    survival = any(each.result.success_rate is not None for each in saved)  # Attacks with --eot have it.
    for column in ("change", "queries", *(["survives"] if survival else [])):
        table.add_column(column, justify="right")
    table.add_column("saved as", overflow="fold")
    for each in saved:
        result, c = each.result, each.result.certificate
        rates = ["" if result.success_rate is None else f"{result.success_rate:.0%}"] if survival else []
        change = f"{c.linf * 255:.3g}/255" if c.norm == "linf" else f"L2 {c.l2:.3g}"
        paths = ", ".join(str(path) for path in (each.picture, each.difference, *each.maps) if path)
        names = [f"{score.class_name} {score.probability:.1%}" for score in c.change]
        table.add_row(each.photo.name, c.verdict.replace("_", " "), *names, change, str(c.queries), *rates, paths)
    return table


def _stages(each: Saved) -> Table:
    table = Table(title=f"{each.photo.name}: {each.result.method}", title_justify="left", box=None)
    table.add_column("stage")
    table.add_column("reached")
    for column in ("queries", "gradients"):
        table.add_column(column, justify="right")
    for stage in each.result.stages:
        table.add_row(stage.method, "yes" if stage.reached else "no", str(stage.queries), str(stage.gradients))
    return table


def _steps(each: Saved) -> Table:
    title = f"{each.photo.name}: {each.result.method}"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("step", justify="right")
    table.add_column("class")
    for column in ("probability", "margin", "loss"):
        table.add_column(column, justify="right")
    for step in each.result.trajectory:
        score = step.predicted
        numbers = (f"{score.probability:.2%}", f"{step.margin:.3f}", f"{step.loss:.3f}")
        table.add_row(str(step.step), score.class_name, *numbers)
    return table


def _json(each: Saved) -> dict[str, Any]:
    paths = {"picture": str(each.picture), "difference": str(each.difference) if each.difference else None}
    return {"image": str(each.photo), **each.result.to_dict(), **paths, "maps": [str(path) for path in each.maps]}
