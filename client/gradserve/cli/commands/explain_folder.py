"""`gradserve explain FOLDER`: the maps of all pictures of a folder, with a page that shows them."""

from collections.abc import Callable
from contextlib import ExitStack

import typer

from gradserve.cli import options, output
from gradserve.folders import page
from gradserve.folders.files import pictures
from gradserve.folders.run import FolderPlan, FolderReport, explain_folder


def run(plan: FolderPlan, connection: options.Connection, timeout: float, *, restart: bool, as_json: bool) -> None:
    """Explains what has no maps yet, and prints what became of it. The exit code is 1 where a picture failed."""
    with ExitStack() as stack:
        client = stack.enter_context(connection.client(timeout))
        total = len(pictures(plan.folder, plan.out))
        advance: Callable[[int], None] = stack.enter_context(output.counter("explain", total))
        report, maps, found = explain_folder(client, plan, advance, restart=restart)
    path = page.write(plan.folder, maps, found, report.failed)
    if as_json:
        output.print_json({**vars(report), "out": str(plan.out), "page": str(path)})
    else:
        _print(report, str(path))
    if report.failed:
        raise typer.Exit(1)


def _print(report: FolderReport, path: str) -> None:
    found = f", {report.found} of them before" if report.found else ""
    output.out().print(f"{report.done + report.found} of {report.total} pictures have maps{found}; see {path}")
    for name, reason in report.failed:
        output.err().print(f"{name}: {reason}", style="red")
