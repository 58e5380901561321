"""Training losses of the Gaussian engine, unreduced: one number per example.

A denoiser is trained by regression: add noise to the data, predict a target with the network, and measure the error.
Losses with the targets eps, x_0 and v differ only by a factor that depends on the time (see `weights.py`). All losses
are sums over dimensions.

For a chain with the times t_max = t_0 > ... > t_N = t_min > 0, the variational bound is

    -log p(x_0) <= KL(q_tmax(. | x_0) || prior) + sum_i E[KL(q(x_s | x_t, x_0) || p(x_s | x_t))] + E[-log p(x_0 | x_tmin)]
                   L_T                            L_t, the steps t -> s of the grid                L_0

`VLB` writes the sum as an integral over t, so that any time sampler can estimate it. At a time t, the integrand is the term
of the step that contains t, divided by the length of the step. With infinitely many steps the integrand becomes

    ELBO:    l_t(x_0) = 1/2 (-d logSNR/dt) |eps - epshat|^2

which does not depend on the variance of the steps. Both are in nats.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import diffusion_core
from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.divergence import reconstruction_error, step_divergence
from continuous_diffusion.process import GaussianProcess, match
from continuous_diffusion.schedules import Schedule, VariancePreserving
from continuous_diffusion.weights import Distance, SquaredError, Unweighted, Weight
from diffusion_core import Denoiser, Generator, Process, Sample, TimeGrid, TimeSampler, UniformGrid, event_sum
from diffusion_core.ranges import NonNegative, Share
from diffusion_core.values import NOTHING, ends, listed

__all__ = ["ELBO", "VLB", "EpsilonLoss", "HybridLoss", "Loss", "Reconstruction", "Regression", "VelocityLoss", "X0Loss"]


ROUNDING = 2e-7
"""An upper bound of the relative error of a time in single precision."""

FAINTEST = -100.0
"""The lowest log-SNR at which a chain can start. Here alpha is 2e-22, so the first step is extremely long in log-SNR."""


def noise_of(sample: Sample) -> Tensor:
    """Return the noise eps of a sample of the Gaussian process: (B, *event).

    Raises:
        ValueError: the sample has no noise.
    """
    if sample.noise is None:
        raise ValueError("sample.noise = None, expected a sample from `Loss.draw` with a Gaussian process")
    return sample.noise


def schedule_of(denoiser: Denoiser[Posterior]) -> Schedule:
    """Return the schedule of a denoiser's process.

    Raises:
        TypeError: the process is not Gaussian.
    """
    if not isinstance(denoiser.process, GaussianProcess):
        raise TypeError(f"the denoiser's process is {type(denoiser.process).__name__}, expected a GaussianProcess")
    return denoiser.process.schedule


class Loss(diffusion_core.Loss[Posterior]):
    """The base class of losses of the Gaussian engine, in squared units or nats. `sample.noise` is eps."""

    teaches_variance: ClassVar[bool] = False
    """Whether the loss has a gradient for a learned variance."""

    def check(self, denoiser: Denoiser[Posterior], times: TimeSampler) -> None:
        """If the denoiser learns a variance, check that the loss trains it.

        Raises:
            ValueError: the denoiser learns a variance, and the loss has no gradient for it.
        """
        if getattr(denoiser, "learns_variance", False) and not self.teaches_variance:
            raise ValueError(
                f"{type(self).__name__} does not train a variance, but {type(denoiser).__name__} learns one: expected "
                "HybridLoss or VLB, or a denoiser without a learned variance"
            )


@dataclass(frozen=True)
class Regression(Loss):
    """The base class of regression losses, `weight(t) sum_d distance(target^d - prediction^d)`.

    A subclass defines the target.

    Arguments:
        distance: the distance between target and prediction.
        weight: the weight of the error at each noise level.
    """

    distance: Distance = field(default_factory=SquaredError)
    weight: Weight = field(default_factory=Unweighted)

    @abstractmethod
    def residual(self, posterior: Posterior, sample: Sample) -> Tensor:
        """Return the target minus its prediction: (B, *event)."""

    @abstractmethod
    def log_factor(self, log_snr: Tensor) -> Tensor:
        """Return `log(|target - prediction|^2 / |x_0 - x0hat|^2)`, which depends only on log_snr, in the shape of log_snr."""

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        log_snr = posterior.process.schedule.log_snr(sample.t.double())
        cost = event_sum(self.distance(self.residual(posterior, sample)), sample.active)
        return self.weight(log_snr, self.log_factor(log_snr)).to(cost.dtype) * cost


@dataclass(frozen=True)
class EpsilonLoss(Regression):
    """Regression to the noise eps, by default `sum_d (eps^d - epshat^d)^2`, the L_simple of DDPM.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def residual(self, posterior: Posterior, sample: Sample) -> Tensor:
        return noise_of(sample) - posterior.epsilon

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return log_snr


@dataclass(frozen=True)
class X0Loss(Regression):
    """Regression to the clean data x_0, by default `sum_d (x_0^d - x0hat^d)^2`."""

    def residual(self, posterior: Posterior, sample: Sample) -> Tensor:
        return sample.x_0 - posterior.mean

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(log_snr)


def _check_preserving(schedule: Schedule) -> None:
    if not isinstance(schedule, VariancePreserving):
        raise ValueError(f"the schedule is {type(schedule).__name__}, expected a VariancePreserving one to define v")


@dataclass(frozen=True)
class VelocityLoss(Regression):
    """Regression to `v = alpha eps - sigma x_0`, by default `sum_d (v^d - vhat^d)^2`.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022) | https://arxiv.org/abs/2202.00512
    """

    name: ClassVar[str] = "v"

    def check(self, denoiser: Denoiser[Posterior], times: TimeSampler) -> None:
        """Check the denoiser, and that its schedule preserves the variance.

        Raises:
            ValueError: the schedule does not preserve the variance, or the denoiser learns a variance.
        """
        super().check(denoiser, times)
        _check_preserving(schedule_of(denoiser))

    def residual(self, posterior: Posterior, sample: Sample) -> Tensor:
        """Return the target minus its prediction: (B, *event).

        Raises:
            ValueError: the schedule does not preserve the variance.
        """
        schedule = posterior.process.schedule
        _check_preserving(schedule)
        alpha, sigma = (match(value, sample.x_0) for value in schedule(sample.t))
        return alpha * (noise_of(sample) - posterior.epsilon) - sigma * (sample.x_0 - posterior.mean)

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return torch.nn.functional.softplus(log_snr)


@dataclass(frozen=True)
class ELBO(Loss):
    """The integrand of the bound for infinitely many steps: `1/2 (-d logSNR/dt) |eps - epshat|^2`, in nats per unit of t.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    def check(self, denoiser: Denoiser[Posterior], times: TimeSampler) -> None:
        """Check that the denoiser learns no variance, and that the times have weights and a finite integrand.

        Raises:
            ValueError: the denoiser learns a variance, the times have no weights, or the log-SNR is infinite at their t_min.
        """
        super().check(denoiser, times)
        times.check_weighted("ELBO")
        schedule = schedule_of(denoiser)
        _, high = ends(schedule.log_snr(torch.tensor(times.t_min, dtype=torch.float64, device="cpu")), NOTHING)
        if high == math.inf:
            raise ValueError(
                f"{type(times).__name__} draws times from t_min = {times.t_min}, where {type(schedule).__name__} has log-SNR "
                "inf, expected t_min > 0: ELBO is infinite for clean data"
            )

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        error = event_sum((noise_of(sample) - posterior.epsilon).square(), sample.active)
        return posterior.process.schedule.log_snr_rate(sample.t).to(error.dtype) * error / 2


@dataclass(frozen=True)
class Reconstruction(Loss):
    """The last term of a bound: `-log p(x_0 | x_t)` in nats.

    p is the Gaussian posterior of the denoiser. For pixels the loss uses the probability of a bin, otherwise the density.
    """

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        terms = reconstruction_error(posterior.process, sample.x_0, posterior.mean, posterior.var.log())
        return event_sum(terms, sample.active)


@dataclass(frozen=True)
class VLB(Loss):
    """The variational bound of a chain with the steps of a time grid, in nats per unit of t: L_vlb without the prior term.

    At a time t, the loss is the term of the step that contains t, divided by the length of the step. For t <= t_min this
    term is L_0. The integral of the loss from 0 to t_max is the sum of all N + 1 terms. So the training times must
    cover 0 to t_max.

    A denoiser with a learned variance predicts a number v for each dimension. v interpolates the log-variance of a
    step: v = 0 means the variance beta~ of the bridge q(x_s | x_t, x_0), and v = 1 means the variance beta of the
    forward step. The log-variance of L_0 is interpolated too. At v = 1 the variance of L_0 is `sigma_tmin^2`. At v = 0
    it cannot be beta~ of the step from t_min to 0, because this beta~ is 0. So, as in the published code, it is beta~
    of the step before, which ends at t_min. Without a learned variance, L_0 uses the variance of the denoiser's posterior
    p(x_0 | x_tmin). The argument `interpolation` does not change L_0.

    Arguments:
        grid: the times of the chain, with t_min > 0. For a published model with T timesteps, use
            `UniformGrid(T - 1, 1 / T)`.
        interpolation: the variance of a step if the denoiser does not learn a variance. 0 means beta~, the variance of the
            bridge q(x_s | x_t, x_0), and 1 means beta, the variance of the forward step.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    teaches_variance: ClassVar[bool] = True
    grid: TimeGrid = field(default_factory=lambda: UniformGrid(999, 0.001))
    interpolation: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid.t_min <= 0:
            raise ValueError(f"t_min = {self.grid.t_min}, expected t_min > 0: the chain ends with a step from t_min to 0")
        shortest = float((np.diff(self._times) / self._times[1:]).min())
        if shortest < 4 * ROUNDING:
            raise ValueError(
                f"the shortest step of the grid is {shortest:.1e} times its larger time, expected at least {4 * ROUNDING}: "
                "single precision, in which times are drawn, cannot represent shorter steps; use another schedule or grid"
            )

    @cached_property
    def _times(self) -> NDArray[np.float64]:
        return np.array([0.0, *self.grid.times()[::-1]])  # rising; an array, because a cached tensor stays on one device

    def steps(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two ends s < u of the step (s, u] that contains t. Both are float64 and have the shape of t."""
        times = torch.as_tensor(self._times, device=t.device)
        # A time that was rounded up in float32 still belongs to the step that starts there.
        place = torch.searchsorted(times, t.double() * (1 - ROUNDING)).clamp(1, len(times) - 1)
        s, t = (times.index_select(0, index.reshape(-1)).reshape(t.shape) for index in (place - 1, place))
        return s, t

    def check(self, denoiser: Denoiser[Posterior], times: TimeSampler) -> None:
        """Check that the times have weights and cover the chain, from 0 to t_max, and that the schedule fits the chain.

        Raises:
            ValueError: the times have no weights, they are not drawn from 0 to t_max of the grid, or the log-SNR is below
                -100 at t_max.
        """
        super().check(denoiser, times)
        times.check_weighted("VLB")
        if times.t_min > 0 or times.t_max != self.grid.t_max:
            raise ValueError(
                f"{type(times).__name__} draws times from {times.t_min} to {times.t_max}, expected 0 to {self.grid.t_max}: "
                f"VLB is a sum over the steps of a chain, and the last step is from {self.grid.t_min:.4g} to 0"
            )
        self.check_schedule(schedule_of(denoiser))

    def check_schedule(self, schedule: Schedule) -> None:
        """Check that the log-SNR at the start of the chain is not too low. Otherwise the first step is too long in log-SNR.

        Raises:
            ValueError: the log-SNR at the grid's t_max is below `FAINTEST`, -100.
        """
        log_snr = schedule.log_snr(torch.tensor(self.grid.t_max, dtype=torch.float64, device="cpu"))
        # The tangent of the Cauchy schedule is finite after rounding, so the check is not for infinity but for a low log-SNR.
        value, _ = ends(log_snr, NOTHING)
        if value < FAINTEST:
            raise ValueError(
                f"{type(schedule).__name__} has log-SNR {value:.3g} at t_max = {self.grid.t_max}, expected at least "
                f"{FAINTEST} at the start of a chain: use the steps of a BoundedLogSNRGrid for a schedule made for training"
            )

    def draw(
        self, process: Process, x_0: Tensor, t: Tensor, generator: Generator = None, active: Tensor | None = None
    ) -> Sample:
        """Add noise to x_0 as in `Loss.draw`, but at the larger end of the step that contains t."""
        return super().draw(process, x_0, self.steps(t)[1], generator, active)

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        s, t = self.steps(sample.t)
        last = s == 0
        v = self.interpolation if posterior.interpolation is None else posterior.interpolation
        error = noise_of(sample) - posterior.epsilon
        # The last step has another term. Replace s by t / 2 to keep its unused divergence finite.
        divergence = step_divergence(posterior.process, error, v, torch.where(last, t / 2, s), t)
        value = event_sum(divergence, sample.active)  # (B,)
        if any(listed(last.expand(len(value)), unseen=True)):  # the last step is rare, and its term is slow
            value = torch.where(last, self.reconstruction(posterior, sample), value)
        return value / (t - s).to(value.dtype)

    def reconstruction(self, posterior: Posterior, sample: Sample) -> Tensor:
        """Return L_0 in nats, `-log p(x_0 | x_tmin)`: (B,)."""
        process, log_var = posterior.process, posterior.var.log()
        if posterior.interpolation is not None:
            t_min, before = torch.as_tensor(self._times, device=sample.x_0.device)[1:3]
            high = 2 * process.schedule(t_min)[1].log()
            low = process.bridge_coefficients(t_min, before)[2].log()
            log_var = (low + posterior.interpolation * (high - low)).to(log_var.dtype)
        return event_sum(reconstruction_error(process, sample.x_0, posterior.mean, log_var), sample.active)


def _unlearned(denoiser: str) -> str:
    return f"HybridLoss trains a variance, but {denoiser} does not learn one: expected a LearnedVarianceDenoiser"


@dataclass(frozen=True)
class HybridLoss(Loss):
    """The hybrid loss `L_simple + 0.001 T L_t`: a regression trains the mean, and the bound trains the variance.

    The bound sends no gradient to the mean. In the paper both terms are means over dimensions. Here both are sums over
    dimensions, so their ratio is the same. L_simple is a squared error. L_t is the term of the bound for one of T equal
    steps of the chain, in bits. The code computes `T L_t` as the value of `VLB` at t, which is in nats, divided by ln 2.

    Arguments:
        simple: the regression loss that trains the mean.
        bound: the bound that trains the variances of the steps.
        weight: the weight of the bound; the regression loss has weight 1.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    teaches_variance: ClassVar[bool] = True
    simple: Regression = field(default_factory=EpsilonLoss)
    bound: VLB = field(default_factory=VLB)
    weight: NonNegative = 0.001

    def check(self, denoiser: Denoiser[Posterior], times: TimeSampler) -> None:
        """Check that the denoiser learns a variance, and check the bound.

        Raises:
            ValueError: the denoiser learns no variance, or `VLB.check` raises it.
        """
        if not getattr(denoiser, "learns_variance", False):
            raise ValueError(_unlearned(type(denoiser).__name__))
        self.bound.check(denoiser, times)

    def draw(
        self, process: Process, x_0: Tensor, t: Tensor, generator: Generator = None, active: Tensor | None = None
    ) -> Sample:
        """Add noise to x_0 at a time of the chain, as in `VLB.draw`."""
        return self.bound.draw(process, x_0, t, generator, active)

    def evaluate(self, posterior: Posterior, sample: Sample) -> Tensor:
        """Return the loss (B,) of a posterior with a learned variance.

        Raises:
            ValueError: the denoiser does not learn a variance.
        """
        if posterior.interpolation is None:
            raise ValueError(_unlearned("the denoiser"))
        mean, epsilon = posterior.mean.detach(), posterior.epsilon.detach()
        fixed = Posterior(posterior.process, posterior.t, mean, epsilon, posterior.var, posterior.interpolation)
        bits = self.bound.evaluate(fixed, sample) / math.log(2)
        return self.simple.evaluate(posterior, sample) + self.weight * bits
