"""How fast noise arrives in the Gaussian engine: (alpha_t, sigma_t) with alpha_t^2 + sigma_t^2 = 1.

    x_t = alpha_t x_0 + sigma_t eps,      abar(t) = alpha_t^2,      logSNR(t) = log(abar / (1 - abar))

Everything follows from log abar: `alpha = exp(log abar / 2)` and `sigma^2 = -expm1(log abar)`,
which keeps all its digits where sigma is small. A schedule is one method, `log_abar`.

The linear, the quadratic and the cosine schedule were published as T numbers, not as functions of
time, and their closed forms end elsewhere (abar(1) = 4.32e-5 for 4.04e-5, 4e-33 for 2.4e-9). To
equal what people trained with, ours carry T: log abar is piecewise linear through the published
values, abar[i] at t = (i + 1) / T, and abar = 1 at t = 0. Between two of those times the rate
of noising is constant.

The others state the log-SNR itself, and `abar = sigmoid(logSNR)`. With t uniform, a schedule is a
density over log-SNR, `p(lambda) = -dt/dlambda`: training sees each noise level that often. The Laplace
and the Cauchy schedule are made for that. They are infinite at both ends, so t is in the open
interval, and equal steps of t are no way to sample them: on i/1000 the Laplace grid stops
at sigma = 0.207, with visible noise left, and starts at alpha = 0.207, which is not pure noise. Sample on
a `LogSNRGrid` between log-SNRs that reach both.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import diffusion_core
from diffusion_core.checks import check_integer, check_positive

__all__ = [
    "CauchySchedule",
    "CosineSchedule",
    "LaplaceSchedule",
    "LinearSchedule",
    "LogSNRSchedule",
    "QuadraticSchedule",
    "Schedule",
    "ShiftedCosineSchedule",
    "SigmoidSchedule",
    "TabulatedSchedule",
]

CLEAN = 0.1
"""The largest sigma_tmin from which a single noiseless step to x_0 still is a good sample."""


class Schedule(diffusion_core.Schedule):
    """A schedule whose marginal variance stays 1 where that of the data is 1."""

    @abstractmethod
    def log_abar(self, t: Tensor) -> Tensor:
        """The logarithm of alpha_t^2: about 0 at t = 0 and falling, of the shape of t, in float64."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each of the shape and dtype of t."""
        log_abar = self.log_abar(t)
        if t.ndim == 0 and diffusion_core.readable(log_abar) and not t.requires_grad:
            # One time for the batch, as samplers have: on numbers this is faster than on tensors of one element.
            value = log_abar.item()
            alpha, sigma = math.exp(value / 2), math.sqrt(-math.expm1(value))
            return torch.tensor(alpha, dtype=t.dtype), torch.tensor(sigma, dtype=t.dtype)
        return (log_abar / 2).exp().to(t.dtype), (-torch.expm1(log_abar)).sqrt().to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log(alpha_t / sigma_t), of the shape and dtype of t; infinite where sigma_t = 0."""
        log_abar = self.log_abar(t)
        return (log_abar - (-torch.expm1(log_abar)).log()).to(t.dtype)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """`-d logSNR / dt`, positive, in 1 / unit of t: the shape of t, float64."""
        with torch.enable_grad():
            time = t.detach().double().cpu().requires_grad_()  # a few numbers: no work for another device
            (rate,) = torch.autograd.grad(-self.log_snr(time).sum(), time)
        return rate.to(t.device)

    def time(self, log_snr: Tensor) -> Tensor:
        """The time in [0, 1] of a log-SNR, the nearer end where there is none: the shape of log_snr, float64."""
        low, high = torch.zeros_like(log_snr, dtype=torch.float64), torch.ones_like(log_snr, dtype=torch.float64)
        for _ in range(64):  # bisection: the bracket is narrower than the spacing of doubles near 1
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return (low + high) / 2

    def check_clean_end(self, t_min: float) -> None:
        """Refuse a last time of sampling at which x_t is not nearly clean.

        Raises:
            ValueError: sigma at t_min is above `CLEAN`, 0.1.
        """
        sigma = self(torch.tensor(t_min, dtype=torch.float64, device="cpu"))[1]
        if diffusion_core.readable(sigma) and sigma > CLEAN:
            raise ValueError(
                f"{type(self).__name__} has sigma = {sigma.item():.3g} at t_min = {t_min}, expected at most {CLEAN} where "
                "sampling ends: take a smaller t_min, or a LogSNRGrid for a schedule that is made for training"
            )


@dataclass(frozen=True)
class TabulatedSchedule(Schedule):
    """A schedule published as T variances `beta_i`: `abar[i] = prod_{j <= i} (1 - beta_j)`.

    Arguments:
        T: the number of discrete times of the table.

    Raises:
        ValueError: T is not an integer of at least 1.
    """

    T: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "T", check_integer("T", self.T))

    @abstractmethod
    def betas(self) -> NDArray[np.float64]:
        """The published variances beta_0 .. beta_{T-1}, (T,)."""

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        # Not a tensor: what is cached here must not depend on the device of the first caller.
        return np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas()))])

    def log_abar(self, t: Tensor) -> Tensor:
        """The table at t = (i + 1) / T, straight lines between."""
        if t.ndim == 0 and diffusion_core.readable(t) and not t.requires_grad:
            row = t.item() * self.T
            start = min(max(int(row), 0), self.T - 1)
            first, last = self._table[start : start + 2].tolist()
            return torch.tensor(first + (row - start) * (last - first), dtype=torch.float64)
        table = torch.as_tensor(self._table, device=t.device)  # (T + 1,)
        place = t.double() * self.T
        left = place.floor().clamp(0, self.T - 1)
        ends = torch.stack((left, left + 1)).long()  # (2, *t)
        low, high = table.index_select(0, ends.reshape(-1)).reshape(ends.shape)
        log_abar: Tensor = low + (place - left) * (high - low)
        return log_abar


class _ScaledSchedule(TabulatedSchedule):
    """Variances that were published for T = 1000 and end at 0.02, scaled by 1000 / T."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.T <= 20:
            raise ValueError(f"T = {self.T}, expected more than 20: the last beta, 20 / T, must be below 1")


@dataclass(frozen=True)
class LinearSchedule(_ScaledSchedule):
    """`beta_i` from 1e-4 to 0.02 in equal increments at T = 1000; scaled by 1000 / T otherwise.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    def betas(self) -> NDArray[np.float64]:
        scale = 1000 / self.T
        return np.linspace(1e-4 * scale, 0.02 * scale, self.T)


@dataclass(frozen=True)
class QuadraticSchedule(_ScaledSchedule):
    """`sqrt(beta_i)` from 0.01 to sqrt(0.02) in equal increments at T = 1000; beta scaled by 1000 / T otherwise.

    Less noise early on than the linear one. diffusers calls it `scaled_linear`.

    References:
        High-resolution image synthesis with latent diffusion models (Rombach et al., 2022) | https://arxiv.org/abs/2112.10752
    """

    def betas(self) -> NDArray[np.float64]:
        betas: NDArray[np.float64] = 1000 / self.T * np.linspace(1e-4**0.5, 0.02**0.5, self.T) ** 2
        return betas


@dataclass(frozen=True)
class CosineSchedule(TabulatedSchedule):
    """`abar(t) = f(t) / f(0)`, `f(t) = cos^2(pi/2 (t + 0.008) / 1.008)`, with `beta_i` cut off at 0.999.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021) | https://arxiv.org/abs/2102.09672
    """

    def betas(self) -> NDArray[np.float64]:
        t = np.arange(self.T + 1) / self.T
        f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas: NDArray[np.float64] = np.minimum(1 - f[1:] / f[:-1], 0.999)
        return betas


class LogSNRSchedule(Schedule):
    """A schedule given by its log-SNR: `abar = sigmoid(logSNR)`."""

    @abstractmethod
    def curve(self, t: Tensor) -> Tensor:
        """logSNR(t) for t in float64: falling, of the shape of t."""

    def log_abar(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self.curve(t.double()))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.curve(t.double()).to(t.dtype)


def _check_falling(high: float, low: float) -> None:
    if not (math.isfinite(high) and math.isfinite(low) and high > low):
        raise ValueError(f"log_snr_max = {high}, log_snr_min = {low}: expected finite numbers, the first one larger")


@dataclass(frozen=True)
class SigmoidSchedule(LogSNRSchedule):
    """A straight line of log-SNR: `abar = sigmoid(log_snr_max + t (log_snr_min - log_snr_max))`.

    Arguments:
        log_snr_max: the log-SNR at t = 0; 10 is sigma = 0.007.
        log_snr_min: the log-SNR at t = 1; -10 is alpha = 0.007.

    References:
        Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
    """

    log_snr_max: float = 10.0
    log_snr_min: float = -10.0

    def __post_init__(self) -> None:
        _check_falling(self.log_snr_max, self.log_snr_min)

    def curve(self, t: Tensor) -> Tensor:
        return self.log_snr_max + (self.log_snr_min - self.log_snr_max) * t

    def time(self, log_snr: Tensor) -> Tensor:
        return ((self.log_snr_max - log_snr.double()) / (self.log_snr_max - self.log_snr_min)).clamp(0, 1)


@dataclass(frozen=True)
class ShiftedCosineSchedule(LogSNRSchedule):
    """The cosine schedule with more noise for larger images: `logSNR = -2 log tan(pi t / 2) + 2 log(64 / d)`.

    A picture of twice the side says the same at half the SNR: averaged down to 64 x 64,
    pixels lose so much of their noise. The arc is cut off so that the log-SNR before the shift
    stays in [log_snr_min, log_snr_max].

    Arguments:
        side: the side d of the images; 64 shifts nothing.
        log_snr_max: the log-SNR at t = 0, before the shift.
        log_snr_min: the log-SNR at t = 1, before the shift.

    References:
        Simple diffusion: end-to-end diffusion for high resolution images (Hoogeboom et al., 2023) | https://arxiv.org/abs/2301.11093
    """

    side: float = 64
    log_snr_max: float = 15.0
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        check_positive("side", self.side)
        _check_falling(self.log_snr_max, self.log_snr_min)

    def _arc(self) -> tuple[float, float]:
        """The angles at t = 0 and at t = 1."""
        return math.atan(math.exp(-self.log_snr_max / 2)), math.atan(math.exp(-self.log_snr_min / 2))

    def curve(self, t: Tensor) -> Tensor:
        first, last = self._arc()
        return -2 * torch.tan(first + (last - first) * t).log() + 2 * math.log(64 / self.side)

    def time(self, log_snr: Tensor) -> Tensor:
        first, last = self._arc()
        angle = torch.atan(torch.exp((2 * math.log(64 / self.side) - log_snr.double()) / 2))
        return ((angle - first) / (last - first)).clamp(0, 1)


@dataclass(frozen=True)
class LaplaceSchedule(LogSNRSchedule):
    """`logSNR(t) = mu - b sign(1/2 - t) log(1 - 2 |t - 1/2|)`: a Laplace density over log-SNR, for training.

    Infinite at t = 0 and t = 1; see the head of this file for how to sample. diffusers' `laplace` is
    not this schedule: there log-SNR rises with t.

    Arguments:
        mu: the log-SNR at t = 1/2, which training sees most.
        b: the scale, in units of log-SNR.

    References:
        Improved noise schedule for diffusion training (Hang et al., 2024) | https://arxiv.org/abs/2407.03297
    """

    mu: float = 0.0
    b: float = 0.5

    def __post_init__(self) -> None:
        check_positive("b", self.b)

    def curve(self, t: Tensor) -> Tensor:
        # 1 - 2 |t - 1/2| is twice the distance from the nearer end, without a rounding near t = 0.
        distance = torch.where(t < 0.5, -(2 * t).log(), (2 * (1 - t)).log())
        return self.mu + self.b * distance

    def time(self, log_snr: Tensor) -> Tensor:
        distance = log_snr.double() - self.mu
        tail = torch.exp(-distance.abs() / self.b) / 2
        return torch.where(distance > 0, tail, 1 - tail)


@dataclass(frozen=True)
class CauchySchedule(LogSNRSchedule):
    """`logSNR(t) = mu + g tan(pi (1 - 2t) / 2)`: a Cauchy density over log-SNR, for training.

    Infinite at t = 0 and t = 1; see the head of this file for how to sample. Its tails are so heavy
    that one time in a few hundred has an alpha that single precision rounds to 0 (log-SNR below
    -200): train it with v, whose coefficients divide by nothing.

    Arguments:
        mu: the log-SNR at t = 1/2.
        g: the scale, in units of log-SNR.

    References:
        Improved noise schedule for diffusion training (Hang et al., 2024) | https://arxiv.org/abs/2407.03297
    """

    mu: float = 0.0
    g: float = 1.0

    def __post_init__(self) -> None:
        check_positive("g", self.g)

    def curve(self, t: Tensor) -> Tensor:
        return self.mu + self.g / torch.tan(math.pi * t)  # tan(pi/2 - pi t) = 1 / tan(pi t), exact near t = 0

    def time(self, log_snr: Tensor) -> Tensor:
        distance = log_snr.double() - self.mu
        return torch.atan2(torch.full_like(distance, self.g), distance) / math.pi
