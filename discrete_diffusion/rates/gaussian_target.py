"""Ordinal noise whose stationary law is a discretised Gaussian.

    pi_x = exp(-(x + 1 - S/2)^2 / (2 Q^2)) / Z     with the constant Z for which pi sums to 1
    R[x, y] = exp(-(|x - y| - 1)^2 / sigma_r^2)    for x < y with x + y < S, and for x > y with x + y >= S
    R[y, x] = R[x, y] pi_x / pi_y                  the opposite jump, by detailed balance

For each pair of states, the second line gives the rate of the jump towards the middle. The third line gives the rate of
the opposite jump. Jumps between near values are frequent, and jumps between distant values are rare. So the noise respects
the order of the grey levels.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

import math

import numpy as np

from diffusion_core.ranges import Positive, check_arguments
from discrete_diffusion.rates.base import NumStates
from discrete_diffusion.rates.dense import DenseRates

__all__ = ["GaussianTargetRates"]


class GaussianTargetRates(DenseRates):
    """Noise for ordered values: most jumps are short, and the stationary law is a discretised Gaussian.

    The rates are reversible: they fulfil detailed balance with the stationary law.

    Arguments:
        num_states: S, the number of values of the data, odd or even.
        sigma_r: the typical length of a jump. The distance of two neighbouring values is 1.
        Q: the standard deviation of the stationary law. The distance of two neighbouring values is 1. With a large Q this law
            is close to uniform.
        scale: a factor for the rates of all jumps.

    Raises:
        ValueError: Q is so small that the stationary law underflows at the smallest or the largest value.
    """

    ordered = True
    evidence_floor = 0.1

    def __init__(self, num_states: NumStates, sigma_r: Positive = 6.0, Q: Positive = 512.0, scale: Positive = 1.0) -> None:
        check_arguments(GaussianTargetRates, locals())
        x = np.arange(num_states)
        log_pi = -((x + 1 - num_states / 2) ** 2) / (2 * Q**2)
        if log_pi.min() - log_pi.max() < -300:
            raise ValueError(f"Q = {Q}, expected at least {num_states / 2 / math.sqrt(600):.3g} for num_states = {num_states}")
        y = x[:, None]
        inward = np.where(y < x, y + x < num_states, y + x >= num_states)  # of the jump y -> x
        log_rates = -((np.abs(x - y) - 1) ** 2) / sigma_r**2 + np.where(inward, 0.0, log_pi - log_pi[:, None])
        rates = scale * np.exp(log_rates)
        np.fill_diagonal(rates, 0.0)
        pi = np.exp(log_pi - log_pi.max())
        super().__init__(rates - np.diag(rates.sum(1)), pi / pi.sum())
        self.sigma_r, self.Q, self.scale = sigma_r, Q, scale
