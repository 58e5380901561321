"""The terms of the variational bound of a chain of Gaussian steps, for each dimension in nats.

The true step t -> s is the bridge q(x_s | x_t, x_0), with variance beta~ (see `process.py`). A step of the model is a
Gaussian. Its mean is the mean of the bridge with x0hat in place of x_0, and its variance is `V = beta^v beta~^(1 - v)`.
With r = log(beta / beta~) = log(sigma_t^2 / sigma_s^2),

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = 1/2 [ v r + e^{-v r} - 1 + e^{-v r} c_0^2 (x_0 - x0hat)^2 / beta~ ]
    c_0^2 (x_0 - x0hat)^2 / beta~ = (snr_s - snr_t) (x_0 - x0hat)^2 = (snr_s / snr_t - 1) (eps - epshat)^2

since `c_0^2 / beta~ = (alpha_s^2 / sigma_s^2) (1 - snr_t / snr_s) = snr_s - snr_t`. The form with eps has no cancellation at
small t. The last step, from t_1 to the data, has no bridge. Its term is -log p(x_0 | x_t1) with p = N(x0hat, V). For
real data p is the density of this Gaussian. For pixels p is its probability of the bin of x_0.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from continuous_diffusion.process import GaussianProcess, match

__all__ = ["reconstruction_error", "step_divergence"]


def step_divergence(process: GaussianProcess, error: Tensor, interpolation: float | Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Return `KL(q(x_s | x_t, x_0) || p(x_s | x_t))` of each dimension in nats: (B, *event).

    Arguments:
        process: the forward process.
        error: eps - epshat at time t (B, *event).
        interpolation: v, one number or (B, *event): 0 for the variance beta~, 1 for beta.
        s: the end of the step, () or (B,), above 0.
        t: the start of the step, in the shape of s, with alpha_t > 0.
    """
    schedule, s, t = process.schedule, s.double(), t.double()
    gain = torch.expm1(schedule.log_snr(s) - schedule.log_snr(t))  # snr_s / snr_t - 1
    log_ratio = 2 * (schedule(t)[1].log() - schedule(s)[1].log())  # log beta - log beta~
    excess = interpolation * match(log_ratio, error)  # log V - log beta~
    return (excess + torch.expm1(-excess) + torch.exp(-excess) * match(gain, error) * error.square()) / 2


def reconstruction_error(process: GaussianProcess, x_0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return `-log p(x_0 | x_t)` of each dimension in nats, under N(mean, var): (B, *event).

    Arguments:
        process: the forward process. If it has `pixels`, p is the probability of a bin, otherwise a density.
        x_0: clean data (B, *event).
        mean: x0hat (B, *event).
        log_var: the log of the variance, broadcastable to (B, *event).
    """
    if process.pixels is not None:
        return -process.pixels.log_mass(x_0, mean, log_var)
    return ((x_0 - mean).square() * (-log_var).exp() + log_var + math.log(2 * math.pi)) / 2
