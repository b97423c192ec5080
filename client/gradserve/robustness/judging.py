"""All figures of a finished run: those of all pictures, of each group, and beside a baseline."""

from dataclasses import replace

from gradserve.robustness.comparison import compared
from gradserve.robustness.curves import curves
from gradserve.robustness.figures import Figures, counted
from gradserve.robustness.groups import grouped
from gradserve.robustness.record import Record
from gradserve.robustness.thresholds import Limits


def all_figures(measured: Record, limits: Limits, baseline: Record | None) -> Figures:
    """Everything that is counted, beside the baseline's if there is one."""
    figures = counted(measured.plan, measured.pictures, measured.outcomes, limits)
    figures = replace(figures, curves=curves(measured))
    if measured.column:
        figures = grouped(figures, measured, limits.group_robust)
    return figures.beside(compared(measured, baseline, limits.no_worse)) if baseline else figures
