"""The test of draws against a law."""

from __future__ import annotations

import numpy as np
import scipy.stats
from torch import Tensor


def chi_square(draws: Tensor, law: Tensor) -> float:
    """The p-value of integer draws under a law; improbable values are pooled."""
    expected = law.double().numpy() * draws.numel()
    observed = np.bincount(draws.flatten().numpy(), minlength=len(expected))
    assert len(observed) == len(expected)
    assert observed[law.numpy() == 0].sum() == 0
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:
        assert observed[-1] < 30
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) < 2:
        return 1.0
    return float(scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)
