"""What a classifier says of samples: the Inception score, the histogram of classes, agreement with labels.

With p_n the classifier's probabilities of sample n and p their mean,

    inception score   exp( mean_n KL(p_n || p) ), between 1 and K: confident one by one, varied together
    histogram KL      KL(h || h_real) of the histograms of most probable classes: a class that is missing, or too frequent
    agreement         the share of conditional samples whose most probable class is the label they were drawn for

Confidence says nothing about being an image of the kind: a classifier of digits is sure of most noise.
Never read these without a distance beside them.

References:
    Improved techniques for training GANs (Salimans et al., 2016) | https://arxiv.org/abs/1606.03498
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ClassTotals", "agreement", "histogram_divergence", "inception_score"]


@dataclass(frozen=True, eq=False)
class ClassTotals:
    """Sums over samples that the score and the histogram are made of.

    Arguments:
        count: N.
        probabilities: sum_n p_n, (K,) float64.
        negentropy: sum_n sum_k p_nk log p_nk.
        histogram: how often each class was the most probable, (K,) int64.
    """

    count: int
    probabilities: Tensor
    negentropy: float
    histogram: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> ClassTotals:
        """The totals of logits (N, K), N at least 1.

        Raises:
            ValueError: they have another shape.
        """
        if logits.ndim != 2 or len(logits) == 0:
            raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (N, K) with N at least 1")
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        negentropy = float(torch.where(p > 0, p * log_p, 0.0).sum())
        return cls(len(logits), p.sum(0), negentropy, logits.argmax(1).bincount(minlength=logits.shape[1]))

    def merge(self, other: ClassTotals) -> ClassTotals:
        """The totals of both sets together.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if self.histogram.shape != other.histogram.shape:
            raise ValueError(f"{len(other.histogram)} classes, expected {len(self.histogram)} as before")
        return ClassTotals(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.negentropy + other.negentropy,
            self.histogram + other.histogram,
        )


def inception_score(totals: ClassTotals) -> float:
    """exp( mean_n KL(p_n || p) ), of all samples at once."""
    mean = totals.probabilities / totals.count
    return math.exp(max(0.0, totals.negentropy / totals.count - float(torch.xlogy(mean, mean).sum())))


def histogram_divergence(real: ClassTotals, fake: ClassTotals) -> float:
    """KL(h || h_real) in nats; infinite where the fakes have a class that the real ones lack.

    Raises:
        ValueError: the numbers of classes differ.
    """
    if real.histogram.shape != fake.histogram.shape:
        raise ValueError(f"{len(fake.histogram)} classes against {len(real.histogram)}, expected the same classifier")
    h, h_real = fake.histogram.double() / fake.count, real.histogram.double() / real.count
    return float((torch.xlogy(h, h) - torch.xlogy(h, h_real)).sum())


def agreement(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each sample's most probable class is its label: (N, K), (N,) -> (N,) bool; its mean is the score.

    Raises:
        ValueError: shapes differ, or a label is none of the K classes.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(logits)},): one a sample")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(f"labels hold {int(labels.min())} .. {int(labels.max())}, expected 0 .. {logits.shape[1] - 1}")
    return logits.argmax(1) == labels
