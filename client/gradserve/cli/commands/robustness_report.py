"""What `gradserve robustness` found: its files, a table for the terminal, a page with the worst cases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from gradserve.cli import command_lines, output
from gradserve.cli.commands import robustness_certified, robustness_comparison, robustness_notes
from gradserve.cli.commands.robustness_rows import accuracy_rows
from gradserve.datasets import Dataset, Example
from gradserve.errors import GradserveError
from gradserve.results.attack import Attack, Judgement
from gradserve.results.common import Score
from gradserve.robustness import junit, page, reading, results
from gradserve.robustness.curves import chart
from gradserve.robustness.figures import CorruptionResult, Figures
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import CLEAN, Plan, Trial
from gradserve.robustness.record import Record
from gradserve.robustness.results import RunStats
from gradserve.robustness.run import Check
from gradserve.robustness.words import meaning

FILES = (reading.NAME, "junit.xml", "report.html")
_MARKS = {"passed": ("holds", "green"), "failed": ("FAILS", "bold red"), "not_measured": ("NOT MEASURED", "bold red")}
_LEADS = {
    "passed": "Passed: every threshold holds.",
    "failed": "Failed: not every threshold holds.",
    "not_measured": "Not measured: the verdict depends on the pictures below that were not measured.",
}


@dataclass(frozen=True)
class Case:
    """A picture that fell, with the answer to its trial made once more, which has the pictures to show."""

    example: Example
    trial: Trial
    answer: Attack


async def worst(check: Check, dataset: Dataset, count: int) -> list[Case]:
    """The `count` worst pictures under attacks, and as many under corruptions.

    Worst are those that fell to the smallest budget or severity, and of these the ones with the lowest margin. Each
    is attacked once more, so that a run need not keep its pictures. The same seed gives almost the same picture: some
    values may differ by a few levels, since other rows share its passes. So its new certificate is shown with it.
    """
    examples = {example.id: example for example in dataset}
    cases = []
    for natural in (False, True):
        for outcome, trial in _fallen(check, natural)[:count]:
            example = examples[outcome.id]
            loss = {"loss": outcome.loss} if outcome.loss else {}
            try:
                cases.append(Case(example, trial, await check.answer(example, trial, perturbation=True, **loss)))
            except GradserveError as error:
                output.err().print(f"warning: no picture of {example.id}, {trial}: {error}", style="yellow")
    return cases


def _fallen(check: Check, natural: bool) -> list[tuple[Outcome, Trial]]:
    trials = {
        each.key: each
        for each in check.plan.trials
        if (each.natural if natural else each.hostile) and each.model == check.plan.model
    }
    right = {each.id for each in check.journal if each.trial == CLEAN and each.state == "right"}
    fallen = [each for each in check.journal if each.trial in trials and each.state == "wrong" and each.id in right]
    fallen.sort(key=lambda each: (Fraction(trials[each.trial].level), each.margin or 0.0, each.id))
    first = {each.id: each for each in reversed(fallen)}  # Each picture once, with the weakest trial that it fell to.
    return [(each, trials[each.trial]) for each in fallen if first[each.id] is each]


def remove(out: Path) -> None:
    """Remove the files of an earlier run."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Shown:
    """What the page shows of pictures: the worst cases, and those that changed sides since the baseline."""

    cases: Sequence[Case] = ()
    changed: Sequence[page.Story] = ()


def write(
    out: Path, measured: Record, figures: Figures, effort: RunStats, shown: Shown, origin: Mapping[str, str]
) -> dict[str, Any]:
    """Write the files and say what was found; the document of results.json."""
    plan = measured.plan
    document = results.document(measured, figures, effort)
    results.write(out / reading.NAME, document)
    junit.write(out / "junit.xml", figures, plan.model, effort.seconds)
    compared = figures.comparison
    changed = [robustness_comparison.section(compared, measured.pictures, shown.changed)] if compared else []
    text = html(plan, figures, effort, shown.cases, origin, changed)
    (out / "report.html").write_text(text, encoding="utf-8")
    show(plan, figures, effort, out)
    return document


def show(plan: Plan, figures: Figures, effort: RunStats, out: Path) -> None:
    """Print the figures on standard error, so that standard output stays free for --json."""
    console = output.err()
    table = Table(title=f"robustness of {plan.model}", title_justify="left", box=None)
    for column, justify in (("", "left"), ("accuracy", "right"), ("95 % interval", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in accuracy_rows(figures):
        table.add_row(row.name, row.accuracy, row.interval, row.remark)
    for name, group in figures.groups.items():
        for row in accuracy_rows(group):
            table.add_row(f"{figures.column} {name}: {row.name}", row.accuracy, row.interval, row.remark)
    console.print(table)
    console.print(meaning(figures))
    certified = robustness_certified.lines(figures)
    for line in [*_corruption_lines(figures), *certified, *robustness_comparison.lines(figures.comparison)]:
        console.print(line)
    for line in robustness_notes.lines(figures):
        console.print(line, style="yellow")
    console.print("; ".join(_effort(effort)))
    for threshold in figures.thresholds:
        mark, style = _MARKS[threshold.verdict]
        console.print(f"{mark}: {threshold}", style=style)
    if not figures.thresholds:
        kind = "robust-accuracy" if figures.attacks else "certified-accuracy" if figures.certified else "clean-accuracy"
        console.print(f"no threshold was given, so no accuracy can fail; --min-{kind} sets one")
    console.print(f"wrote results.json, junit.xml and report.html to {out}")


def _corruption_lines(figures: Figures) -> Iterator[str]:
    for each in figures.corruptions:
        errors = " ".join(f"{error:.1%}" for error in each.errors.values())
        relative = "" if each.relative is None else f", CE {each.relative:.1%}"
        yield f"{each.kind}: error {each.mean:.1%} ({errors}){relative}"
    if figures.corruptions:
        yield _corruption_summary(figures)


def origin(plan: Plan, server: str) -> dict[str, str]:
    """Where a report comes from: date, server, weights, and the command that makes it again."""
    weights = {f"weights of {name}": digest for name, digest in plan.digests.items()}
    command = command_lines.repeat(plan.model, server)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": date, "server": server, **weights, **({"repeat with": command} if command else {})}


def html(
    plan: Plan,
    figures: Figures,
    effort: RunStats,
    cases: Sequence[Case],
    origin: Mapping[str, str],
    more: Sequence[page.Section] = (),
) -> str:
    """The page: verdict and origin, figures, more sections, then the worst cases."""
    rows = [[*row.cells(), row.remark] for row in accuracy_rows(figures)]
    accuracy = page.Table(["", "accuracy", "95 % interval (Wilson)", "pictures", ""], rows)
    facts = [f"head {figures.head}", meaning(figures), f"seed {plan.seed}", *_effort(effort), *_counts(figures)]
    decided = figures.thresholds or figures.verdict != "passed"
    verdict = page.Verdict(_LEADS[figures.verdict], figures.verdict) if decided else None
    marks = [[str(each), _MARKS[each.verdict][0]] for each in figures.thresholds]
    checks = page.Table(["threshold", ""], marks, [each.verdict for each in figures.thresholds])
    tables = [accuracy, *([checks] if figures.thresholds else [])]
    sections = [page.Section("Accuracy", "", [], facts, tables), *robustness_notes.sections(figures)]
    if figures.corruptions:
        sections.append(_corruption_section(figures))
    sections += [*_curves(figures), *robustness_certified.sections(figures), *_groups(figures), *more]
    for natural, title in ((False, "Worst cases under attack"), (True, "Worst cases under corruption")):
        if stories := [_story(case, plan.head) for case in cases if case.trial.natural == natural]:
            sections.append(page.Section(title, "Pictures that fell to the least, and most clearly.", stories))
    if figures.unreadable or figures.failed:
        sections.append(robustness_notes.problems(figures))
    lead = "Measured through the service, every answer with its certificate."
    return page.html(f"Robustness of {plan.model}", lead, sections, verdict=verdict, origin=origin)


def _curves(figures: Figures) -> list[page.Section]:
    """Accuracy over budget, where an attack has several budgets."""
    if not figures.curves:
        return []
    lead = "What stands a budget and all smaller ones, with its 95 % interval (Wilson)."
    return [page.Section("Accuracy over budget", lead, [], charts=[chart(figures.curves)])]


def _groups(figures: Figures) -> list[page.Section]:
    """The figures of each group."""
    if not figures.column:
        return []
    rows = [[name, *row.cells()] for name, group in figures.groups.items() for row in accuracy_rows(group)]
    for name, group in figures.groups.items():
        for each in group.corruptions:
            for severity, error in each.errors.items():
                low, high = each.wrong(severity).interval
                count = f"{each.wrong(severity).count} of {each.of}"
                rows.append([name, f"error, {each.kind} {severity}", error, f"{low:.1%} to {high:.1%}", count])
    table = page.Table([figures.column, "", "share", "95 % interval (Wilson)", "pictures"], rows)
    return [page.Section(f"By {figures.column}", "", [], (), [table])]


def _corruption_section(figures: Figures) -> page.Section:
    levels = list(figures.corruptions[0].errors)
    columns = ["corruption", *(f"severity {level}" for level in levels), "mean error", "CE"]
    rows = [_corruption_row(each) for each in figures.corruptions]
    return page.Section("Corruptions", _corruption_summary(figures), [], (), [page.Table(columns, rows)])


def _corruption_row(each: CorruptionResult) -> list[str | float]:
    relative = "" if each.relative is None else f"{each.relative:.1%}"
    return [each.kind, *(f"{error:.1%}" for error in each.errors.values()), each.mean, relative]


def _corruption_summary(figures: Figures) -> str:
    mean = sum(each.mean for each in figures.corruptions) / len(figures.corruptions)
    mce = "" if figures.mce is None else f", mCE {figures.mce:.1%} of the reference's"
    return f"mean corruption error {mean:.1%}{mce}"


def _story(case: Case, head: str) -> page.Story:
    example, certificate = case.example, case.answer.certificate
    (before, before_name), (after, after_name) = (
        _deciding_class(each, head) for each in (certificate.before, certificate.after)
    )
    size = f"largest change {255 * certificate.linf:.3g}/255"
    facts = [f"margin {certificate.after.margin:.2f}", f"{certificate.l0} pixels changed", size]
    if certificate.first_success is not None and not case.trial.natural:
        facts.append(f"fell at step {certificate.first_success}")
    picture = [case.answer.image()]
    figures = [page.Figure(str(case.trial), picture, after_name, facts, certificate.warnings)]
    if case.answer.perturbation:
        magnified = f"x {case.answer.magnification:.3g}"
        figures.append(page.Figure("perturbation", [case.answer.perturbation_image()], magnified))
    bars = [(f"{before_name} before", before.probability), (f"{after_name} after", after.probability)]
    title = f"{example.id}: {example.class_name}"
    return page.Story(title, Image.fromarray(example.pixels()), bars, figures=figures)


def _deciding_class(judgement: Judgement, head: str) -> tuple[Score, str]:
    """The class that decides, and its text: the predicted class, or with independent labels the picture's own."""
    if head != "multilabel":
        return judgement.predicted, judgement.predicted.class_name
    own = judgement.label
    return own, f"{own.class_name} {'present' if judgement.margin > 0 else 'absent'}"


def _counts(figures: Figures) -> list[str]:
    return [f"{len(figures.unreadable)} unreadable", f"{len(figures.failed)} failed"]


def _effort(effort: RunStats) -> list[str]:
    journal = f"{effort.known} answers from the journal"
    measured = f"{effort.rows} rows in {effort.seconds:.1f} s ({effort.rows_per_second:.0f} rows/s)"
    return [f"{effort.pictures} pictures", *([journal] if effort.known else []), *([measured] if effort.rows else [])]
