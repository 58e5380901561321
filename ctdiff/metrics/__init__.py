"""Metrics: pure functions of tensors, and of sums that can be merged between processes.

    samples -> Extractor -> Features -> metrics -> Measurement (value, interval, floor)

`Reference` has the real images and applies all metrics. docs/evaluation.md explains what each metric measures and what it
does not detect.
"""

from ctdiff.metrics.classes import ClassTotals, agreement, histogram_divergence, inception_score
from ctdiff.metrics.digits import mnist_cnn
from ctdiff.metrics.distances import KernelReference, frechet_distance, kernel_distance, kernel_subsets
from ctdiff.metrics.features import Extractor, Features, GreyImages, grey_levels, module_extractor
from ctdiff.metrics.inception_v3 import MissingWeights, inception
from ctdiff.metrics.measurement import Measurement, likelihood, measured
from ctdiff.metrics.memorisation import nearer_to_train, nearest, share_at_equal_sizes
from ctdiff.metrics.moments import Moments, Statistics, load_statistics
from ctdiff.metrics.neighbours import NeighbourDistances, Neighbours, precision_recall
from ctdiff.metrics.reference import Reference, uniform_noise

__all__ = [
    "ClassTotals",
    "Extractor",
    "Features",
    "GreyImages",
    "KernelReference",
    "Measurement",
    "MissingWeights",
    "Moments",
    "NeighbourDistances",
    "Neighbours",
    "Reference",
    "Statistics",
    "agreement",
    "frechet_distance",
    "grey_levels",
    "histogram_divergence",
    "inception",
    "inception_score",
    "kernel_distance",
    "kernel_subsets",
    "likelihood",
    "load_statistics",
    "measured",
    "mnist_cnn",
    "module_extractor",
    "nearer_to_train",
    "nearest",
    "precision_recall",
    "share_at_equal_sizes",
    "uniform_noise",
]
