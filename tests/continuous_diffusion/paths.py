"""Processes that do not preserve the variance, the bridge in many digits, and the expected bound of an exact denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import torch
from torch import Tensor

from continuous_diffusion import GaussianMixture, GaussianProcess, MixtureDenoiser, Schedule
from continuous_diffusion.divergence import reconstruction_error, step_divergence
from continuous_diffusion.likelihood import prior_divergence

ZERO = torch.zeros(1, 1, dtype=torch.float64)


@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """`alpha = 1` and `sigma` from 0.01 to 50 in equal ratios."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), 0.01 * 5000**t


def exact_step(marginal: Callable[[mpmath.mpf], tuple[mpmath.mpf, mpmath.mpf]], s: float, t: float) -> tuple[float, ...]:
    """(beta, c_0, c_t, var) by their definition: q(x_t | x_s) from the two marginals, q(x_s | x_t, x_0) by Bayes' rule."""
    with mpmath.workdps(80):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = marginal(mpmath.mpf(s)), marginal(mpmath.mpf(t))
        ratio = alpha_t / alpha_s
        beta = sigma_t**2 - ratio**2 * sigma_s**2
        if sigma_s == 0:
            return float(beta), float(alpha_s), 0.0, 0.0
        var = 1 / (1 / sigma_s**2 + ratio**2 / beta)
        return float(beta), float(var * alpha_s / sigma_s**2), float(var * ratio / beta), float(var)


def posterior_variance(mixture: GaussianMixture, process: GaussianProcess, t: Tensor) -> Tensor:
    """E[Var(x_0 | x_t)] of a mixture on the line, by quadrature over x_t: the shape of t."""
    denoiser, results = MixtureDenoiser(process, mixture), []
    for time in t:
        alpha, sigma = process.schedule(time)
        end = 8 * torch.hypot(alpha, sigma).item()
        x_t = torch.linspace(-end, end, 4001, dtype=torch.float64)[:, None]
        density = denoiser.log_prob(x_t, time).exp() * end / 2000
        results.append((density * denoiser(x_t, time).var[:, 0]).sum())
    return torch.stack(results)


def expected_bound(
    mixture: GaussianMixture, process: GaussianProcess, times: list[float], interpolation: float | Callable[..., Tensor]
) -> float:
    """The expected bound of the exact denoiser in nats, each error replaced by its root mean square."""
    clock = torch.tensor(times, dtype=torch.float64)
    t, s = clock[:-1], clock[1:]
    spread = posterior_variance(mixture, process, clock)
    error = (process.schedule.log_snr(t).exp() * spread[:-1]).sqrt()[:, None]  # of eps
    v = interpolation(process, s, t, spread[:-1])[:, None] if callable(interpolation) else interpolation
    diffusion = step_divergence(process, error, v, s, t).sum()
    # A posterior with the exact mean and this variance pays, on average, 1/2 log(2 pi e var).
    reconstruction = reconstruction_error(process, spread[-1:, None].sqrt(), ZERO, spread[-1:, None].log()).sum()
    second_moment = (mixture.weights @ (mixture.means.square() + mixture.variances)).reshape(1, 1)
    return (diffusion + reconstruction + prior_divergence(process, second_moment.sqrt(), times[0]).sum()).item()
