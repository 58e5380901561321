"""The rectified path of flow matching: a straight line from the data to the noise.

    x_t = (1 - t) x_0 + t eps,        v = dx_t / dt = eps - x_0

The network predicts v. Sampling solves `dx / dt = v(x, t)` from t = 1 to t = 0. `DDIM` with eta = 0 is Euler's method for
this equation, `x_s = x_t + (s - t) v`. `Heun` is a second-order method.

At t = 1 x_t is pure noise (logSNR = -inf), and at t = 0 it is clean data (logSNR = inf). v is finite at both ends.

References:
    Flow matching for generative modeling (Lipman et al., 2023) | https://arxiv.org/abs/2210.02747
    Flow straight and fast: learning to generate and transfer data with rectified flow (Liu et al., 2023) | https://arxiv.org/abs/2209.03003
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_diffusion.denoisers import Denoiser, Posterior
from continuous_diffusion.losses import Regression, noise_of
from continuous_diffusion.process import match
from continuous_diffusion.schedules import Schedule
from diffusion_core import Sample

__all__ = ["FlowDenoiser", "FlowMatchingLoss", "RectifiedSchedule"]


@dataclass(frozen=True)
class RectifiedSchedule(Schedule):
    """The rectified schedule of flow matching: `alpha = 1 - t`, `sigma = t`.

    References:
        Flow straight and fast: learning to generate and transfer data with rectified flow (Liu et al., 2023) | https://arxiv.org/abs/2209.03003
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double() / 2)


class FlowDenoiser(Denoiser):
    """The flow parameterisation: the network predicts `v = eps - x_0`.

    On the rectified path, `x0hat = x_t - t v` and `epshat = x_t + (1 - t) v`. For any (alpha, sigma) they are
    `(x_t - sigma v) / (alpha + sigma)` and `(x_t + alpha v) / (alpha + sigma)`. This parameterisation can therefore be used
    with any schedule.

    References:
        Flow matching for generative modeling (Lipman et al., 2023) | https://arxiv.org/abs/2210.02747
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.process.schedule(t)
        c_in = torch.ones_like(t)
        c_skip = 1 / (alpha + sigma)
        c_out = -sigma / (alpha + sigma)
        c_noise = t
        return c_in, c_skip, c_out, c_noise

    def epsilon(self, output: Tensor, mean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.schedule(t)
        return match(1 / (alpha + sigma), x_t) * x_t + match(alpha / (alpha + sigma), x_t) * output


@dataclass(frozen=True)
class FlowMatchingLoss(Regression):
    """Conditional flow matching: regression to `v = eps - x_0`, by default `sum_d (v^d - vhat^d)^2`.

    Arguments:
        distance: the distance between target and prediction.
        weight: the weight of the error at each noise level.

    References:
        Flow matching for generative modeling (Lipman et al., 2023) | https://arxiv.org/abs/2210.02747
    """

    def residual(self, posterior: Posterior, sample: Sample) -> Tensor:
        return (noise_of(sample) - sample.x_0) - (posterior.epsilon - posterior.mean)

    def log_factor(self, log_snr: Tensor) -> Tensor:
        return 2 * torch.nn.functional.softplus(log_snr / 2)  # v - vhat = -(alpha / sigma + 1) (x_0 - x0hat)
