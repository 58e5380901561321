"""Distances and weights against their formulas, and the min-SNR weights of the three targets against one another."""

from __future__ import annotations

import math

import pytest
import torch

from continuous_diffusion import AbsoluteError, MinSNR, SmoothAbsoluteError, SquaredError, Unweighted

R = torch.tensor([-3.0, -0.5, 0.0, 0.2, 1.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("distance", "reference"),
    [
        (SquaredError(), torch.nn.functional.mse_loss),
        (AbsoluteError(), torch.nn.functional.l1_loss),
        (SmoothAbsoluteError(), torch.nn.functional.smooth_l1_loss),
        (SmoothAbsoluteError(0.3), lambda *a, **k: torch.nn.functional.smooth_l1_loss(*a, beta=0.3, **k)),
    ],
)
def test_distances_are_torch_losses(distance, reference):
    torch.testing.assert_close(distance(R), reference(R, torch.zeros_like(R), reduction="none"))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_published_for_each_target(gamma):
    snr = torch.logspace(-6, 6, 50, dtype=torch.float64)
    log_snr, weight = snr.log(), MinSNR(gamma)
    torch.testing.assert_close(weight(log_snr, log_snr), (gamma / snr).clamp(max=1))  # eps
    torch.testing.assert_close(weight(log_snr, 0 * log_snr), snr.clamp(max=gamma))  # x_0
    torch.testing.assert_close(weight(log_snr, (snr + 1).log()), snr.clamp(max=gamma) / (snr + 1))  # v


def test_clean_data_have_a_finite_weight():
    clean = torch.tensor(math.inf, dtype=torch.float64)
    assert [MinSNR()(clean, factor).item() for factor in (clean, 0 * R[2], clean)] == pytest.approx([0, 5, 0])
    assert Unweighted()(clean, clean) == 1


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="gamma = 0, expected a number above 0"):
        MinSNR(0)
    with pytest.raises(ValueError, match="beta = -1, expected a number above 0"):
        SmoothAbsoluteError(-1)
