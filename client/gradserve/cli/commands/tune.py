"""`gradserve bench --tune`: what the machine at hand does best with each model."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from gradserve.cli import output
from gradserve.errors import GradserveError

SERVER_MISSING = "--tune needs the server: pip install 'gradserve[server]'"


def tune(out: Path, config: Path | None, models: list[str]) -> None:
    """Measure rows per pass and precisions on this machine; write them for `gradserve serve --tuned`."""
    try:
        tuning: Any = import_module("gradserve_server.offline.tune")
        settings: Any = import_module("gradserve_server.config").settings_of(config, models, {}, {})
    except ModuleNotFoundError as missing:
        raise GradserveError(f"{SERVER_MISSING} ({missing.name} is not installed)") from None
    device = tuning.device_of(settings.pool)

    def show(rounds: Iterable[int], name: str) -> Iterable[int]:
        return track(rounds, name, console=output.err(), transient=True)

    results = list(tuning.tune(settings.models, device, settings.pool.threads, show))
    out.write_text(tuning.as_toml(results, device))
    output.out().print(_table(results))
    output.err().print(f"written to {out}; use it with: gradserve serve --tuned {out}", highlight=False)


def _table(results: Iterable[Any]) -> Table:
    table = Table(title="Gradients on this machine", title_justify="left", box=None)
    for column in ("model", "precision"):
        table.add_column(column)
    for column in ("rows per pass", "rows/s", "against exact"):
        table.add_column(column, justify="right")
    table.add_column("AUTO of")
    for each in results:
        for precision, rows in each.rows.items():
            rate, times = each.rates[precision, rows], each.speedup[precision]
            auto = ", ".join(rpc for rpc, chosen in each.auto.items() if chosen == precision)
            table.add_row(each.name, precision, str(rows), f"{rate:.1f}", f"{times:.2f}x", auto)
    return table
