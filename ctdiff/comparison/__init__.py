"""Comparison: several runs and samplers at equal numbers of network calls, as a table, a plot and a page."""

from ctdiff.comparison.comparison_format import Comparison
from ctdiff.comparison.nfe import count_nfe, most_steps, nfe_of_steps
from ctdiff.comparison.page import comparison_page
from ctdiff.comparison.plot import comparison_plot
from ctdiff.comparison.proven import proven_table
from ctdiff.comparison.study import compare_runs
from ctdiff.comparison.tables import comparison_csv, comparison_table

__all__ = [
    "Comparison",
    "compare_runs",
    "comparison_csv",
    "comparison_page",
    "comparison_plot",
    "comparison_table",
    "count_nfe",
    "most_steps",
    "nfe_of_steps",
    "proven_table",
]
