"""Noise schedules of the Gaussian engine: (alpha_t, sigma_t) of `x_t = alpha_t x_0 + sigma_t eps`.

A schedule needs one method, `__call__`, which returns (alpha_t, sigma_t). Their ratio gives the log signal-to-noise
ratio, which falls with t:

    logSNR(t) = log(alpha_t^2 / sigma_t^2)

`VariancePreserving` is the most common kind, with `alpha_t^2 + sigma_t^2 = 1`. A subclass implements `log_abar`, where
`abar = alpha_t^2`.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

import diffusion_core
from diffusion_core.values import NOTHING, ends, number

__all__ = ["Schedule", "VariancePreserving"]

CLEAN = 0.1
"""The largest sigma at t_min with which the last step, which adds no noise, still gives a good sample."""


class Schedule(diffusion_core.Schedule):
    """A noise schedule (alpha_t, sigma_t). As t rises, alpha_t never rises, sigma_t never falls, and the log-SNR falls.

    alpha_t and sigma_t are at least 0.
    """

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha_t, sigma_t), each in the shape and dtype of t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Return 2 log(alpha_t / sigma_t), in the shape and dtype of t: inf if sigma_t = 0, -inf if alpha_t = 0."""
        alpha, sigma = self(t.double())
        return (2 * (alpha.log() - sigma.log())).to(t.dtype)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """Return `-d logSNR / dt` in 1 / unit of t, which is positive, as float64 in the shape of t."""
        time = t.detach().double().reshape(-1)
        rate: Tensor = torch.func.grad(lambda times: -self.log_snr(times).sum())(time)
        return rate.reshape(t.shape)

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the time of a log-SNR, or 0 or 1 if the schedule does not have it, as float64 in the shape of log_snr."""
        low, high = torch.zeros_like(log_snr, dtype=torch.float64), torch.ones_like(log_snr, dtype=torch.float64)
        for _ in range(64):  # bisection: the bracket is narrower than the spacing of doubles near 1
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return (low + high) / 2

    def check_clean_end(self, t_min: float) -> None:
        """Check that x_t has almost no noise at the last time of sampling.

        Raises:
            ValueError: sigma at t_min is above `CLEAN`, 0.1.
        """
        _, sigma = ends(self(torch.tensor(t_min, dtype=torch.float64, device="cpu"))[1], NOTHING)
        if sigma > CLEAN:
            raise ValueError(
                f"{type(self).__name__} has sigma = {sigma:.3g} at t_min = {t_min}, expected at most {CLEAN} at "
                "the end of sampling: use a smaller t_min, or a BoundedLogSNRGrid for a schedule that is made for training"
            )


class VariancePreserving(Schedule):
    """A schedule with `alpha_t^2 + sigma_t^2 = 1`. If the data have variance 1, x_t has variance 1 too.

    sigma is computed from `sigma^2 = -expm1(log abar)`, which keeps all digits when sigma is small.
    """

    @abstractmethod
    def log_abar(self, t: Tensor) -> Tensor:
        """Return log alpha_t^2 as float64 in the shape of t. It is about 0 at t = 0 and decreases with t."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha_t, sigma_t), each in the shape and dtype of t."""
        log_abar = self.log_abar(t)
        if (value := number(log_abar)) is not None:  # a single time, as in samplers: Python's numbers are faster
            alpha, sigma = math.exp(value / 2), math.sqrt(-math.expm1(value))
            return torch.tensor(alpha, dtype=t.dtype, device=t.device), torch.tensor(sigma, dtype=t.dtype, device=t.device)
        return (log_abar / 2).exp().to(t.dtype), (-torch.expm1(log_abar)).sqrt().to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return 2 log(alpha_t / sigma_t), in the shape and dtype of t: inf if sigma_t = 0."""
        log_abar = self.log_abar(t)
        return (log_abar - (-torch.expm1(log_abar)).log()).to(t.dtype)
