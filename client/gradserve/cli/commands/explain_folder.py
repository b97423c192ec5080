"""`gradserve explain FOLDER`: the maps of all pictures of a folder, with a page that shows them."""

import typer

from gradserve.cli import options, output
from gradserve.folders import page
from gradserve.folders.run import FolderPlan, FolderReport, FolderRun


def run(plan: FolderPlan, connection: options.Connection, timeout: float, *, restart: bool, as_json: bool) -> None:
    """Explains what has no maps yet, and prints what became of it. The exit code is 1 where a picture failed.

    The page is written after an error too, and after Ctrl-C, once a picture was seen to.
    """
    with connection.client(timeout) as client:
        folder = FolderRun(client, plan, restart=restart)
        report, path = folder.report, None
        try:
            with output.counter("explain", report.total) as advance:
                folder.explain(advance)
        finally:
            if report.done + report.found + report.partial + len(report.failed):
                path = page.write(plan.folder, folder.maps, folder.pictures, report.failed)
    if as_json:
        output.print_json({**vars(report), "out": str(plan.out), "page": str(path)})
    else:
        _print(report, str(path))
    if report.failed:
        raise typer.Exit(1)


def _print(report: FolderReport, path: str) -> None:
    found = f", {report.found} of them before" if report.found else ""
    output.out().print(f"{report.done + report.found} of {report.total} pictures have maps{found}; see {path}")
    if report.partial:
        output.out().print(
            f"{report.partial} more have partial maps, since time ran out; another run computes them again"
        )
    for name, reason in report.failed:
        output.err().print(f"{name}: {reason}", style="red")
