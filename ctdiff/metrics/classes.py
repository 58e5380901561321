"""Metrics from a classifier of the samples: the Inception score, the histogram of classes, agreement with labels.

p_n are the classifier's probabilities of the K classes for sample n, and p is their mean. h and h_real are the histograms of
the most probable classes of the samples and of the real images.

    inception score   exp( mean_n KL(p_n || p) ), between 1 and K: large if each p_n is confident and the classes vary
    histogram KL      KL(h || h_real): large if a class is missing or too frequent
    agreement         the fraction of samples of given classes whose most probable class is their label

A confident classifier does not show that an image is realistic: a classifier of digits is confident on most noise images.
Always read these metrics together with a distance.

References:
    Improved techniques for training GANs (Salimans et al., 2016) | https://arxiv.org/abs/1606.03498
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# torchmetrics and torch-fidelity split the samples into 10 parts and have no sums that can be merged; so this is our own code.
__all__ = ["ClassTotals", "agreement", "histogram_divergence", "inception_score"]


@dataclass(frozen=True, eq=False)
class ClassTotals:
    """Sums over samples, from which the score and the histogram are computed.

    Arguments:
        count: N, the number of samples.
        probabilities: sum_n p_n, (K,) float64.
        negentropy: sum_n sum_k p_nk log p_nk.
        histogram: the number of samples for which each class is the most probable, (K,) int64.
    """

    count: int
    probabilities: Tensor
    negentropy: float
    histogram: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> ClassTotals:
        """Compute the totals of logits (N, K), N at least 1.

        Raises:
            ValueError: the logits have another shape.
        """
        if logits.ndim != 2 or len(logits) == 0:
            raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (N, K) with N at least 1")
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        negentropy = float(torch.where(p > 0, p * log_p, 0.0).sum())
        return cls(len(logits), p.sum(0), negentropy, logits.argmax(1).bincount(minlength=logits.shape[1]))

    def merge(self, other: ClassTotals) -> ClassTotals:
        """Return the totals of both sets together.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if self.histogram.shape != other.histogram.shape:
            raise ValueError(f"{len(other.histogram)} classes, expected {len(self.histogram)}, as in the other set")
        return ClassTotals(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.negentropy + other.negentropy,
            self.histogram + other.histogram,
        )


def inception_score(totals: ClassTotals) -> float:
    """Return the Inception score `exp( mean_n KL(p_n || p) )` of all samples together."""
    mean = totals.probabilities / totals.count
    return math.exp(max(0.0, totals.negentropy / totals.count - float(torch.xlogy(mean, mean).sum())))


def histogram_divergence(real: ClassTotals, fake: ClassTotals) -> float:
    """Return `KL(h || h_real)` in nats. It is infinite if the samples have a class that the real images do not have.

    Raises:
        ValueError: the numbers of classes differ.
    """
    if real.histogram.shape != fake.histogram.shape:
        raise ValueError(f"{len(fake.histogram)} classes against {len(real.histogram)}, expected the same classifier")
    h, h_real = fake.histogram.double() / fake.count, real.histogram.double() / real.count
    return float((torch.xlogy(h, h) - torch.xlogy(h, h_real)).sum())


def agreement(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the most probable class of each sample is its label: (N, K), (N,) -> (N,) bool. Its mean is the metric.

    Raises:
        ValueError: the shapes differ, or a label is not one of the K classes.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(logits)},): one for each sample")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels have the values {int(labels.min())} .. {int(labels.max())}, expected 0 .. {logits.shape[1] - 1}"
        )
    return logits.argmax(1) == labels
