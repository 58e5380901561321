"""Training losses of the Gaussian engine, one unreduced number an example.

A denoiser is trained by regression: noise the data, ask for what was there, measure the error.
Losses in eps, x_0 or v differ only by a weight in time (see `weights.py`); they are means over
dimensions, so that their size does not depend on the image's.

The variational bound of a chain t_max = t_0 > ... > t_N = t_min > 0 and the prior N(0, I) is

    -log p(x_0) <= KL(q_tmax(. | x_0) || prior) + sum_i E[KL(q(x_s | x_t, x_0) || p(x_s | x_t))] + E[-log p(x_0 | x_tmin)]
                   L_T                            L_t, the steps t -> s of the grid                L_0

`VLB` turns its sum into an integral over t, so that any time sampler estimates it: at a time t within a step it is
that step's term divided by the step's length. With infinitely many steps the terms become

    ELBO:    l_t(x_0) = 1/2 (-d logSNR/dt) |eps - epshat|^2

which does not depend on the variance of the steps. Both are sums over dimensions, in nats.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import diffusion_core
from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.divergence import reconstruction_error, step_divergence
from continuous_diffusion.process import GaussianProcess, check_real, match
from continuous_diffusion.weights import Distance, SquaredError, Unweighted, Weight
from diffusion_core import Generator, TimeGrid, TimeSampler, UniformGrid, as_randomness, readable

__all__ = ["ELBO", "VLB", "EpsilonLoss", "HybridLoss", "Loss", "Regression", "Truth", "VelocityLoss", "X0Loss"]


ROUNDING = 2e-7
"""More than the relative error of a time in single precision."""


class Truth(NamedTuple):
    """What a posterior is compared with: `x_t = alpha_t x_0 + sigma_t eps`.

    Arguments:
        process: the forward process.
        x_0: the clean data (B, *event).
        epsilon: the noise (B, *event).
        t: the time, () or (B,).
    """

    process: GaussianProcess
    x_0: Tensor
    epsilon: Tensor
    t: Tensor


class Loss(diffusion_core.Loss):
    """A loss of the Gaussian engine: subclasses compare a posterior with the truth; the noising is written here."""

    learns_variance: bool = False
    """Whether it teaches a variance, and so needs a denoiser that has one to learn."""

    def __call__(self, denoiser: Any, x_0: Tensor, t: Tensor, generator: Generator = None, **cond: Tensor) -> Tensor:
        """The loss of each example x_0 (B, *event) at its time t, () or (B,): (B,).

        Raises:
            ValueError: x_0 or t are not what the process takes, or the loss teaches a variance that
                the denoiser does not learn.
        """
        check_real(x_0)
        if self.learns_variance and not getattr(denoiser, "learns_variance", False):
            raise ValueError(
                f"{type(self).__name__} teaches a variance, which {type(denoiser).__name__} does not learn: "
                "expected a LearnedVarianceDenoiser"
            )
        t = self.visited(t)
        epsilon = as_randomness(generator).normal(x_0.shape, x_0.dtype, x_0.device)
        x_t = denoiser.process.perturb(x_0, epsilon, t)
        return self.compare(denoiser(x_t, t, **cond), Truth(denoiser.process, x_0, epsilon, t))

    def visited(self, t: Tensor) -> Tensor:
        """The time at which the data are noised for a given t: t itself, unless the loss knows but some times."""
        return t

    @abstractmethod
    def compare(self, posterior: Posterior, truth: Truth) -> Tensor:
        """The loss (B,) of a posterior given what it should have known."""


@dataclass(frozen=True)
class Regression(Loss):
    """A weighted distance to a target, `weight(t) mean_d distance(target^d - prediction^d)`; subclasses say to which.

    Arguments:
        distance: what an error costs.
        weight: how much each noise level counts.
    """

    distance: Distance = field(default_factory=SquaredError)
    weight: Weight = field(default_factory=Unweighted)

    @abstractmethod
    def residual(self, posterior: Posterior, truth: Truth) -> Tensor:
        """The target minus its prediction: (B, *event)."""

    @abstractmethod
    def log_factor(self, log_snr: Tensor) -> Tensor:
        """The log of the target's squared error over that of x_0: the shape of log_snr."""

    def compare(self, posterior: Posterior, truth: Truth) -> Tensor:
        log_snr = truth.process.schedule.log_snr(truth.t.double())
        cost = self.distance(self.residual(posterior, truth)).flatten(1).mean(1)
        return self.weight(log_snr, self.log_factor(log_snr)).to(cost.dtype) * cost


@dataclass(frozen=True)
class EpsilonLoss(Regression):
    """Regression to the noise eps; by default `mean_d (eps^d - epshat^d)^2`, the L_simple of DDPM.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def residual(self, posterior: Posterior, truth: Truth) -> Tensor:
        return truth.epsilon - posterior.epsilon

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return log_snr


@dataclass(frozen=True)
class X0Loss(Regression):
    """Regression to the clean data x_0; by default `mean_d (x_0^d - x0hat^d)^2`."""

    def residual(self, posterior: Posterior, truth: Truth) -> Tensor:
        return truth.x_0 - posterior.mean

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(log_snr)


@dataclass(frozen=True)
class VelocityLoss(Regression):
    """Regression to `v = alpha eps - sigma x_0`; by default `mean_d (v^d - vhat^d)^2`.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022) | https://arxiv.org/abs/2202.00512
    """

    def residual(self, posterior: Posterior, truth: Truth) -> Tensor:
        alpha, sigma = (match(value, truth.x_0) for value in truth.process.schedule(truth.t))
        return alpha * (truth.epsilon - posterior.epsilon) - sigma * (truth.x_0 - posterior.mean)

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return torch.nn.functional.softplus(log_snr)


@dataclass(frozen=True)
class ELBO(Loss):
    """The integrand `1/2 (-d logSNR/dt) |eps - epshat|^2` of the bound of infinitely many steps, in nats / unit of t.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def compare(self, posterior: Posterior, truth: Truth) -> Tensor:
        error = (truth.epsilon - posterior.epsilon).square().flatten(1).sum(1)
        return truth.process.schedule.log_snr_rate(truth.t).to(error.dtype) * error / 2


@dataclass(frozen=True)
class VLB(Loss):
    """The bound of the chain that walks a grid and ends on x_0, step by step, in nats / unit of t: L_vlb without L_T.

    At a time t it is the term of the step that t is in, divided by the step's length; for t up to t_min that
    is L_0. Its integral from 0 to t_max is the sum of all N + 1 terms: draw times from 0 on.

    The variance of a step is the learned one where there is any. The first term, L_0, then has
    `V = sigma_tmin^2` at v = 1 and, since beta~ = 0 there, beta~ of the step before at v = 0, as published.
    Without a learned variance it has the posterior's.

    Arguments:
        grid: the times of the chain, t_min > 0; the published chain of T times is `UniformGrid(T - 1, 1 / T)`.
        interpolation: v where none is learned, in [0, 1]: 0 is the bridge's variance, 1 the forward step's.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    grid: TimeGrid = field(default_factory=lambda: UniformGrid(999, 0.001))
    interpolation: float = 0.0

    def __post_init__(self) -> None:
        if self.grid.t_min <= 0:
            raise ValueError(f"t_min = {self.grid.t_min}, expected t_min > 0: the step t_min -> 0 is the chain's last")
        if not 0 <= self.interpolation <= 1:
            raise ValueError(f"interpolation = {self.interpolation} is outside [0, 1]")
        shortest = float((np.diff(self._times) / self._times[1:]).min())
        if shortest < 4 * ROUNDING:
            raise ValueError(
                f"a step of the grid is {shortest:.1e} of its time, expected at least {4 * ROUNDING}: times are drawn in "
                "single precision, which cannot tell shorter ones apart; take a schedule whose times crowd less at its ends"
            )

    @cached_property
    def _times(self) -> NDArray[np.float64]:
        return np.array([0.0, *self.grid.times()[::-1]])  # rising; not a tensor, whose device would be the first caller's

    def steps(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where the step that t is in, (s, t], ends and begins: (s, t), of the shape of t, float64."""
        times = torch.as_tensor(self._times, device=t.device)
        # A time that float32 rounded up still belongs to the step that begins there.
        place = torch.searchsorted(times, t.double() * (1 - ROUNDING)).clamp(1, len(times) - 1)
        s, t = (times.index_select(0, index.reshape(-1)).reshape(t.shape) for index in (place - 1, place))
        return s, t

    def check_times(self, times: TimeSampler) -> None:
        """Refuse times that do not go from 0 to t_max: some terms of the sum would never be drawn.

        Raises:
            ValueError: the times begin after 0 or end before the grid's t_max.
        """
        if times.t_min > 0 or times.t_max < self.grid.t_max:
            raise ValueError(
                f"{type(times).__name__} draws times from {times.t_min} to {times.t_max}, expected 0 to {self.grid.t_max}: "
                f"VLB is a sum over the steps of a chain, of which the last takes the times from {self.grid.t_min:.4g} to 0"
            )

    def visited(self, t: Tensor) -> Tensor:
        """The beginning of the step that t is in."""
        return self.steps(t)[1]

    def compare(self, posterior: Posterior, truth: Truth) -> Tensor:
        s, t = self.steps(truth.t)
        last = s == 0
        v = self.interpolation if posterior.interpolation is None else posterior.interpolation
        error = truth.epsilon - posterior.epsilon
        # The last step has another term; a stand-in keeps the unused one finite.
        value = step_divergence(truth.process, error, v, torch.where(last, t / 2, s), t).flatten(1).sum(1)  # (B,)
        if not readable(value) or last.any():
            # Few examples are at the last step, and a mass costs more than a square: elsewhere rows cannot be chosen.
            rows = torch.arange(len(value), device=value.device)
            rows = rows[last.expand(len(value))] if readable(value) else rows
            value = torch.where(last, value.index_copy(0, rows, self.reconstruction(posterior, truth, rows)), value)
        return value / (t - s).to(value.dtype)

    def reconstruction(self, posterior: Posterior, truth: Truth, rows: Tensor) -> Tensor:
        """L_0 in nats, `-log p(x_0 | x_tmin)`, of some examples of a batch: rows (n,) -> (n,)."""
        log_var = posterior.var[rows].log()
        if posterior.interpolation is not None:
            t_min, before = (torch.tensor(self._times[i], device=rows.device) for i in (1, 2))
            high = 2 * truth.process.schedule(t_min)[1].log()
            low = truth.process.bridge_coefficients(t_min, before)[2].log()
            log_var = (low + posterior.interpolation[rows] * (high - low)).to(log_var.dtype)
        terms = reconstruction_error(truth.process, truth.x_0[rows], posterior.mean[rows], log_var)
        return terms.flatten(1).sum(1)


@dataclass(frozen=True)
class HybridLoss(Loss):
    """`L_simple + 0.001 T L_t`: a regression teaches the mean, the bound the variance alone.

    L_simple is a mean over dimensions; L_t is in bits per dimension, with the mean detached; T L_t
    is the integrand of the bound, `VLB`, at t.

    Arguments:
        simple: the regression.
        bound: the chain whose steps' variances are learned.
        weight: the bound's share.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    simple: Regression = field(default_factory=EpsilonLoss)
    bound: VLB = field(default_factory=VLB)
    weight: float = 0.001
    learns_variance = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight = {self.weight}, expected a non-negative number")

    def check_times(self, times: TimeSampler) -> None:
        """Refuse times that leave out some steps of the bound.

        Raises:
            ValueError: as `VLB.check_times`.
        """
        self.bound.check_times(times)

    def visited(self, t: Tensor) -> Tensor:
        """The beginning of the chain's step that t is in."""
        return self.bound.visited(t)

    def compare(self, posterior: Posterior, truth: Truth) -> Tensor:
        fixed = Posterior(posterior.mean.detach(), posterior.var, posterior.epsilon.detach(), posterior.interpolation)
        bits = self.bound.compare(fixed, truth) / (truth.x_0[0].numel() * math.log(2))
        return self.simple.compare(posterior, truth) + self.weight * bits
