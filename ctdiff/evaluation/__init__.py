"""Evaluation: how good samples are, in numbers that say what they were made with, and of how many images.

    samples -> Extractor -> Features -> metrics -> Measurement (value, interval, floor)

Metrics are pure functions of tensors or of sums that can be merged (`moments`, `distances`, `neighbours`,
`classes`, `memorisation`). `Reference` holds the real images and applies all of them; docs/evaluation.md says
what each metric sees and what it is blind to.
"""

from ctdiff.evaluation.classes import ClassTotals, agreement, histogram_divergence, inception_score
from ctdiff.evaluation.digits import mnist_cnn
from ctdiff.evaluation.distances import KernelReference, frechet_distance, kernel_distance, kernel_subsets
from ctdiff.evaluation.features import Extractor, Features, GreyImages, grey_levels, module_extractor, weights_hash
from ctdiff.evaluation.inception_v3 import MissingWeights, inception
from ctdiff.evaluation.measurement import Measurement, likelihood, measured
from ctdiff.evaluation.memorisation import nearer_to_train, nearest, share_at_equal_sizes
from ctdiff.evaluation.moments import Moments, Statistics, load_statistics
from ctdiff.evaluation.neighbours import NeighbourDistances, Neighbours, precision_recall
from ctdiff.evaluation.reference import Reference, uniform_noise

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
    "weights_hash",
]
