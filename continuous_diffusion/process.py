"""The forward process of the Gaussian engine, and the conversion of pixels to real numbers.

    q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)

For s < t, the distribution of x_s given x_0 and x_t is called the bridge. It is a Gaussian. Let `rho = snr_t / snr_s` be
the fraction of the signal-to-noise ratio that remains after the step s -> t. The step adds the variance
`beta = sigma_t^2 (1 - rho)`, and

    q(x_s | x_t, x_0) = N( alpha_s (1 - rho) x_0  +  (alpha_t / alpha_s) (sigma_s^2 / sigma_t^2) x_t,
                           sigma_s^2 (1 - rho) I )

The variance of the bridge is beta~ in the DDPM paper. `1 - rho` is computed as `-expm1(log rho)`, which keeps all
digits for short steps. The formulas hold for any (alpha, sigma), also if sigma_s = 0 or alpha_t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from continuous_diffusion.schedules import Schedule
from diffusion_core import Generator, Process, as_randomness, check_time, per_example, readable
from diffusion_core.ranges import CheckedArguments, Range
from diffusion_core.values import check_within

__all__ = ["GaussianProcess", "PixelScale", "check_real", "match"]


def check_real(x: Tensor) -> None:
    """Check that data are real numbers in single or double precision.

    Raises:
        ValueError: x is neither float32 nor float64.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x has dtype {x.dtype}, expected float32 or float64; PixelScale.encode converts integers")


def match(value: Tensor, like: Tensor) -> Tensor:
    """Convert a coefficient, () or (B,), to the dtype of `like` (B, ...), and append axes so that it broadcasts over `like`."""
    return per_example(value.to(like.dtype), like)


@dataclass(frozen=True)
class PixelScale(CheckedArguments):
    """The map between integers 0 .. S-1 and the centres of S equal bins of [-1, 1]: `c_k = (2k + 1)/S - 1`.

    Arguments:
        num_values: the number S of values.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021) | https://arxiv.org/abs/2107.03006
    """

    num_values: Annotated[int, Range(least=2)]

    def encode(self, k: Tensor) -> Tensor:
        """Return the bin centre of each value: integers 0 .. S-1 -> float32 in (-1, 1).

        Raises:
            ValueError: k is not an integer tensor, or (checked only on the CPU) it has values outside 0 .. S-1.
        """
        if k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise ValueError(f"pixels have dtype {k.dtype}, expected integers 0 .. {self.num_values - 1}")
        k = k.long()
        inside = ((k >= 0) & (k < self.num_values)).all()
        if k.device.type != "cpu":
            torch._assert_async(inside, f"a pixel is outside 0 .. {self.num_values - 1}")
        elif not inside:
            wrong = k[(k < 0) | (k >= self.num_values)].flatten()[0].item()
            raise ValueError(f"pixel {wrong} is outside 0 .. {self.num_values - 1}")
        return (2 * k + 1).float() / self.num_values - 1

    def decode(self, x: Tensor) -> Tensor:
        """Return the value of the bin that contains x: reals -> int64.

        Numbers outside [-1, 1], including infinities, belong to the first or the last bin.

        Raises:
            ValueError: x is not real, or (checked only on the CPU) it contains NaN.
        """
        check_real(x)
        check_within(x, -math.inf, math.inf, "x contains {}, expected numbers that are not NaN")
        return self._bin(x).long()

    def _bin(self, x: Tensor) -> Tensor:
        return ((x + 1) * (self.num_values / 2)).floor().clamp(0, self.num_values - 1)

    def check(self, x: Tensor) -> None:
        """Check that real numbers are bin centres. Other numbers are not pixel values, so they have no probability.

        Raises:
            ValueError: x is not real, or (checked only on the CPU) it has values that are not bin centres.
        """
        check_real(x)
        k = self._bin(x)
        off = ((2 * k + 1) / self.num_values - 1 - x).abs() * self.num_values  # in half widths of a bin
        centred = (off <= 0.01).all()
        if not readable(x):
            torch._assert_async(centred, f"x_0 is not on the centres of {self.num_values} bins of [-1, 1]")
        elif not centred:
            wrong = x[~(off <= 0.01)].flatten()[0].item()
            what = "the centre of a bin" if abs(wrong) <= 1 else "in [-1, 1]"
            raise ValueError(
                f"x_0 contains {wrong:.6g}, which is not {what}: convert the pixel integers with "
                f"PixelScale({self.num_values}).encode"
            )

    def log_mass(self, x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """Return the log probability of the bin of x under N(mean, var), in nats: (B, *event) -> (B, *event).

        It is `log(Phi(b) - Phi(a))`, where a and b are the edges of the bin in standard deviations. The first and the
        last bin include the tails, so the S probabilities sum to 1. The result is computed in float64 and has the dtype
        of x.

        Arguments:
            x: reals in [-1, 1] (B, *event).
            mean: the mean (B, *event).
            log_var: the log of the variance, broadcastable to (B, *event).

        References:
            Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
        """
        check_real(x)
        k = self._bin(x)
        # A standard deviation of 1e-17 is a point mass compared with a bin. The bound prevents a division by 0.
        scale = (-log_var.double().clamp(min=-80) / 2).exp()
        middle = ((2 * k.double() + 1) / self.num_values - 1 - mean.double()) * scale
        half = scale / self.num_values
        # Mirror to the lower tail, where the logarithm of Phi keeps its digits.
        distance = -middle.abs()
        upper = torch.special.log_ndtr(distance + half)
        inner = upper + torch.log(-torch.expm1(torch.special.log_ndtr(distance - half) - upper))
        lowest = torch.special.log_ndtr(middle + half)
        highest = torch.special.log_ndtr(half - middle)
        mass = torch.where(k == 0, lowest, torch.where(k == self.num_values - 1, highest, inner))
        return mass.to(x.dtype)


class GaussianProcess(Process):
    """The Gaussian forward process `x_t = alpha_t x_0 + sigma_t eps` with eps ~ N(0, I).

    The prior is `N(0, (alpha_1^2 + sigma_1^2) I)`. `alpha_1^2 + sigma_1^2` is the variance of x_1 if the data have mean 0 and
    variance 1. For variance-preserving schedules it is 1.

    Arguments:
        schedule: alpha and sigma as functions of time.
        pixels: a PixelScale that says which integer each clean number means. Likelihoods are then probabilities of
            these integers, as in the discrete engine. With None, likelihoods are densities of real data.

    References:
        Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    """

    prior_mean: Tensor

    def __init__(self, schedule: Schedule, pixels: PixelScale | None = None) -> None:
        super().__init__()
        self.schedule = schedule
        self.pixels = pixels
        # `prior` has no tensor input. This buffer gives it a device and a dtype.
        self.register_buffer("prior_mean", torch.zeros(()), persistent=False)

    def check_data(self, x_0: Tensor) -> None:
        """Check that clean data are real numbers.

        Raises:
            ValueError: x_0 is not a float32 or float64 tensor.
        """
        check_real(x_0)

    def sample(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_t ~ N(alpha_t x_0, sigma_t^2 I): (B, *event) -> (B, *event)."""
        return self.noised(x_0, t, generator)[0]

    def noised(self, x_0: Tensor, t: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """Draw x_t ~ N(alpha_t x_0, sigma_t^2 I) and return it with its noise eps: each (B, *event)."""
        check_real(x_0)
        noise = as_randomness(generator).normal(x_0.shape, x_0.dtype, x_0.device)
        return self.perturb(x_0, noise, t), noise

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Add noise from time s to a later time t: draw `x_t ~ N((alpha_t / alpha_s) x_s, beta I)`, (B, *event).

        Here beta is `added_variance(s, t)`. s and t have the shape () or (B,). x_s has the shape (B, *event).
        """
        check_real(x_s)
        check_time(s, len(x_s))
        check_time(t, len(x_s))
        alpha_s, sigma_s, alpha_t, sigma_t, log_rho = self._step(s, t)
        # If alpha_s = 0, alpha_t / alpha_s is 0 / 0. The variances still determine the factor of x_s.
        scale = torch.where(alpha_s > 0, alpha_t / alpha_s, (log_rho / 2).exp() * sigma_t / sigma_s)
        noise = as_randomness(generator).normal(x_s.shape, x_s.dtype, x_s.device)
        return match(scale, x_s) * x_s + match((-torch.expm1(log_rho)).sqrt() * sigma_t, x_s) * noise

    def prior(self, shape: Sequence[int], generator: Generator = None) -> Tensor:
        """Draw x_1 ~ N(0, prior_variance I) of the given shape: float64 if the module is in float64, else float32."""
        device, dtype = self.prior_mean.device, torch.promote_types(self.prior_mean.dtype, torch.float32)
        return self.prior_variance(device).sqrt() * as_randomness(generator).normal(shape, dtype, device)

    def prior_variance(self, device: torch.device | str = "cpu") -> Tensor:
        """Return `alpha_1^2 + sigma_1^2` as float64 of shape ()."""
        alpha, sigma = self.schedule(torch.ones((), dtype=torch.float64, device=device))
        return alpha.square() + sigma.square()

    def perturb(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Return `x_t = alpha_t x_0 + sigma_t eps` for a given noise: (B, *event)."""
        check_real(x_0)
        check_time(t, len(x_0))
        alpha, sigma = self.schedule(t)
        return match(alpha, x_0) * x_0 + match(sigma, x_0) * epsilon

    def epsilon(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise between x_0 and x_t, `(x_t - alpha_t x_0) / sigma_t`: (B, *event), t > 0."""
        alpha, sigma = self.schedule(t)
        return (x_t - match(alpha, x_t) * x_0) / match(sigma, x_t)

    def _step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return alpha_s, sigma_s, alpha_t, sigma_t and `log rho = log(snr_t / snr_s)`, in float64."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.schedule(s.double()), self.schedule(t.double())
        log_s, log_t = alpha_s.log() - sigma_s.log(), alpha_t.log() - sigma_t.log()
        log_rho = torch.where(log_s == log_t, 0.0, 2 * (log_t - log_s))  # both are infinite if s = t is 0 or 1
        return alpha_s, sigma_s, alpha_t, sigma_t, log_rho

    def added_variance(self, s: Tensor, t: Tensor) -> Tensor:
        """Return `beta = sigma_t^2 (1 - rho)`, the variance that the step s -> t adds, as float64 in the shape of t."""
        *_, sigma_t, log_rho = self._step(s, t)
        return -torch.expm1(log_rho) * sigma_t.square()

    def bridge_coefficients(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (c_0, c_t, var) of `q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, var I)`, s < t, as float64 in the shape of t."""
        alpha_s, sigma_s, _, sigma_t, log_rho = self._step(s, t)
        lost = -torch.expm1(log_rho)  # 1 - rho
        # c_t is (alpha_t / alpha_s) (sigma_s^2 / sigma_t^2), without a division by alpha_s.
        return alpha_s * lost, (log_rho / 2).exp() * sigma_s / sigma_t, sigma_s.square() * lost

    def bridge(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, generator: Generator = None) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x_0), s < t: (B, *event)."""
        check_real(x_t)
        check_time(s, len(x_t))
        check_time(t, len(x_t))
        c_0, c_t, var = (match(value, x_t) for value in self.bridge_coefficients(s, t))
        noise = as_randomness(generator).normal(x_t.shape, x_t.dtype, x_t.device)
        return c_0 * x_0 + c_t * x_t + var.sqrt() * noise
