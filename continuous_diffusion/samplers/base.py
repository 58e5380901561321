"""The base class of Gaussian samplers. It clips the predicted clean data and makes the last step.

x0hat(x_t, t) is the predicted clean data. A step from t to s is a function of x_t and x0hat. Samplers compute the
predicted noise as `epshat = (x_t - alpha_t x0hat) / sigma_t`. So clipping x0hat to the range of the data also changes
epshat.

The grid ends at t_min > 0. The last step t_min -> 0 has no noise and returns x0hat(x_tmin). N grid steps therefore need
N + 1 network calls. A published model with T timesteps makes T network calls. For the same calls, use
`UniformGrid(T - 1, t_min=1 / T)`: it has T - 1 steps, and the last step makes the T-th call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import diffusion_core
from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.process import GaussianProcess
from diffusion_core import Denoiser, Generator, State, TimeGrid
from diffusion_core.ranges import Count, Positive, check_arguments
from diffusion_core.values import NOTHING, ends, number

__all__ = ["Sampler", "check_step"]

PURE_NOISE = 0.1
"""The largest `alpha / sqrt(alpha^2 + sigma^2)` at t_max that counts as pure noise. With it, 1 % of the variance is data."""

FINEST = 1e-3
"""The time at which x_t must have almost no noise, also if t_min is larger. It is t_min of a chain of 1000 timesteps."""


def check_step(t: Tensor, s: Tensor) -> None:
    """Check that s < t. The check is skipped if reading the times is not possible, for example on a GPU.

    Raises:
        ValueError: if 0 <= s < t <= 1 does not hold.
    """
    begin, end = number(t), number(s)
    if begin is not None and end is not None and not 0 <= end < begin <= 1:
        raise ValueError(f"a step from t = {begin} to s = {end}, expected 0 <= s < t <= 1")


class Sampler(diffusion_core.Sampler[Posterior]):
    """A Gaussian sampler: each step is a function of x_t and the prediction x0hat, and the last step returns x0hat.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times of the steps, with t_min > 0.
        clip: each prediction of x_0 is clipped to [-clip, clip]. Use 1 for images. None means no clipping.
        sub_batch: the number of samples in one network call if `sample` gets seeds. Without seeds, all samples share
            one call.

    Raises:
        ValueError: t_min = 0, or the samples would still have visible noise at the end of sampling. The noise is checked
            at t_min, or at 0.001 if t_min is larger than 0.001. A schedule that is made for training, such as
            `LaplaceSchedule`, fails this check on a grid of uniform times.
        TypeError: the denoiser's process is not Gaussian.
    """

    def __init__(
        self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, clip: Positive | None = None, sub_batch: Count = 16
    ) -> None:
        check_arguments(Sampler, locals())
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        if grid.t_min <= 0:
            raise ValueError(f"t_min = {grid.t_min}, expected t_min > 0: the sampler makes the last step, from t_min to 0")
        if not isinstance(denoiser.process, GaussianProcess):
            raise TypeError(f"the denoiser's process is {type(denoiser.process).__name__}, expected a GaussianProcess")
        self.process: GaussianProcess = denoiser.process
        self.process.schedule.check_clean_end(min(grid.t_min, FINEST))
        self.clip = clip

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state at t_max: n draws from the prior, or a given x (B, *event).

        Raises:
            ValueError: `diffusion_core.Sampler.start` raises it. Or n is a number, but noisy data at t_max are not nearly
                pure noise. The draws from the prior are pure noise, so they would not be correct at this time. A given
                batch is not checked.
        """
        alpha, sigma = self.process.schedule(torch.tensor(self.grid.t_max, dtype=torch.float64, device="cpu"))
        signal = ends(alpha / (alpha**2 + sigma**2).sqrt(), NOTHING)[1]
        if not isinstance(n, Tensor) and signal > PURE_NOISE:
            schedule = type(self.process.schedule).__name__
            raise ValueError(
                f"{schedule} has alpha / sqrt(alpha^2 + sigma^2) = {signal:.3g} at t_max = {self.grid.t_max}, expected at most "
                f"{PURE_NOISE} to start from pure noise: use a schedule and a t_max at which the signal is that small, or call "
                "sample(x) with a noisy x"
            )
        return super().start(n, generator, seeds)

    def clipped(self, mean: Tensor) -> Tensor:
        """Return x0hat, clipped to [-clip, clip] if `clip` is given: (B, *event)."""
        return mean if self.clip is None else mean.clamp(-self.clip, self.clip)

    def mixed(self, mean: Tensor, c_0: Tensor, x_t: Tensor, c_t: Tensor) -> Tensor:
        """Return `c_0 clipped(x0hat) + c_t x_t` as a new tensor (B, *event). The coefficients have shape ()."""
        x_s = mean * c_0 if self.clip is None else self.clipped(mean).mul_(c_0)
        return x_s.addcmul_(x_t, c_t)

    def noisy(self, x: Tensor, std: Tensor, state: State) -> Tensor:
        """Add `std z` to x (B, *event) in place and return x. z is standard normal noise; std is () or (B, *event)."""
        return x.addcmul_(state.randomness.normal(x.shape, x.dtype, x.device), std)

    def finish(self, state: State, **cond: Tensor) -> State:
        """Make the last step t_min -> 0 without noise: x_0 = x0hat(x_tmin), with one network call."""
        posterior, state = self.evaluate(state, state.t, **cond)
        return replace(state, x=self.clipped(posterior.mean), t=torch.zeros_like(state.t))
