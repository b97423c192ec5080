"""What a benchmark leaves behind: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of tables.")]
Out = Annotated[Path | None, typer.Option("--out", dir_okay=False, help="Also write the JSON to this file.")]

WIDTH = 200  # Characters in a line of a file or a pipe.

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Spread:
    """A median, and the values of the rounds in their order."""

    median: float
    rounds: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of the rounds' values, rounded for print."""
        return cls(median(values), [float(f"{value:.4g}") for value in values])


def deliver(document: dict[str, Any], tables: list[Table], as_json: bool, out: Path | None) -> None:
    """Prints the tables or the document, and writes the document to a file if one is named."""
    text = json.dumps(document, indent=2)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    if as_json:
        print(text)
    else:
        terminal = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        for table in tables:
            terminal.print(table)


def table(title: str, names: list[str], columns: list[str]) -> Table:
    """A table that Markdown can take as it is: names at the left, numbers at the right."""
    made = Table(title=title, title_justify="left", box=box.MARKDOWN, header_style="bold")
    for name in names:
        made.add_column(name, no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right")
    return made


def shown(spread: Spread, digits: int) -> str:
    """25.1 (24.0..26.3)."""
    return f"{spread.median:.{digits}f} ({min(spread.rounds):.{digits}f}..{max(spread.rounds):.{digits}f})"
