"""`gradserve robustness`: a gate for deployments."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import typer

from gradserve.aio import AsyncClient
from gradserve.cli import options, output
from gradserve.cli.commands import robustness_comparison, robustness_merge, robustness_report
from gradserve.cli.commands.robustness_options import (
    Concurrency,
    Data,
    Folders,
    Merge,
    Reports,
    ShardText,
    Thresholds,
    Timeout,
    Trials,
)
from gradserve.cli.commands.robustness_presets import timeout_for
from gradserve.datasets import Dataset, open_dataset
from gradserve.errors import GradserveError
from gradserve.robustness import reading, record, results, shards
from gradserve.robustness.certified import check_radii
from gradserve.robustness.comparison import check_comparable
from gradserve.robustness.groups import check_column
from gradserve.robustness.journal import Journal, JournalMismatch
from gradserve.robustness.judging import all_figures
from gradserve.robustness.plan import CheckSpec, check_labels
from gradserve.robustness.record import Record, Shard, Whole
from gradserve.robustness.run import Check
from gradserve.robustness.thresholds import Limits

EXIT_CODES = {"passed": 0, "failed": 1, "not_measured": 2}
# Options of a run that was not told otherwise; --merge takes none.
PREPROCESS, PRECISION, CONCURRENCY = "model_default", "auto", 32


class NotMeasured(ValueError):
    """The check could not be made, which is neither passed nor failed."""


@dataclass(frozen=True)
class Source:
    """The pictures that are measured: so many of a set, or a shard of them; and the column that groups them."""

    dataset: Dataset
    limit: int | None
    shard: Shard | None
    column: str


@dataclass(frozen=True)
class Setting:
    """What is measured, against what, and where it goes."""

    model: str
    reference: str
    source: Source
    spec: CheckSpec
    limits: Limits
    baseline: Record | None
    concurrency: int
    reports: Reports
    server: str


@options.grouped
def robustness(
    folders: Folders = None,
    *,
    data: Data = None,
    merge: Merge = False,
    model: options.Model = "",
    limit: options.Limit = None,
    shard: ShardText = "",
    trials: Trials,
    thresholds: Thresholds,
    seed: options.Seed = None,
    preprocess: options.Preprocess = PREPROCESS,
    precision: options.Precision = PRECISION,
    concurrency: Concurrency = CONCURRENCY,
    reports: Reports,
    connection: options.Connection,
    timeout: Timeout = None,
    as_json: options.Json = False,
) -> None:
    """Clean, robust and corrupted accuracy of a served model: a gate for deployments.

    Exit code 0: every threshold holds. 1: one does not. 2: it could not be measured.

    A picture is right where its label is predicted. Where labels are independent (the model's head is multilabel) it is
    right where its label is present, whatever other labels are.

    A picture whose attack had nothing to follow is tried again with the margin loss. Where that has nothing to follow
    either the picture is not measured, and the exit code is 2 if it could change the verdict.

    Without --attack the pictures meet pgd, a first look that leaves too much standing. --quick is a verdict for every
    commit, --standard one for a reviewer or a release.

    With --certify-sigma every picture is also certified by randomised smoothing. With --shard 3/16 every sixteenth is
    measured, from the third on; --merge makes one run's reports of the sixteen folders. With --baseline every figure is
    compared with an earlier run's on the same pictures, and --no-worse says by how much one may fall.

    A run that was stopped goes on when the same command is given again. A failed request is sent again, and what
    fails for good counts as fallen. Unreadable pictures are counted apart.

    Example: `gradserve robustness --data photos/ --model cifar10-robust --eps 4/255 --min-robust-accuracy 0.40`

    Example: `gradserve robustness --data photos/ --model cifar10-robust --standard --eps 8/255 --out verdict/`

    Example: `gradserve robustness --data cifar.npz --model cifar10-robust --attack none --corruption all --out noisy/`

    Example: `gradserve robustness --data photos/ --attack none --certify-sigma 0.25 --min-certified-accuracy 0.25:0.30`

    Example: `gradserve robustness --merge out-*/ --min-robust-accuracy 0.40`
    """
    if merge:
        options_of_runs = data, limit, shard, seed, trials, preprocess, precision, concurrency, timeout
        if options_of_runs != (None, None, "", None, Trials(), PREPROCESS, PRECISION, CONCURRENCY, None):
            raise ValueError("--merge takes what its shards measured; it goes with thresholds, --out and --json alone")
        _end(robustness_merge.merge(folders or [], thresholds, reports.out, model), as_json)
    spec, limits = trials.spec(seed or 0, preprocess, precision), thresholds.limits()
    _check(spec, limits, trials.reference)
    dataset, part = _opened(data, folders), shards.parsed(shard) if shard else None
    baseline = reading.record(thresholds.baseline) if thresholds.baseline else None
    source = Source(dataset, limit, part, thresholds.group)
    setting = Setting(model, trials.reference, source, spec, limits, baseline, concurrency, reports, connection.address)
    connect = partial(connection.async_client, timeout_for(spec) if timeout is None else timeout)
    document = _document(connect, setting)
    _end(document, as_json)


def _end(document: Mapping[str, Any], as_json: bool) -> NoReturn:
    """Exit with the code of the verdict."""
    if as_json:
        output.print_json(document)
    raise typer.Exit(EXIT_CODES[document["verdict"]])


def _document(connect: Callable[[], AsyncClient], setting: Setting) -> dict[str, Any]:
    """The document of results.json. Raises NotMeasured where the check could not be made."""
    try:
        with output.resumable():
            return asyncio.run(_measure(connect, setting))
    except JournalMismatch as error:
        error.add_note("--restart forgets it, another --out keeps it")
        raise
    except (GradserveError, OSError) as error:
        raise NotMeasured(str(error)) from error


def _check(spec: CheckSpec, limits: Limits, reference: str) -> None:
    """Raises ValueError for thresholds on what is not measured."""
    if not spec.methods and not spec.kinds and not spec.noise and limits.clean is None:
        raise ValueError(
            "nothing to measure: name an --attack, a --corruption, a --certify-sigma or a --min-clean-accuracy"
        )
    for name, limit in (("robust", limits.robust), ("group-robust", limits.group_robust)):
        if limit is not None and not spec.methods:
            raise ValueError(f"--min-{name}-accuracy needs an --attack")
    if limits.mce is not None and not (reference and spec.kinds):
        raise ValueError("--max-mce needs --corruption all (or some kinds) and a --reference")
    if reference and not spec.kinds:
        raise ValueError("--reference needs --corruption all, or some kinds")


async def _measure(connect: Callable[[], AsyncClient], setting: Setting) -> dict[str, Any]:
    """Ask, count, write the reports; the document of results.json."""
    out = setting.reports.out
    async with connect() as client:  # The client belongs to the running event loop.
        card = await client.model(setting.model)
        plan = setting.spec.plan(card, await client.model(setting.reference) if setting.reference else None)
        check_radii(plan, setting.limits)
        pictures = setting.source.dataset.labelled_for(card.classes)
        check_labels(pictures)
        dataset, whole = _chosen(pictures, setting.source, plan.seed)
        if setting.source.column:
            check_column(pictures, setting.source.column)
        described = record.described(dataset, setting.source.column)
        asked = Record(plan, described, column=setting.source.column, shard=setting.source.shard, of_shard=whole)
        if setting.baseline:
            check_comparable(asked, setting.baseline)
        path = out / "journal.jsonl"
        if setting.reports.restart:
            path.unlink(missing_ok=True)
        with Journal(path, plan.described(pictures)) as journal:
            robustness_report.remove(out)  # If this run ends early, no reports of an earlier one remain.
            seconds = await _run(Check(client, plan, journal), dataset, setting.concurrency)
            measured = asked.answered(journal)
            figures = all_figures(measured, setting.limits, setting.baseline)
            effort = results.RunStats(len(dataset), journal.found, journal.rows, seconds)
            cases = await robustness_report.worst(Check(client, plan, journal), dataset, setting.reports.worst)
    comparison = figures.comparison
    changed = robustness_comparison.stories(comparison, dataset, setting.reports.worst) if comparison else []
    origin = robustness_report.origin(plan, setting.server)
    shown = robustness_report.Shown(cases, changed)
    return robustness_report.write(out, measured, figures, effort, shown, origin)


def _opened(data: Path | None, folders: list[Path] | None) -> Dataset:
    """The set of --data. Raises ValueError without one."""
    if folders:
        raise ValueError(f"{folders[0]}: folders are for --merge; --data names the pictures")
    if data is None:
        raise ValueError("--data is missing: a folder of class folders, a folder with labels.csv or an .npz")
    return open_dataset(data)


def _chosen(pictures: Dataset, source: Source, seed: int) -> tuple[Dataset, Whole]:
    """The pictures to measure, each once, and the set that they are or are a shard of."""
    drawn = pictures.take(source.limit, seed)
    dataset = replace(drawn, examples=tuple({example.id: example for example in drawn}.values()))
    return shards.cut(dataset, source.shard) if source.shard else dataset, Whole.of(dataset)


async def _run(check: Check, dataset: Dataset, concurrency: int) -> float:
    """Ask everything that is open, with a progress bar; returns seconds."""
    begin = time.perf_counter()
    what, count = f"robustness of {check.plan.model}, requests", len(dataset) * (1 + len(check.plan.trials))
    with output.counter(what, count) as report:
        await replace(check, report=report).run(dataset, concurrency)
    return time.perf_counter() - begin
