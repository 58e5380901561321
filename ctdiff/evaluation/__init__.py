"""Evaluation: the report of one run.

`evaluate_run` draws samples, compares them with real images, and measures the bits per dimension of held-out images. The
report also contains everything that is needed to repeat the numbers.
"""

from ctdiff.evaluation.drawing import Samples, draw, likelihood_times, run_bits_per_dim
from ctdiff.evaluation.evaluator import EXTRACTORS, Evaluator, build_extractor, run_splits
from ctdiff.evaluation.plots import checkpoint_curve
from ctdiff.evaluation.report import evaluate_run, evaluation_file, repeat
from ctdiff.evaluation.report_format import Report
from ctdiff.evaluation.tables import evaluation_table, with_interval
from ctdiff.records import Parts, read_record

__all__ = [
    "EXTRACTORS",
    "Evaluator",
    "Parts",
    "Report",
    "Samples",
    "build_extractor",
    "checkpoint_curve",
    "draw",
    "evaluate_run",
    "evaluation_file",
    "evaluation_table",
    "likelihood_times",
    "read_record",
    "repeat",
    "run_bits_per_dim",
    "run_splits",
    "with_interval",
]
