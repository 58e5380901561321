"""Evaluation: how good samples are, in numbers that say what they were made with, and of how many images.

    samples -> Extractor -> Features -> metrics -> Measurement (value, interval, floor)

Metrics are pure functions of tensors or of sums that can be merged (`moments`, `distances`, `neighbours`,
`classes`, `memorisation`). `Reference` holds the real images and applies all of them; `evaluate_run` makes the
report of a run with it, and `compare_runs` a table of samplers. docs/evaluation.md says what each metric sees and
what it is blind to.
"""

from ctdiff.evaluation.budgets import most_steps, network_calls, step_costs
from ctdiff.evaluation.classes import ClassTotals, agreement, histogram_divergence, inception_score
from ctdiff.evaluation.digits import mnist_cnn
from ctdiff.evaluation.distances import KernelReference, frechet_distance, kernel_distance, kernel_subsets
from ctdiff.evaluation.drawing import Drawn, draw, likelihood_times, run_bits_per_dim
from ctdiff.evaluation.features import Extractor, Features, GreyImages, grey_levels, module_extractor, weights_hash
from ctdiff.evaluation.inception_v3 import MissingWeights, inception
from ctdiff.evaluation.judges import EXTRACTORS, Judge, build_extractor, run_splits
from ctdiff.evaluation.measurement import Measurement, likelihood, measured
from ctdiff.evaluation.memorisation import nearer_to_train, nearest, share_at_equal_sizes
from ctdiff.evaluation.moments import Moments, Statistics, load_statistics
from ctdiff.evaluation.neighbours import NeighbourDistances, Neighbours, precision_recall
from ctdiff.evaluation.page import comparison_page
from ctdiff.evaluation.plots import checkpoint_curve, comparison_plot
from ctdiff.evaluation.records import Parts
from ctdiff.evaluation.reference import Reference, uniform_noise
from ctdiff.evaluation.report import evaluate_run, evaluation_file, repeat
from ctdiff.evaluation.study import compare_runs
from ctdiff.evaluation.tables import comparison_table, evaluation_table, with_interval

__all__ = [
    "EXTRACTORS",
    "ClassTotals",
    "Drawn",
    "Extractor",
    "Features",
    "GreyImages",
    "Judge",
    "KernelReference",
    "Measurement",
    "MissingWeights",
    "Moments",
    "NeighbourDistances",
    "Neighbours",
    "Parts",
    "Reference",
    "Statistics",
    "agreement",
    "build_extractor",
    "checkpoint_curve",
    "compare_runs",
    "comparison_page",
    "comparison_plot",
    "comparison_table",
    "draw",
    "evaluate_run",
    "evaluation_file",
    "evaluation_table",
    "frechet_distance",
    "grey_levels",
    "histogram_divergence",
    "inception",
    "inception_score",
    "kernel_distance",
    "kernel_subsets",
    "likelihood",
    "likelihood_times",
    "load_statistics",
    "measured",
    "mnist_cnn",
    "module_extractor",
    "most_steps",
    "nearer_to_train",
    "nearest",
    "network_calls",
    "precision_recall",
    "repeat",
    "run_bits_per_dim",
    "run_splits",
    "share_at_equal_sizes",
    "step_costs",
    "uniform_noise",
    "weights_hash",
    "with_interval",
]
